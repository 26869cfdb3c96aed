//! `attribution journey`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    client::Connection,
    out,
    table::{Align, Table, plain, thousands},
};

/// The events of a page, and how long a page is asked for.
const PAGE_EVENTS: u32 = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Show the touches, conversions and identities of a person, oldest first.
///
/// Any one identity finds the person: all that appeared together in events are one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  attribution journey --user-id u-17
  attribution journey --device-id 6f1c-4711 --json")]
pub(crate) struct Journey {
    #[command(flatten)]
    identity: Identity,
    /// Answer in JSON: all pages as one
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Identity {
    /// By user id
    #[arg(long, value_name = "ID")]
    user_id: Option<String>,
    /// By device id
    #[arg(long, value_name = "ID")]
    device_id: Option<String>,
    /// By cookie id
    #[arg(long, value_name = "ID")]
    cookie_id: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Page {
    person_id: String,
    identities: Vec<OneIdentity>,
    shared: bool,
    events: Vec<Map<String, Value>>,
    #[serde(default, skip_serializing)]
    next_page_token: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct OneIdentity {
    kind: String,
    value: String,
}

impl Journey {
    pub(crate) async fn run(self) -> Result<()> {
        let client = self.connection.client()?;
        let Identity { user_id, device_id, cookie_id } = &self.identity;
        let identities = [("user_id", user_id), ("device_id", device_id), ("cookie_id", cookie_id)];
        let given: Vec<_> =
            identities.into_iter().filter_map(|(name, id)| Some((name, id.as_deref()?))).collect();
        let limit = PAGE_EVENTS.to_string();
        let mut whole: Option<Page> = None;
        loop {
            let token = whole.as_ref().map_or("", |page| page.next_page_token.as_str()).to_owned();
            let request = || {
                let request = client.get("/v1/journeys").query(&given).query(&[("limit", &limit)]);
                if token.is_empty() { request } else { request.query(&[("page_token", &token)]) }
            };
            let page: Page = client.persist(PATIENCE, |_| false, request).await?.json()?;
            match &mut whole {
                None => whole = Some(page),
                Some(whole) => {
                    whole.events.extend(page.events);
                    whole.next_page_token = page.next_page_token;
                }
            }
            let Some(whole) = whole.as_ref().filter(|whole| whole.next_page_token.is_empty()) else {
                continue;
            };
            return match self.json {
                true => out::line(serde_json::to_string(whole)?),
                false => out::data(whole.show(out::data_colours()).as_bytes()),
            };
        }
    }
}

// === impl Page ===

impl Page {
    fn show(&self, colours: bool) -> String {
        use Align::{Left, Right};
        let mut text = format!("person {}\n", plain(&self.person_id));
        for identity in &self.identities {
            text.push_str(&plain(&format!("  {} {}", identity.kind, identity.value)));
            text.push('\n');
        }
        if self.shared {
            text.push_str("  shared by too many identities: none of its links is followed\n");
        }
        let columns = ["time", "event", "kind", "channel", "campaign"].map(|name| (name, Left));
        let mut table = Table::new(columns.into_iter().chain([("value", Right), ("", Left)]));
        for event in &self.events {
            let field = |name| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let kind = match field("conversion").as_str() {
                "" => field("event_type"),
                name => format!("conversion: {name}"),
            };
            table.row([
                field("timestamp"),
                field("event_id"),
                kind,
                field("channel"),
                field("campaign_id"),
                thousands(&field("value")),
                field("currency"),
            ]);
        }
        text.push('\n');
        text + &table.render(colours)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_journey_shows_its_identities_and_events() {
        let page: Page = serde_json::from_value(serde_json::json!({
            "person_id": "9f", "shared": false, "identities": [{"kind": "user_id", "value": "u\u{7}"}],
            "events": [{"event_id": "c", "event_type": "conversion", "conversion": "purchase",
                "timestamp": "2026-01-01T00:00:00Z", "value": "1250.5", "currency": "EUR"}],
        }))
        .unwrap();
        let text = page.show(false);
        assert!(text.contains("  user_id u\\u{7}\n"), "{text}");
        assert!(text.ends_with("conversion: purchase                     1,250.5  EUR\n"), "{text}");
    }
}
