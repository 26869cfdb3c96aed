//! What the clients know of their events, and what the platform must therefore answer.
//!
//! A person has two touches and one conversion whose name is the person's own, so that each person is a row of a report:
//! one conversion, and the touches that led to it.

use std::{collections::BTreeMap, ops::Range};

use rand::{RngExt as _, rngs::SmallRng};
use serde_json::{Value, json};
use testkit::process::{Answer, Client, Platform};

/// What became of a request's events, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Answered as durable.
    Acknowledged,
    /// Not answered; to be sent again.
    Open,
    /// Not answered, and never sent again.
    Abandoned,
}

/// A request: its events, and what became of them.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) events: Value,
    pub(crate) fate: Fate,
}

/// The requests of every person.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) persons: BTreeMap<String, Vec<Request>>,
}

pub(crate) const TOUCHES: usize = 2;

/// Days of January that persons come on: a report has at most 100,000 rows, one of a day has few of them.
const DAYS: Range<u32> = 1..29;

/// The requests of a person: both touches, the conversion, in either order.
pub(crate) fn requests(person: &str, rng: &mut SmallRng, padding: usize) -> [Value; 2] {
    let day = DAYS.start + person.bytes().map(u32::from).sum::<u32>() % (DAYS.end - DAYS.start);
    let text: String = (0..padding).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
    let event = |suffix: &str, kind: &str, minute: u32| {
        let mut event = json!({
            "event_id": format!("{person}.{suffix}"), "event_type": kind, "user_id": person,
            "timestamp": format!("2026-01-{day:02}T10:{minute:02}:00Z"),
        });
        if padding > 0 {
            event["properties"] = json!({ "text": text });
        }
        event
    };
    let mut conversion = event("c", "conversion", 50);
    conversion["conversion"] = person.into();
    let mut touches = json!([event("t0", "click", 1), event("t1", "visit", 2)]);
    // Two identities to be linked; with more partitions than one they may lie in different ones.
    touches[0]["device_id"] = format!("{person}.device").into();
    let both = [touches, json!([conversion])];
    if rng.random() { both } else { both.into_iter().rev().collect::<Vec<_>>().try_into().unwrap() }
}

/// Whether a request was acknowledged: every item of it accepted, or known from before.
pub(crate) fn acknowledged(answer: &Answer) -> bool {
    if answer.status == 503 {
        assert!(answer.headers.contains_key("retry-after"), "{}", answer.body);
        return false;
    }
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["rejected"], 0, "{}", answer.body);
    true
}

impl Ledger {
    pub(crate) fn add(&mut self, person: String, request: Request) {
        self.persons.entry(person).or_default().push(request);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (person, requests) in other.persons {
            self.persons.entry(person).or_default().extend(requests);
        }
    }

