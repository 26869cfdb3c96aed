//! One person's touches and conversions, a page at a time.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use journey_store::{JourneyStore, conceal, event_millis};
use model::{IdentityHash, IdentityKind};
use proto::query::{GetJourneyRequest, GetJourneyResponse, Identity, get_journey_request};
use serde_json::{Map, Value, json};
use service::Error;

use crate::{error, fault::Faults, render};

/// The most events of one page.
pub(crate) const PAGE_EVENTS_MAX: u32 = 1_000;

/// The events of a page when the caller names no number.
pub(crate) const PAGE_EVENTS_DEFAULT: u32 = 100;

/// The longest identity.
pub(crate) const IDENTITY_BYTES_MAX: usize = 128;

/// The longest page token: time, event id and checksum in base64.
pub(crate) const PAGE_TOKEN_BYTES_MAX: usize = 128;

/// The parameters of `GET /v1/journeys`.
pub(crate) const PARAMETERS: [&str; 5] = ["device_id", "cookie_id", "user_id", "limit", "page_token"];

/// A page of a journey of the tenant.
///
/// # Errors
/// Invalid for a wrong parameter, not found for an identity that was never met.
pub(crate) async fn get(
    journeys: &dyn JourneyStore,
    tenant: &str,
    request: GetJourneyRequest,
) -> Result<GetJourneyResponse, Error> {
    let (identity, limit, after) = check(tenant, &request)?;
    let page = journeys
        .page(tenant, identity, after, limit)
        .await
        .map_err(error::store)?
        .ok_or_else(|| Error::not_found("no event with this identity was accepted"))?;
    let mut events = page.events;
    events.iter_mut().for_each(conceal);
    let next_page_token = match events.last() {
        Some(last) if page.more => token(tenant, identity, event_millis(last), &last.event_id),
        _ => String::new(),
    };
    let identity = |(kind, value): (IdentityKind, String)| Identity { kind: kind.field().into(), value };
    Ok(GetJourneyResponse {
        person_id: page.person.to_string(),
        identities: page.identities.into_iter().map(identity).collect(),
        shared: page.shared,
        events,
        next_page_token,
    })
}

/// The parameters of a URL as the message that gRPC sends.
///
/// # Errors
/// Invalid, naming every parameter that is unknown, given twice, or unreadable.
pub(crate) fn request(parameters: &[(String, String)]) -> Result<GetJourneyRequest, Error> {
    use get_journey_request::Identity as Kind;
    let mut faults = Faults::default();
    let mut request = GetJourneyRequest::default();
    for (index, (name, value)) in parameters.iter().enumerate() {
        if parameters[..index].iter().any(|(earlier, _)| earlier == name) {
            faults.add(name, "is given twice");
            continue;
        }
        let identity = match name.as_str() {
            "device_id" => Kind::DeviceId(value.clone()),
            "cookie_id" => Kind::CookieId(value.clone()),
            "user_id" => Kind::UserId(value.clone()),
            "limit" => {
                let limit = value.parse().map_err(|_| bounds());
                request.limit = faults.keep(name, limit);
                continue;
            }
            "page_token" => {
                request.page_token = value.clone();
                continue;
            }
            _ => {
                let known = PARAMETERS.join(", ");
                faults.add(crate::parse::clip(name), format!("unknown parameter; one of {known}"));
                continue;
            }
        };
        if request.identity.replace(identity).is_some() {
            faults.add(name, "give one of device_id, cookie_id and user_id, not several");
        }
    }
    faults.or(request)
}

/// A page as REST writes it.
pub(crate) fn render(page: &GetJourneyResponse) -> Value {
    let identity = |identity: &Identity| json!({ "kind": identity.kind, "value": identity.value });
    let mut out = Map::new();
    out.insert("person_id".into(), page.person_id.as_str().into());
    out.insert("identities".into(), page.identities.iter().map(identity).collect());
    out.insert("shared".into(), page.shared.into());
    out.insert("events".into(), page.events.iter().map(render::event).collect());
    if !page.next_page_token.is_empty() {
        out.insert("next_page_token".into(), page.next_page_token.as_str().into());
    }
    Value::Object(out)
}

type After = Option<(i64, String)>;

