#![allow(clippy::unwrap_used)]

use super::*;
use crate::settings::edition_of;

const HASH: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
const OTHER_HASH: &str = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9";

/// A file with one tenant, whose keys and tables follow the first three lines.
fn file(tenant: &str, tables: &str) -> String {
    format!(
        "version = 1\n[tenants.t]\n{tenant}\n[[tenants.t.keys]]\nname = \"k\"\nsha256 = \"{HASH}\"\n\
         scopes = [\"read\"]\n{tables}"
    )
}

/// Line and reason of what is wrong with a text.
fn wrong(text: &str) -> (usize, String) {
    match parse(text) {
        Err(SettingsError::Invalid { line, reason }) => (line, reason),
        other => panic!("{other:?} for\n{text}"),
    }
}

fn rules(tenant: &str, tables: &str) -> Arc<Rules> {
    parse(&file(tenant, tables)).unwrap().tenant("t").unwrap().rules.clone()
}

#[test]
fn the_contracts_example_is_read_whole() {
    let text = format!(
        r#"version = 1

[tenants.default]
currency = "EUR"
time_zone = "UTC"
quota_events_per_second = 100_000
quota_burst_events = 200_000

[[tenants.default.keys]]
name = "first key"
sha256 = "{HASH}"
scopes = ["ingest", "read", "admin"]
expires = 2999-01-01T00:00:00Z

[tenants.default.windows]
click = "7d"
impression = "24h"
visit = "30d"

[[tenants.default.windows.override]]
partner = "example-network"
conversion = "install"
click = "30d"

[tenants.default.precedence]
order = ["click", "impression", "visit"]
direct_channels = ["direct"]

[tenants.default.conversions.purchase]
cut_at_previous = false
"#
    );
    let settings = parse(&text).unwrap();
    let tenant = settings.tenant("default").unwrap();
    let quota = tenant.quota.unwrap();
    assert_eq!((quota.events_per_second.get(), quota.burst_events.get()), (100_000, 200_000));
    let day = 86_400_000;
    assert_eq!(tenant.rules.windows.click, 7 * day);
    assert_eq!(tenant.rules.windows.impression, day);
    assert_eq!(tenant.rules.windows.visit, 30 * day);
    let first = &tenant.rules.windows.overrides[0];
    assert_eq!(first.partner.as_deref(), Some("example-network"));
    assert_eq!((first.click, first.impression), (Some(30 * day), None));
    assert!(!tenant.rules.conversions["purchase"].cut_at_previous);
    // "foo" is what the hash is of.
    let key = settings.authenticate(b"foo").unwrap();
    assert_eq!((&*key.name, &*key.tenant.name), ("first key", "default"));
    assert_eq!(key.scopes, Scopes::ALL);
    assert!(settings.authenticate(b"bar").is_none());
}

#[test]
fn what_is_not_said_is_the_default() {
    assert_eq!(*rules("", ""), Rules::default());
    assert!(parse(&file("", "")).unwrap().tenant("t").unwrap().quota.is_none());
    let quota = parse(&file("quota_events_per_second = 5", "")).unwrap().tenant("t").unwrap().quota.unwrap();
    assert_eq!(quota.burst_events.get(), 5);
}

#[test]
fn latest_alone_ignores_the_kind() {
    for order in ["\"latest\"", "[\"latest\"]"] {
        let rules = rules("", &format!("[tenants.t.precedence]\norder = {order}\n"));
        assert!(rules.precedence.order.is_empty());
    }
}

#[test]
fn windows_are_taken_at_their_bounds_and_refused_one_past_them() {
    for (window, millis) in [("0m", 0), ("90d", 7_776_000_000_i64), ("2160h", 7_776_000_000)] {
        let rules = rules("", &format!("[tenants.t.windows]\nclick = \"{window}\"\n"));
        assert_eq!(rules.windows.click, millis, "{window}");
    }
    for window in ["91d", "2161h", "129601m", "-1m", "7", "7w", ""] {
        let (line, _) = wrong(&file("", &format!("[tenants.t.windows]\nclick = \"{window}\"\n")));
        assert_eq!(line, 9, "{window}");
    }
}