    /// How many requests were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        let all = self.persons.values().flatten();
        all.filter(|request| request.fate == Fate::Acknowledged).count()
    }

    /// Sends what is open again, with the same ids, and some of what was acknowledged, which must be known.
    pub(crate) async fn resend(&mut self, client: &Client, rng: &mut SmallRng) {
        self.send_again(client, rng, |duplicate, events| duplicate == events).await;
    }

    /// The same where an id may have been forgotten: its repeat is accepted, and must not be counted.
    pub(crate) async fn resend_forgotten(&mut self, client: &Client, rng: &mut SmallRng) {
        self.send_again(client, rng, |duplicate, events| duplicate <= events).await;
    }

    async fn send_again(&mut self, client: &Client, rng: &mut SmallRng, known: impl Fn(u64, u64) -> bool) {
        let sampled = (20.0 / self.acknowledged().max(1) as f64).min(1.0);
        for request in self.persons.values_mut().flatten() {
            if request.fate == Fate::Abandoned
                || request.fate == Fate::Acknowledged && !rng.random_bool(sampled)
            {
                continue;
            }
            let answer = client.post("/v1/events", &request.events).await.unwrap();
            assert!(acknowledged(&answer), "{}", answer.body);
            let (duplicate, events) = (answer.body["duplicate"].as_u64(), request.events.as_array());
            let (duplicate, events) = (duplicate.unwrap(), events.unwrap().len() as u64);
            assert!(request.fate == Fate::Open || known(duplicate, events), "{}", answer.body);
            request.fate = Fate::Acknowledged;
        }
    }

    /// Every acknowledged event is in the report exactly once, and no other twice.
    pub(crate) async fn check_report(&self, platform: &Platform) {
        let wrong = self.wrong(platform).await;
        assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), platform.log());
    }

    /// What the report says otherwise than the ledger.
    pub(crate) async fn wrong(&self, client: &Client) -> Vec<String> {
        let mut rows: BTreeMap<String, (f64, u64)> = BTreeMap::new();
        let mut spans = vec![DAYS];
        while let Some(days) = spans.pop() {
            let report = client.report(&question(&days)).await;
            if report["truncated"].as_bool().unwrap() {
                let middle = days.start.midpoint(days.end);
                assert!(days.start < middle, "more than a report of one day can have");
                spans.extend([days.start..middle, middle..days.end]);
                continue;
            }
            for row in report["rows"].as_array().unwrap() {
                let name = row["conversion"].as_str().unwrap().to_owned();
                let counts = (row["conversions"].as_f64().unwrap(), row["touches"].as_u64().unwrap());
                assert!(rows.insert(name, counts).is_none(), "one row of a name: {row}");
            }
        }
        let mut wrong = Vec::new();
        for (person, requests) in &self.persons {
            let (least, most) = bounds(requests, "conversion");
            let found = rows.remove(person.as_str());
            let (conversions, touches) = found.unwrap_or_default();
            let counted = conversions == least as f64 || conversions == most as f64;
            let (least, most) = bounds(requests, "touch");
            let led = found.is_none() || (least..=most).contains(&(touches as usize));
            if !counted || !led {
                wrong.push(format!("{person}: {conversions} conversions, {touches} touches of {requests:?}"));
            }
        }
        wrong.extend(rows.into_iter().map(|(name, counts)| format!("nobody sent {name}: {counts:?}")));
        wrong
    }

    /// Every acknowledged event is in the person's journey exactly once, and no other twice.
    pub(crate) async fn check_journeys(&self, client: &Client) {
        for (person, requests) in &self.persons {
            let answer = client.get(&format!("/v1/journeys?user_id={person}")).await.unwrap();
            let mut found: BTreeMap<&str, u32> = BTreeMap::new();
            for event in answer.body["events"].as_array().into_iter().flatten() {
                *found.entry(event["event_id"].as_str().unwrap()).or_default() += 1;
            }
            for request in requests {
                for event in request.events.as_array().unwrap() {
                    let count = found.remove(event["event_id"].as_str().unwrap()).unwrap_or(0);
                    let least = u32::from(request.fate == Fate::Acknowledged);
                    assert!((least..=1).contains(&count), "{event} {count} times, {:?}", request.fate);
                }
            }
            assert!(found.is_empty(), "events that nobody sent: {found:?}");
        }
    }
}

/// Everybody who came on these days, a row each.
fn question(days: &Range<u32>) -> Value {
    json!({
        "from": format!("2026-01-{:02}", days.start), "to": format!("2026-01-{:02}", days.end),
        "models": ["linear"], "dimensions": ["conversion"], "measures": ["conversions", "touches"],
        "limit": 100_000,
    })
}

/// How many events of a kind there are at least, and at most.
fn bounds(requests: &[Request], kind: &str) -> (usize, usize) {
    let (mut least, mut most) = (0, 0);
    for request in requests {
        let events = request.events.as_array().unwrap();
        let of_kind =
            events.iter().filter(|event| (event["event_type"] == "conversion") == (kind == "conversion"));
        let count = of_kind.count();
        most += count;
        least += if request.fate == Fate::Acknowledged { count } else { 0 };
    }
    assert!(most <= TOUCHES);
    (least, most)
}
