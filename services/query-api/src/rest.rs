//! The service over REST.

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;
use service::{Caller, Error, Scope, body};

use crate::{
    answer, api::Api, fault::Faults, journey, openapi, parse, render, spec::CONSISTENCY_ACKNOWLEDGED,
};

/// Says in a CSV answer whether there were more rows than the limit.
pub(crate) const TRUNCATED: HeaderName = HeaderName::from_static("x-truncated");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CSV: HeaderValue = HeaderValue::from_static("text/csv; charset=utf-8; header=present");

type Parameters = Query<Vec<(String, String)>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
}

/// The routes that need a key.
pub(crate) fn routes(api: Api, body_bytes_max: usize) -> Router {
    let report = move |State(api): State<Api>,
                       caller: Caller,
                       Query(parameters): Parameters,
                       headers: HeaderMap,
                       body: Body| async move {
        report(&api, &caller, &parameters, &headers, body, body_bytes_max).await
    };
    Router::new()
        .route("/v1/reports", post(report))
        .route("/v1/conversions/{event_id}", get(conversion))
        .route("/v1/journeys", get(get_journey))
        .route("/v1/settings/{edition}", get(edition))
        .with_state(api)
}

/// The routes open to all.
pub(crate) fn open_routes() -> Router {
    let document = openapi::text();
    Router::new().route("/openapi.json", get(move || async move { json(document) }))
}

async fn report(
    api: &Api,
    caller: &Caller,
    parameters: &[(String, String)],
    headers: &HeaderMap,
    body: Body,
    body_bytes_max: usize,
) -> Result<Response, Error> {
    // Before the question is looked at: whoever may not ask learns nothing from how it is refused.
    caller.require(Scope::Read)?;
    expect_json(headers)?;
    let (format, consistency) = report_parameters(parameters, headers)?;
    let body = body::read(headers, body, body_bytes_max).await?;
    let mut request = parse::report(&body)?;
    request.consistency = consistency;
    let (answer, columns) = api.report(caller, request).await?;
    match format {
        Format::Json => Ok(json(answer::json(&answer, &columns)?)),
        Format::Csv => {
            let truncated = HeaderValue::from_static(if answer.truncated { "true" } else { "false" });
            let rows = answer::csv(&answer, &columns)?;
            Ok(([(header::CONTENT_TYPE, CSV), (TRUNCATED, truncated)], rows).into_response())
        }
    }
}

async fn conversion(
    State(api): State<Api>,
    caller: Caller,
    Path(event_id): Path<String>,
) -> Result<Response, Error> {
    let decision = api.conversion(&caller, &event_id).await?;
    value(&render::decision(&decision))
}

async fn get_journey(
    State(api): State<Api>,
    caller: Caller,
    Query(parameters): Parameters,
) -> Result<Response, Error> {
    caller.require(Scope::Read)?;
    let request = journey::request(&parameters)?;
    value(&journey::render(&api.journey(&caller, request).await?))
}

async fn edition(
    State(api): State<Api>,
    caller: Caller,
    Path(edition): Path<String>,
) -> Result<Response, Error> {
    Ok(json(service::settings::canonical_json(&*api.edition(&caller, &edition)?)))
}

fn report_parameters(
    parameters: &[(String, String)],
    headers: &HeaderMap,
) -> Result<(Format, String), Error> {
    let mut faults = Faults::default();
    let mut format = None;
    let mut consistency = String::new();
    for (index, (name, value)) in parameters.iter().enumerate() {
        if parameters[..index].iter().any(|(earlier, _)| earlier == name) {
            faults.add(name, "is given twice");
            continue;
        }
        match (name.as_str(), value.as_str()) {
            ("format", "json") => format = Some(Format::Json),
            ("format", "csv") => format = Some(Format::Csv),
            ("format", _) => faults.add("format", "must be json or csv"),
            ("consistency", CONSISTENCY_ACKNOWLEDGED) => consistency = CONSISTENCY_ACKNOWLEDGED.into(),
            ("consistency", _) => faults.add("consistency", format!("must be {CONSISTENCY_ACKNOWLEDGED}")),
            (name, _) => faults.add(parse::clip(name), "unknown parameter; one of format, consistency"),
        }
    }
    faults.or((format.unwrap_or_else(|| accepted(headers)), consistency))
}

/// The format that the caller likes best; JSON where neither is named.
fn accepted(headers: &HeaderMap) -> Format {
    let mut best = (0.0, Format::Json);
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in ranges.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let format = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "text/csv" => Format::Csv,
            "application/json" | "application/*" | "*/*" => Format::Json,
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f64>().ok()).unwrap_or(1.0);
        if quality > best.0 {
            best = (quality, format);
        }
    }
    best.1
}

// A body without a type is taken for what it must be.
fn expect_json(headers: &HeaderMap) -> Result<(), Error> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = given.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Error::unsupported_media_type("send a report as application/json"))
}

fn value(value: &Value) -> Result<Response, Error> {
    Ok(json(serde_json::to_vec(value).map_err(Error::internal)?))
}

fn json(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, JSON)], body.into()).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        [(header::ACCEPT, HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn the_format_follows_accept_unless_it_is_named() {
        for (value, format) in [
            ("text/csv", Format::Csv),
            ("TEXT/CSV; charset=utf-8", Format::Csv),
            ("application/json", Format::Json),
            ("*/*", Format::Json),
            ("text/html", Format::Json),
            ("text/csv;q=0.5, application/json", Format::Json),
            ("application/json;q=0.5, text/csv", Format::Csv),
            ("text/csv, */*;q=0.1", Format::Csv),
        ] {
            assert_eq!(accepted(&accept(value)), format, "{value}");
        }
        let named = [("format".to_owned(), "json".to_owned())];
        assert_eq!(report_parameters(&named, &accept("text/csv")).unwrap().0, Format::Json);
    }

    #[test]
    fn unknown_and_repeated_parameters_are_named() {
        for (query, field) in [
            (&[("fromat", "csv")][..], "fromat"),
            (&[("format", "xml")], "format"),
            (&[("format", "csv"), ("format", "csv")], "format"),
            (&[("consistency", "eventual")], "consistency"),
        ] {
            let query: Vec<_> = query.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let error = report_parameters(&query, &HeaderMap::new()).unwrap_err();
            assert_eq!(error.violations()[0].field, field);
        }
    }
}