fn check(tenant: &str, request: &GetJourneyRequest) -> Result<(IdentityHash, usize, After), Error> {
    use get_journey_request::Identity as Kind;
    let (kind, value) = match &request.identity {
        Some(Kind::DeviceId(value)) => (IdentityKind::Device, value),
        Some(Kind::CookieId(value)) => (IdentityKind::Cookie, value),
        Some(Kind::UserId(value)) => (IdentityKind::User, value),
        None => return Err(Faults::one("device_id", "give one of device_id, cookie_id and user_id")),
    };
    let mut faults = Faults::default();
    if value.is_empty() || value.len() > IDENTITY_BYTES_MAX {
        faults.add(kind.field(), format!("must be 1 to {IDENTITY_BYTES_MAX} bytes"));
    }
    let limit = request.limit.unwrap_or(PAGE_EVENTS_DEFAULT);
    if !(1..=PAGE_EVENTS_MAX).contains(&limit) {
        faults.add("limit", bounds());
    }
    let identity = IdentityHash::new(tenant, kind, value);
    let after = match request.page_token.as_str() {
        "" => None,
        text => {
            let after = read_token(tenant, identity, text);
            if after.is_none() {
                faults.add("page_token", "is not one that was answered to this question; start without it");
            }
            after
        }
    };
    faults.or((identity, limit as usize, after))
}

fn bounds() -> String {
    format!("must be a whole number from 1 to {PAGE_EVENTS_MAX}")
}

// Time (8 bytes, big-endian), event id, checksum (4 bytes, big-endian), in base64.
fn token(tenant: &str, identity: IdentityHash, time_millis: i64, event_id: &str) -> String {
    let mut bytes = time_millis.to_be_bytes().to_vec();
    bytes.extend_from_slice(event_id.as_bytes());
    bytes.extend_from_slice(&checksum(tenant, identity, &bytes).to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_token(tenant: &str, identity: IdentityHash, text: &str) -> After {
    if text.len() > PAGE_TOKEN_BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (rest, sum) = bytes.split_last_chunk::<4>()?;
    let (time, event_id) = rest.split_first_chunk::<8>()?;
    if checksum(tenant, identity, rest) != u32::from_be_bytes(*sum) {
        return None;
    }
    Some((i64::from_be_bytes(*time), String::from_utf8(event_id.to_vec()).ok()?))
}

// Over the question too, so that the token of one journey says nothing about another.
fn checksum(tenant: &str, identity: IdentityHash, bytes: &[u8]) -> u32 {
    let sum = crc32c::crc32c(tenant.as_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(sum, &identity.0), bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn identity(value: &str) -> IdentityHash {
        IdentityHash::new("t", IdentityKind::User, value)
    }

    fn pairs(query: &[(&str, &str)]) -> Vec<(String, String)> {
        query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn fault(query: &[(&str, &str)]) -> Option<String> {
        let checked = request(&pairs(query)).and_then(|request| check("t", &request));
        checked.err().map(|error| error.violations()[0].field.clone())
    }

    #[test]
    fn a_token_reads_back_and_no_changed_bit_passes() {
        for (time, id) in [(0, "a"), (-1, "x:y"), (i64::MAX, &"z".repeat(64)[..])] {
            let text = token("t", identity("u"), time, id);
            assert!(text.len() <= PAGE_TOKEN_BYTES_MAX, "{}", text.len());
            assert_eq!(read_token("t", identity("u"), &text), Some((time, id.to_owned())));
            assert_eq!(read_token("t", identity("v"), &text), None);
            assert_eq!(read_token("s", identity("u"), &text), None);
            let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(
                    read_token("t", identity("u"), &URL_SAFE_NO_PAD.encode(changed)),
                    None,
                    "bit {bit}"
                );
            }
            for cut in 0..text.len() {
                assert_eq!(read_token("t", identity("u"), &text[..cut]), None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn every_bound_holds_and_one_past_it_is_named() {
        let longest = "i".repeat(IDENTITY_BYTES_MAX);
        assert_eq!(fault(&[("user_id", &longest), ("limit", "1000")]), None);
        assert_eq!(fault(&[("cookie_id", "c"), ("limit", "1")]), None);
        let past = "i".repeat(IDENTITY_BYTES_MAX + 1);
        for (query, field) in [
            (&[("user_id", past.as_str())][..], "user_id"),
            (&[("device_id", "")], "device_id"),
            (&[("user_id", "u"), ("limit", "0")], "limit"),
            (&[("user_id", "u"), ("limit", "1001")], "limit"),
            (&[("user_id", "u"), ("limit", "-1")], "limit"),
            (&[("user_id", "u"), ("limit", "many")], "limit"),
            (&[("user_id", "u"), ("page_token", "AAAA")], "page_token"),
            (&[("user_id", "u"), ("page_token", "*")], "page_token"),
            (&[("user_id", "u"), ("offset", "10")], "offset"),
            (&[("user_id", "u"), ("user_id", "v")], "user_id"),
            (&[("user_id", "u"), ("device_id", "d")], "device_id"),
            (&[], "device_id"),
            (&[("limit", "5")], "device_id"),
        ] {
            assert_eq!(fault(query).as_deref(), Some(field), "{query:?}");
        }
    }
}
