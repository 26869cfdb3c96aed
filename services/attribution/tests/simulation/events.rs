//! Random events of two tenants that share every id and every name.

use proto::events::{Event, EventType};
use rand::{RngExt, rngs::SmallRng};
use testkit::plain::{DAY, Platform, Settings};

/// 2026-01-05T00:00:00Z: forty days from here reach into a second month.
const BEGIN_MILLIS: i64 = 1_767_571_200_000;

pub const TENANTS: [&str; 2] = ["a", "b"];

/// The settings of both tenants: `b` looks at time alone, cuts paths at a purchase and rejects fraud.
pub const SETTINGS: &str = r#"
version = 1
[tenants.a]
currency = "EUR"
[[tenants.a.keys]]
name = "unused"
sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
scopes = ["ingest"]
[tenants.b]
currency = "EUR"
[[tenants.b.keys]]
name = "unused"
sha256 = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
scopes = ["ingest"]
[tenants.b.precedence]
order = ["latest"]
[tenants.b.conversions.purchase]
cut_at_previous = true
[tenants.b.fraud]
reject = ["click_to_install", "after_install_begin", "cap_minutes"]
caps.minutes = { period = "1m", touches = 2 }
"#;

/// The plain model under the same settings.
pub fn platform() -> Platform {
    let mut platform = Platform::default();
    let reject = ["click_to_install", "after_install_begin", "cap_minutes"].map(str::to_owned).to_vec();
    let settings = Settings {
        order: Vec::new(),
        cut_at_previous: vec!["purchase".to_owned()],
        reject,
        caps: vec![("cap_minutes".to_owned(), 60_000, 2)],
        ..Settings::default()
    };
    platform.set("b", settings);
    platform
}

/// Tenant and event.
pub type Sent = (&'static str, Event);

/// So many events of each tenant; in some worlds, a kiosk that links more identities than a person may have.
pub fn random(rng: &mut SmallRng, each: usize) -> Vec<Sent> {
    let mut events = Vec::new();
    for tenant in TENANTS {
        events.extend((0..each).map(|number| (tenant, event(rng, number))));
    }
    if rng.random_bool(0.1) {
        let links = rng.random_range(90..105);
        events.extend(kiosk(rng, links));
    }
    events
}

/// Devices that are linked to one user: about a hundred is the limit.
pub fn kiosk(rng: &mut SmallRng, links: usize) -> Vec<Sent> {
    let link = |number: usize| {
        let mut link = event(rng, 10_000 + number);
        (link.device_id, link.cookie_id) = (format!("kiosk{number}"), String::new());
        "u0".clone_into(&mut link.user_id);
        ("a", link)
    };
    (0..links).map(link).collect()
}

/// More touches of one device than a journey may have, and some conversions.
pub fn long(rng: &mut SmallRng) -> Vec<Sent> {
    let touch = |number: usize| {
        let mut event = event(rng, 20_000 + number);
        let kind = if number.is_multiple_of(350) { EventType::Conversion } else { EventType::Click };
        if kind == EventType::Conversion {
            "purchase".clone_into(&mut event.conversion);
            "EUR".clone_into(&mut event.currency);
            (event.value, event.channel) = (number.to_string(), String::new());
        } else {
            (event.conversion, event.currency, event.value) = <(String, String, String)>::default();
            event.install_begin = None;
        }
        event.event_type = kind.into();
        let at = BEGIN_MILLIS + number as i64 % 1_100 * 1_000;
        event.timestamp = Some(timestamp(at));
        (event.device_id, event.cookie_id, event.user_id) = ("long".to_owned(), String::new(), String::new());
        ("a", event)
    };
    (0..1_100).map(touch).collect()
}

fn timestamp(millis: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: millis / 1_000, nanos: (millis % 1_000) as i32 * 1_000_000 }
}

fn event(rng: &mut SmallRng, number: usize) -> Event {
    let kind = match rng.random_range(0..20) {
        0..6 => EventType::Click,
        6..9 => EventType::Impression,
        9..12 => EventType::Visit,
        12..14 => EventType::Activity,
        _ => EventType::Conversion,
    };
    // Few distinct moments, so that times meet and windows are met at their ends.
    let at = BEGIN_MILLIS + rng.random_range(0..160) * DAY / 4 + rng.random_range(0..2);
    let mut event = Event {
        event_id: format!("e{number}"),
        event_type: kind.into(),
        timestamp: Some(timestamp(at)),
        app_id: if rng.random_bool(0.9) { "default" } else { "other" }.to_owned(),
        ..Event::default()
    };
    identify(rng, &mut event);
    match kind {
        EventType::Conversion => {
            event.conversion = if rng.random_bool(0.7) { "purchase" } else { "install" }.to_owned();
            event.currency = if rng.random_bool(0.8) { "EUR" } else { "CHF" }.to_owned();
            event.value = rng.random_range(-5..50).to_string();
            if number.is_multiple_of(3) {
                event.install_begin = Some(timestamp(at - number as i64 % 7 * DAY / 4));
            }
        }
        EventType::Activity => {}
        _ => event.channel = ["direct", "email", "search", ""][rng.random_range(0..4)].to_owned(),
    }
    event
}

fn identify(rng: &mut SmallRng, event: &mut Event) {
    let which = rng.random_range(0..10);
    if which < 7 {
        event.device_id = format!("d{}", rng.random_range(0..8));
    }
    if (7..9).contains(&which) || which == 0 {
        event.cookie_id = format!("c{}", rng.random_range(0..5));
    }
    if which == 9 || which == 1 {
        event.user_id = format!("u{}", rng.random_range(0..5));
    }
}
