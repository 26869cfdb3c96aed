//! `POST /v1/events`.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use service::{Caller, Error, Scope};

use crate::{
    accept::{Acceptor, Answer, Item},
    batch::{Batch, Builder},
    event::EventRef,
    parse::{self, Format, Items},
};

/// The bytes of an event of a body, to guess how many there are.
const EVENT_BYTES_GUESS: usize = 300;

/// The bytes of an item of an answer.
const ITEM_BYTES_GUESS: usize = 96;

#[derive(Clone)]
struct Ingest {
    acceptor: Arc<Acceptor>,
    body_bytes_max: usize,
}

pub(crate) fn routes(acceptor: Arc<Acceptor>, body_bytes_max: usize) -> Router {
    Router::new().route("/v1/events", post(events)).with_state(Ingest { acceptor, body_bytes_max })
}

async fn events(State(ingest): State<Ingest>, request: Request) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let caller = Caller::of(&parts.extensions)?;
    caller.require(Scope::Ingest)?;
    let format = format(&parts.headers)?;
    let body = service::body::read(&parts.headers, body, ingest.body_bytes_max).await?;
    let now_micros = jiff::Timestamp::now().as_microsecond();
    let tenant = caller.tenant();
    let about = 1 + body.len() / EVENT_BYTES_GUESS;
    let batch = ingest.acceptor.batch(tenant, now_micros, about, || parse::count(&body))?;
    let batch = read(&body, format, batch)?;
    drop(body);
    let answer = ingest.acceptor.accept(tenant, batch, now_micros).await?;
    Ok(respond(&answer))
}

fn format(headers: &HeaderMap) -> Result<Format, Error> {
    // Without a type it is read as what most send.
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Format::Json) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(Format::Json)
    } else if essence.eq_ignore_ascii_case("application/x-ndjson") {
        Ok(Format::Lines)
    } else {
        Err(Error::unsupported_media_type("content-type must be application/json or application/x-ndjson"))
    }
}

fn read(body: &[u8], format: Format, mut batch: Builder<'_>) -> Result<Batch, Error> {
    let mut items = Items::new(body, format)?;
    let mut event = EventRef::default();
    while let Some(form) = items.next(&mut event)? {
        batch.push(&event, form)?;
    }
    Ok(batch.finish())
}

fn respond(answer: &Answer) -> Response {
    let status = if answer.all_rejected() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let mut response = Body::from(write(answer)).into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Writes an answer as JSON. Ids and codes need no escapes; fields and reasons may.
fn write(answer: &Answer) -> Vec<u8> {
    let items = answer.items();
    let mut out = Vec::with_capacity(64 + items.len() * ITEM_BYTES_GUESS);
    put(&mut out, &["{\"accepted\":"]);
    number(&mut out, answer.accepted);
    put(&mut out, &[",\"duplicate\":"]);
    number(&mut out, answer.duplicate);
    put(&mut out, &[",\"rejected\":"]);
    number(&mut out, answer.rejected);
    put(&mut out, &[",\"items\":["]);
    for (index, item) in items.enumerate() {
        put(&mut out, &[if index == 0 { "{\"index\":" } else { ",{\"index\":" }]);
        number(&mut out, index);
        match item {
            Item::Accepted(id) => put(&mut out, &[",\"event_id\":\"", id, "\",\"status\":\"accepted\"}"]),
            Item::Duplicate(id) => put(&mut out, &[",\"event_id\":\"", id, "\",\"status\":\"duplicate\"}"]),
            Item::Rejected(id, why) => {
                if let Some(id) = id {
                    put(&mut out, &[",\"event_id\":\"", id, "\""]);
                }
                put(&mut out, &[",\"status\":\"rejected\",\"code\":\"", why.code.name(), "\""]);
                if !why.field.is_empty() {
                    put(&mut out, &[",\"field\":"]);
                    text(&mut out, &why.field);
                }
                put(&mut out, &[",\"reason\":"]);
                text(&mut out, &why.reason);
                put(&mut out, &["}"]);
            }
        }
    }
    put(&mut out, &["]}"]);
    out
}

fn put(out: &mut Vec<u8>, texts: &[&str]) {
    texts.iter().for_each(|text| out.extend_from_slice(text.as_bytes()));
}

fn text(out: &mut Vec<u8>, text: &str) {
    // A string into a vector: neither can fail.
    let _ = serde_json::to_writer(out, text);
}

fn number(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
