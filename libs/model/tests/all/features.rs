//! Features of scores: what is counted, what is compared, and what is not told because it is not known.

use model::{
    TouchKind,
    features::{Converted, Engagement, NAMES, features},
    traffic::{PARTNER_DAYS_MAX, SCANNED_TOUCHES_MAX, Traffic},
};

use crate::common::{DAY, HOUR, MINUTE, NOW};

fn click(device: &str, time_millis: i64) -> Engagement<'_> {
    Engagement {
        tenant: "t",
        kind: TouchKind::Click,
        time_millis,
        device,
        ip: "10.1.2.3",
        user_agent: "Mozilla/5.0 (Linux; Android 14)",
        country: "DE",
        partner: "p",
        sub_publisher: "s",
    }
}

fn conversion() -> Converted<'static> {
    Converted {
        time_millis: NOW + 100_500,
        install_begin_millis: None,
        user_agent: "App/1 (iPhone)",
        country: "FR",
    }
}

fn feature(name: &str, traffic: &Traffic, touch: &Engagement<'_>, conversion: &Converted<'_>) -> Option<f64> {
    features(traffic, touch, conversion)[NAMES.iter().position(|other| *other == name).unwrap()]
}

/// Of a click now.
fn now(name: &str, traffic: &Traffic) -> Option<f64> {
    feature(name, traffic, &click("d", NOW), &conversion())
}