#[test]
fn every_error_names_its_line_and_reason() {
    let tenant = |line: &str| file(line, "");
    let table = |lines: &str| file("", lines);
    let long_name = "x".repeat(65);
    let key = |name: &str, hash: &str, rest: &str| {
        format!("[[tenants.t.keys]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{rest}\n")
    };
    let read = "scopes = [\"read\"]";
    for (text, line, reason) in [
        ("version = 1\nx = [".into(), 2, "array"),
        (format!("version = 2\n{}", file("", "").split_once('\n').unwrap().1), 1, "version = 1"),
        ("version = 1\n[tenants]\n".into(), 2, "at least one tenant"),
        ("version = 1\n".into(), 1, "tenants"),
        ("version = 1\n[tenants.t]\n".into(), 2, "no key"),
        ("version = 1\n[tenants.t]\nkeys = []\n".into(), 2, "no key"),
        (tenant("colour = 1"), 3, "colour"),
        (tenant("currency = \"EURO\""), 3, "ISO 4217"),
        (tenant("currency = \"eur\""), 3, "ISO 4217"),
        (tenant("time_zone = \"Mars/Base\""), 3, "IANA"),
        (tenant("quota_events_per_second = 0"), 3, "zero"),
        (tenant("quota_events_per_second = 4294967296"), 3, "u32"),
        (tenant("quota_burst_events = 5"), 3, "quota_events_per_second"),
        (table("extra = 1"), 8, "extra"),
        (table(&key("k", OTHER_HASH, read)), 8, "stands above"),
        (table(&key("l", HASH, read)), 8, "one owner"),
        (table(&key("", OTHER_HASH, read)), 9, "1 to 256"),
        (table(&key("l", &HASH[1..], read)), 10, "64 hex digits"),
        (table(&key("l", &HASH.replace('2', "g"), read)), 10, "64 hex digits"),
        (table(&key("l", OTHER_HASH, "scopes = []")), 11, "ingest, read or admin"),
        (table(&key("l", OTHER_HASH, "scopes = [\"write\"]")), 11, "write"),
        (table(&key("l", OTHER_HASH, &format!("{read}\nexpires = 2027-01-01"))), 12, "offset"),
        (table("[tenants.t.windows]\nclik = \"7d\"\n"), 9, "clik"),
        (table("[[tenants.t.windows.override]]\nclick = \"7d\"\n"), 8, "needs conversion"),
        (table("[[tenants.t.windows.override]]\npartner = \"p\"\n"), 8, "needs click"),
        (table("[tenants.t.precedence]\norder = []\n"), 9, "order is"),
        (table("[tenants.t.precedence]\norder = [\"click\", \"click\"]\n"), 9, "order is"),
        (table("[tenants.t.precedence]\norder = [\"latest\", \"click\"]\n"), 9, "order is"),
        (table("[tenants.t.precedence]\norder = 1\n"), 9, "order is"),
        (table("[tenants.t.precedence]\ndirect_channels = [\"\"]\n"), 9, "1 to 256"),
        (table("[tenants.t.conversions.\"\"]\n"), 8, "1 to 256"),
        (table("[tenants.t.conversions.c]\ncut = true\n"), 9, "cut"),
        (file("", "").replace("tenants.t", &format!("tenants.{long_name}")), 2, "1 to 64"),
        (file("", "").replace("tenants.t", "tenants.\"a b\""), 2, "1 to 64"),
    ] {
        let (found, said) = wrong(&text);
        assert_eq!(found, line, "{said}\n{text}");
        assert!(said.contains(reason), "{said:?} should say {reason:?}\n{text}");
    }
    let longest = "x".repeat(64);
    assert!(parse(&file("", "").replace("tenants.t", &format!("tenants.{longest}"))).is_ok());
}

#[test]
fn a_key_pasted_by_mistake_is_not_shown() {
    let text = file("", "").replace(HASH, "ak_super-secret");
    assert!(!format!("{:?}", wrong(&text)).contains("super-secret"));
}

#[test]
fn an_expired_key_is_nobodys() {
    let expiring = |year| {
        let text = file("", "").replace("scopes", &format!("expires = {year}-01-01T00:00:00Z\nscopes"));
        parse(&text).unwrap().authenticate(b"foo").is_some()
    };
    assert!(expiring(2999));
    assert!(!expiring(2001));
}

#[test]
fn an_edition_is_of_what_affects_decisions_alone() {
    let edition = |tenant: &str, tables: &str| {
        parse(&file(tenant, tables)).unwrap().tenant("t").unwrap().edition.clone()
    };
    let plain = edition("", "");
    for (tenant, tables) in [
        ("quota_events_per_second = 5", ""),
        ("currency = \"EUR\"", "[tenants.t.windows]\nclick = \"168h\"\n"),
        ("", "expires = 2999-01-01T00:00:00Z"),
    ] {
        assert_eq!(edition(tenant, tables), plain, "{tenant} {tables}");
    }
    let second =
        format!("[[tenants.t.keys]]\nname = \"l\"\nsha256 = \"{OTHER_HASH}\"\nscopes = [\"admin\"]\n");
    assert_eq!(edition("", &second), plain);

    let changes = [
        ("currency = \"USD\"", ""),
        ("time_zone = \"Europe/Berlin\"", ""),
        ("", "[tenants.t.windows]\nclick = \"8d\"\n"),
        ("", "[tenants.t.windows]\nvisit = \"8d\"\n"),
        ("", "[[tenants.t.windows.override]]\npartner = \"p\"\nclick = \"8d\"\n"),
        ("", "[tenants.t.precedence]\norder = [\"visit\", \"click\", \"impression\"]\n"),
        ("", "[tenants.t.precedence]\ndirect_channels = []\n"),
        ("", "[tenants.t.conversions.c]\ncut_at_previous = true\n"),
    ];
    let mut editions: Vec<_> = changes.iter().map(|(tenant, tables)| edition(tenant, tables)).collect();
    editions.push(plain);
    editions.sort();
    editions.dedup();
    assert_eq!(editions.len(), changes.len() + 1, "every change is an edition of its own");
}

#[test]
fn an_edition_is_the_digest_of_sorted_json() {
    // Written by hand from the rule, so that the digest never changes by accident.
    let json = "{\"conversions\":{},\"currency\":\"EUR\",\"precedence\":{\"direct_channels\":[\"direct\"],\
                \"order\":[\"click\",\"impression\",\"visit\"]},\"time_zone\":\"UTC\",\"windows\":{\"click\":604800000,\
                \"impression\":86400000,\"overrides\":[],\"visit\":2592000000}}";
    let digest = {
        use sha2::{Digest, Sha256};
        Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(edition_of(&Rules::default()), format!("sha256:{digest}"));
}
