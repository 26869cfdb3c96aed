#![allow(clippy::unwrap_used)]

use model::Rules;
use proptest::prelude::*;
use prost_types::Timestamp;
use proto::decisions::{Decision, Verdict};
use service::{Scopes, Tenant};

use super::*;

const DAY_SECONDS: i64 = 86_400;

/// 2026-01-31T00:00:00Z.
const AT: i64 = 1_769_817_600;

fn caller() -> Caller {
    let rules = Rules::default();
    let tenant = Tenant {
        name: "t".into(),
        edition: service::settings::edition_of(&rules).into(),
        rules: rules.into(),
        time_zone: jiff::tz::TimeZone::UTC,
        quota: None,
    };
    Caller::new(Arc::new(tenant), "key", Scopes::default())
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

fn touch(seconds: i64) -> Event {
    Event { event_type: EventType::Click.into(), timestamp: at(seconds), ..Event::default() }
}

fn request() -> DecideRequest {
    DecideRequest {
        conversion: Some(Event { timestamp: at(AT), value: "10".into(), ..Event::default() }),
        touches: vec![touch(AT - 8 * DAY_SECONDS), touch(AT - 7 * DAY_SECONDS), touch(AT), touch(AT + 1)],
        earlier_conversions: Vec::new(),
    }
}

fn decided(request: DecideRequest) -> Result<Decision> {
    let case = case(request, &caller())?;
    decision::make(case, &Rules::default(), &Scoring::Off)
        .map_err(|error| Error::invalid(error.to_string()).field("value", ""))
}

fn refused(change: impl FnOnce(&mut DecideRequest)) -> String {
    let mut wrong = request();
    change(&mut wrong);
    decided(wrong).unwrap_err().violations()[0].field.clone()
}

#[test]
fn a_journey_is_decided_with_defaults_for_what_is_absent() {
    let decision = decided(request()).unwrap();
    let conversion = decision.conversion.unwrap();
    assert_eq!(
        [conversion.event_id, conversion.app_id, conversion.conversion, conversion.currency],
        ["conversion", "default", "conversion", "EUR"]
    );
    let verdicts: Vec<Verdict> = decision.candidates.iter().map(|c| c.verdict()).collect();
    assert_eq!(
        verdicts,
        [Verdict::OutsideWindow, Verdict::Eligible, Verdict::Eligible, Verdict::AfterConversion]
    );
    assert_eq!(decision.winner.unwrap().event_id, "touch-2");
    assert!(decision.editions.is_empty());
}

#[test]
fn every_field_that_is_wrong_is_named() {
    let past = Timestamp { seconds: i64::MAX, nanos: 0 };
    assert_eq!(refused(|r| r.conversion = None), "conversion");
    assert_eq!(refused(|r| r.conversion.as_mut().unwrap().timestamp = None), "conversion.timestamp");
    assert_eq!(refused(|r| r.conversion.as_mut().unwrap().timestamp = Some(past)), "conversion.timestamp");
    assert_eq!(
        refused(|r| r.conversion.as_mut().unwrap().set_event_type(EventType::Click)),
        "conversion.event_type"
    );
    assert_eq!(refused(|r| r.touches[1].timestamp = None), "touches[1].timestamp");
    assert_eq!(refused(|r| r.touches[1].timestamp = Some(past)), "touches[1].timestamp");
    let negative = Some(Timestamp { seconds: AT, nanos: -1 });
    assert_eq!(refused(|r| r.touches[1].timestamp = negative), "touches[1].timestamp");
    assert_eq!(refused(|r| r.touches[0].set_event_type(EventType::Activity)), "touches[0].event_type");
    assert_eq!(refused(|r| r.touches[0].event_id = "touch-1".into()), "touches");
    assert_eq!(refused(|r| r.earlier_conversions = vec![past]), "earlier_conversions[0]");
    assert_eq!(refused(|r| r.conversion.as_mut().unwrap().value = "1e3".into()), "value");
}

#[test]
fn lists_hold_at_their_bound_and_not_one_past_it() {
    let touches = |count: i64| (0..count).map(|second| touch(AT - second)).collect::<Vec<_>>();
    let most = DECIDE_EVENTS_MAX as i64;
    let decision = decided(DecideRequest { touches: touches(most), ..request() }).unwrap();
    assert_eq!((decision.candidates.len(), decision.truncated), (DECIDE_EVENTS_MAX, false));
    assert_eq!(refused(|r| r.touches = touches(most + 1)), "touches");
    let earlier = |count| vec![at(AT - 1).unwrap(); count];
    decided(DecideRequest { earlier_conversions: earlier(DECIDE_EVENTS_MAX), ..request() }).unwrap();
    assert_eq!(refused(|r| r.earlier_conversions = earlier(DECIDE_EVENTS_MAX + 1)), "earlier_conversions");
}

fn any_time() -> impl Strategy<Value = Option<Timestamp>> {
    let seconds = prop_oneof![
        4 => AT - 100 * DAY_SECONDS..AT + DAY_SECONDS,
        1 => any::<i64>(),
        1 => prop::sample::select(vec![i64::MIN, i64::MAX, 253_402_207_200, -377_705_023_201, 0]),
    ];
    let nanos = prop_oneof![4 => 0..1_000_000_000, 1 => any::<i32>()];
    prop::option::weighted(0.95, (seconds, nanos).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos }))
}

fn any_event() -> impl Strategy<Value = Event> {
    let value = prop_oneof![Just(String::new()), Just("-0.5".into()), Just("9000000000000".into()), ".{0,8}"];
    (any_time(), -1..7_i32, "[a-c]{0,2}", "(default|app|)", value, ".{0,4}").prop_map(
        |(timestamp, event_type, event_id, app_id, value, channel)| Event {
            timestamp,
            event_type,
            event_id,
            app_id,
            value,
            channel,
            ..Event::default()
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_asked_is_refused_by_name_or_decided_to_the_last_micro(
        conversion in prop::option::weighted(0.95, any_event()),
        touches in prop::collection::vec(any_event(), 0..6),
        earlier in prop::collection::vec(any_time(), 0..3),
    ) {
        let earlier_conversions = earlier.into_iter().flatten().collect();
        let asked = DecideRequest { conversion, touches, earlier_conversions };
        match decided(asked) {
            Err(error) => {
                prop_assert_eq!(error.status(), 400);
                prop_assert!(!error.violations().is_empty());
            }
            Ok(decision) => {
                let value = decision.conversion.unwrap().value;
                let value = model::money::parse_micros(&value).unwrap();
                for credit in &decision.credit {
                    let sum = |of: fn(&proto::decisions::TouchCredit) -> i64| credit.touches.iter().map(of).sum::<i64>();
                    prop_assert_eq!(sum(|touch| touch.conversion_micros), 1_000_000);
                    prop_assert_eq!(sum(|touch| touch.value_micros), value);
                }
            }
        }
    }
}