fn traffic(touches: &[Engagement<'_>]) -> Traffic {
    let mut traffic = Traffic::new(usize::MAX);
    touches.iter().for_each(|touch| traffic.touch(touch));
    traffic
}

#[test]
fn a_window_ends_at_the_touch_and_does_not_reach_what_is_as_long_ago() {
    for (name, window) in [
        ("device_clicks_1h", HOUR),
        ("device_clicks_24h", DAY),
        ("ip_prefix_clicks_1m", MINUTE),
        ("ip_prefix_clicks_1h", HOUR),
        ("ip_prefix_clicks_24h", DAY),
        ("sub_publisher_clicks_1m", MINUTE),
        ("sub_publisher_clicks_1h", HOUR),
        ("sub_publisher_clicks_24h", DAY),
    ] {
        let times = [NOW - window, NOW - window + 1, NOW, NOW + 1];
        let touches = times.map(|time| click("d", time));
        assert_eq!(now(name, &traffic(&touches)), Some(2.0), "{name}");
        // The order in which they came in does not matter.
        let mut reversed = touches;
        reversed.reverse();
        assert_eq!(now(name, &traffic(&reversed)), Some(2.0), "{name}");
    }
}

#[test]
fn what_belongs_to_others_is_not_counted() {
    let own = click("d", NOW);
    let impression = Engagement { kind: TouchKind::Impression, ..own };
    let visit = Engagement { kind: TouchKind::Visit, ..own };
    let stranger = Engagement { tenant: "other", ..own };
    let neighbour = Engagement { ip: "10.1.2.255", device: "e", sub_publisher: "other", ..own };
    let far = Engagement { ip: "10.1.3.3", device: "e", partner: "other", ..own };
    let seen = traffic(&[own, impression, visit, stranger, neighbour, far]);
    assert_eq!(now("device_clicks_24h", &seen), Some(1.0));
    assert_eq!(now("device_impressions_24h", &seen), Some(1.0));
    assert_eq!(now("ip_prefix_clicks_24h", &seen), Some(2.0), "the neighbour's is of the same /24");
    assert_eq!(now("sub_publisher_clicks_24h", &seen), Some(1.0), "a sub-publisher is a partner's");
    let same = Engagement { device: "f", ..impression };
    assert_eq!(now("ip_devices_24h", &traffic(&[own, own, same])), Some(2.0));
    let six = |ip| Engagement { ip, ..own };
    let seen = traffic(&[six("2001:db8:1::1"), six("2001:db8:1:ffff::2"), six("2001:db8:2::1")]);
    let of = |ip| feature("ip_prefix_clicks_24h", &seen, &six(ip), &conversion());
    assert_eq!((of("2001:db8:1::9"), of("2001:db8:2::9")), (Some(2.0), Some(1.0)), "IPv6 by /48");
}

#[test]
fn times_are_told_in_seconds_and_hours_on_a_grid_of_a_thousandth() {
    let none = Traffic::new(0);
    assert_eq!(now("click_to_conversion", &none), Some(100.5));
    // 2026-01-01T00:00:00Z is now; six hours and ten seconds later:
    let later = click("d", NOW + 6 * HOUR + 10_000);
    assert_eq!(feature("hour_of_day", &none, &later, &conversion()), Some(6.003));
    let begun = |begin| Converted { install_begin_millis: begin, ..conversion() };
    let late = |begin| feature("touch_after_install_begin", &none, &click("d", NOW), &begun(begin));
    assert_eq!(late(Some(NOW - 1_500)), Some(1.5));
    assert_eq!(late(Some(NOW + 1_500)), Some(0.0));
    assert_eq!(late(None), None);
    assert_eq!(late(Some(NOW - 90 * DAY)), Some(7_776_000.0));
    assert_eq!(late(Some(NOW - 90 * DAY - 1)), Some(7_776_000.0), "models take no more");
}

#[test]
fn systems_and_countries_are_compared_where_both_are_known() {
    let none = Traffic::new(0);
    let compared = |agents: [&'static str; 2], countries: [&'static str; 2]| {
        let touch = Engagement { user_agent: agents[0], country: countries[0], ..click("d", NOW) };
        let conversion = Converted { user_agent: agents[1], country: countries[1], ..conversion() };
        ["user_agent_mismatch", "country_mismatch"].map(|name| feature(name, &none, &touch, &conversion))
    };
    let android = "Mozilla/5.0 (Linux; Android 14; Pixel 7)";
    assert_eq!(compared([android, "okhttp/4 Android"], ["DE", "DE"]), [Some(0.0), Some(0.0)]);
    assert_eq!(compared([android, "App/1 (iPhone)"], ["DE", "FR"]), [Some(1.0), Some(1.0)]);
    assert_eq!(compared([android, "curl/8"], ["DE", ""]), [None, None]);
    assert_eq!(compared(["", ""], ["", ""]), [None, None]);
}

#[test]
fn a_device_is_new_for_a_day() {
    let share = |touches: &[Engagement<'_>]| now("new_device_share", &traffic(touches));
    let (old, new) = (click("old", NOW - HOUR), click("new", NOW));
    assert_eq!(share(&[Engagement { time_millis: NOW - HOUR - DAY, ..old }, old, new]), Some(0.5));
    assert_eq!(share(&[Engagement { time_millis: NOW - HOUR - DAY + 1, ..old }, old, new]), Some(1.0));
    let shown = Engagement { kind: TouchKind::Impression, time_millis: NOW - 3 * DAY, ..old };
    assert_eq!(share(&[shown, old, new]), Some(0.5), "it was met by an impression");
    assert_eq!(share(&[]), Some(0.0));
}

#[test]
fn what_is_usual_is_that_of_the_seven_days_before() {
    let deviation = |conversions: &[(i64, i64)]| {
        let mut traffic = Traffic::new(0);
        for (delay_seconds, day) in conversions {
            let at = NOW + day * DAY;
            traffic.converted("t", "p", at - delay_seconds * 1_000, at);
        }
        now("partner_deviation", &traffic)
    };
    // Nothing is usual yet: |ln 101.5 - 5| / 1.5.
    let unusual = Some(0.253);
    assert_eq!(deviation(&[]), unusual);
    let days = |count: usize, day: i64| -> Vec<(i64, i64)> {
        (0..count).map(|n| (if n % 2 == 0 { 50 } else { 200 }, day)).collect()
    };
    assert_eq!(deviation(&days(20, -1)), unusual, "twenty are not enough");
    // Logarithms of 51 and 201 in equal numbers: mean 4.6176, spread 0.6857.
    for (day, known) in [(-1, true), (-7, true), (-8, false), (0, false)] {
        assert_eq!(deviation(&days(22, day)), if known { Some(0.004) } else { unusual }, "{day}");
    }
    let always = vec![(100, -1); 30];
    // The spread is at least a thousandth: |ln 101.5 - ln 101| / 0.001.
    assert_eq!(deviation(&always), Some(4.938));
    assert_eq!(deviation(&vec![(1_000, -1); 30]), Some(1_000.0), "models take no more");
}

#[test]
fn a_window_that_begins_before_what_is_known_is_not_told() {
    let mut seen = traffic(&[click("d", NOW)]);
    seen.missing_before(NOW - HOUR + 1);
    assert_eq!(now("device_clicks_1h", &seen), Some(1.0));
    assert_eq!(now("device_clicks_24h", &seen), None);
    assert_eq!(now("new_device_share", &seen), None);
    assert_eq!(now("partner_deviation", &seen), None);
    seen.missing_before(NOW - HOUR + 2);
    assert_eq!(now("device_clicks_1h", &seen), None);
    let unknown = Traffic::unknown();
    let told: Vec<&str> = NAMES.into_iter().filter(|name| now(name, &unknown).is_some()).collect();
    assert_eq!(told, ["click_to_conversion", "user_agent_mismatch", "country_mismatch", "hour_of_day"]);
}

#[test]
fn so_many_touches_are_kept_and_the_earliest_goes() {
    let touches: Vec<Engagement<'_>> = (0..4).map(|n| click("d", NOW - n * 1_000)).collect();
    let keeping = |max| {
        let mut traffic = Traffic::new(max);
        touches.iter().for_each(|touch| traffic.touch(touch));
        traffic
    };
    assert_eq!(now("ip_prefix_clicks_1m", &keeping(4)), Some(4.0));
    let fewer = keeping(3);
    assert_eq!(now("ip_prefix_clicks_1m", &fewer), None, "one of that minute is gone");
    let minute_later = click("d", NOW - 3_000 + MINUTE);
    let later = feature("ip_prefix_clicks_1m", &fewer, &minute_later, &conversion());
    assert_eq!(later, Some(3.0), "of the minute after it nothing is");
    // What is earlier than that is not counted any more either.
    let mut fewer = fewer;
    fewer.touch(&click("d", NOW - 3_001));
    assert_eq!(feature("ip_prefix_clicks_1m", &fewer, &minute_later, &conversion()), Some(3.0));
}

#[test]
fn so_many_touches_of_a_window_are_looked_at_one_by_one() {
    let devices: Vec<String> = (0..=SCANNED_TOUCHES_MAX).map(|n| format!("d{n}")).collect();
    let seen = |count: usize| traffic(&devices[..count].iter().map(|d| click(d, NOW)).collect::<Vec<_>>());
    let max = SCANNED_TOUCHES_MAX as f64;
    assert_eq!(now("ip_devices_24h", &seen(SCANNED_TOUCHES_MAX)), Some(max));
    assert_eq!(now("ip_devices_24h", &seen(SCANNED_TOUCHES_MAX + 1)), Some(max));
    assert_eq!(now("sub_publisher_clicks_24h", &seen(SCANNED_TOUCHES_MAX + 1)), Some(max + 1.0));
}

#[test]
fn so_many_days_of_partners_are_kept_and_the_earliest_goes() {
    let mut traffic = Traffic::new(0);
    for partner in 0..PARTNER_DAYS_MAX {
        traffic.converted("t", &partner.to_string(), NOW - DAY, NOW - DAY);
    }
    assert!(now("partner_deviation", &traffic).is_some());
    traffic.converted("t", "one more", NOW - DAY, NOW - DAY);
    assert_eq!(now("partner_deviation", &traffic), None);
}
