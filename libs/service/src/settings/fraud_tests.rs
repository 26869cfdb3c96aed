#![allow(clippy::unwrap_used)]

use model::{
    FraudRule,
    fraud::{Cap, FraudSettings},
};

use crate::settings::{SettingsError, canonical_json, edition_of, parse};

const MINUTE: i64 = 60_000;

fn file(tables: &str) -> String {
    let hash = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    format!(
        "version = 1\n[tenants.t]\n[[tenants.t.keys]]\nname = \"k\"\nsha256 = \"{hash}\"\nscopes = [\"read\"]\n\
         {tables}"
    )
}

fn fraud(tables: &str) -> FraudSettings {
    parse(&file(tables)).unwrap().tenant("t").unwrap().rules.fraud.clone()
}

fn wrong(tables: &str) -> String {
    match parse(&file(tables)) {
        Err(SettingsError::Invalid { line, reason }) => format!("{line}: {reason}"),
        other => panic!("{other:?} for\n{tables}"),
    }
}

#[test]
fn everything_of_fraud_can_be_set() {
    let settings = fraud(
        r#"
[tenants.t.fraud]
reject = ["click_to_install", "cap_day"]
reject_above = 0.9
caps.minutes = { period = "10m", touches = 5 }
caps.hour = { period = "15m", touches = 1000 }
[[tenants.t.fraud.override]]
partner = "example-network"
reject = []
reject_above = 1
"#,
    );
    assert_eq!(settings.reject, [FraudRule::ClickToInstall, FraudRule::CapDay].into());
    assert_eq!(settings.reject_above_micros, Some(900_000));
    assert_eq!(settings.caps.minutes, Cap { period_millis: 10 * MINUTE, touches_max: 5 });
    assert_eq!(settings.caps.hour, Cap { period_millis: 15 * MINUTE, touches_max: 1_000 });
    assert_eq!(settings.caps.day, FraudSettings::default().caps.day);
    let own = &settings.overrides[0];
    assert_eq!((&own.partner[..], own.reject_above_micros), ("example-network", Some(1_000_000)));
    assert_eq!(own.reject, Some([].into()));
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (tables, said) in [
        ("[tenants.t.fraud]\nreject = [\"bots\"]", "8: reject takes click_to_install"),
        ("[tenants.t.fraud]\nreject_above = 1.01", "8: reject_above is a probability"),
        ("[tenants.t.fraud]\nreject_above = -0.01", "8: reject_above is a probability"),
        ("[tenants.t.fraud]\nreject_above = nan", "8: reject_above is a probability"),
        ("[tenants.t.fraud]\nreject_all = true", "8: unknown field"),
        ("[tenants.t.fraud]\ncaps.minutes = { period = \"11m\", touches = 1 }", "8: the period"),
        ("[tenants.t.fraud]\ncaps.minutes = { period = \"0m\", touches = 1 }", "8: the period"),
        ("[tenants.t.fraud]\ncaps.hour = { period = \"12m\", touches = 1 }", "8: the period"),
        ("[tenants.t.fraud]\ncaps.hour = { period = \"60m\", touches = 1 }", "8: the period"),
        ("[tenants.t.fraud]\ncaps.day = { period = \"25h\", touches = 1 }", "8: the period"),
        ("[tenants.t.fraud]\ncaps.day = { period = \"24h\", touches = 0 }", "8: touches is 1 to 1000"),
        ("[tenants.t.fraud]\ncaps.day = { period = \"24h\", touches = 1001 }", "8: touches is 1 to 1000"),
        ("[tenants.t.fraud]\ncaps.day = { period = \"soon\", touches = 1 }", "8: write a whole number"),
        ("[[tenants.t.fraud.override]]\npartner = \"p\"", "7: an override needs reject"),
        ("[[tenants.t.fraud.override]]\npartner = \"\"\nreject = []", "7: a partner has"),
        (
            "[[tenants.t.fraud.override]]\npartner = \"p\"\nreject = []\n\
             [[tenants.t.fraud.override]]\npartner = \"p\"\nreject = []",
            "10: partner \"p\" stands above",
        ),
    ] {
        let found = wrong(tables);
        assert!(found.starts_with(said), "{found:?} should say {said:?} of\n{tables}");
    }
}

#[test]
fn so_many_partners_have_rules_of_their_own_and_not_one_more() {
    let partners = |count: usize| -> String {
        (0..count)
            .map(|n| format!("[[tenants.t.fraud.override]]\npartner = \"p{n}\"\nreject_above = 0.5\n"))
            .collect()
    };
    assert_eq!(fraud(&partners(1_000)).overrides.len(), 1_000);
    assert!(wrong(&partners(1_001)).contains("at most 1000"));
}

#[test]
fn an_edition_from_before_there_were_rules_of_fraud_is_still_the_same() {
    let rules = |tables: &str| parse(&file(tables)).unwrap().tenant("t").unwrap().rules.clone();
    let plain = rules("");
    assert!(!String::from_utf8(canonical_json(&plain)).unwrap().contains("fraud"));
    assert_eq!(edition_of(&rules("[tenants.t.fraud]\nreject = []\n")), edition_of(&plain));
    let mut editions = vec![edition_of(&plain)];
    for tables in [
        "[tenants.t.fraud]\nreject = [\"cap_day\"]\n",
        "[tenants.t.fraud]\nreject_above = 0.5\n",
        "[tenants.t.fraud]\ncaps.day = { period = \"1h\", touches = 1 }\n",
        "[[tenants.t.fraud.override]]\npartner = \"p\"\nreject_above = 0.5\n",
    ] {
        let rules = rules(tables);
        let read: model::Rules = serde_json::from_slice(&canonical_json(&rules)).unwrap();
        assert_eq!(read, *rules, "an edition is read as it was written");
        editions.push(edition_of(&rules));
    }
    editions.sort();
    editions.dedup();
    assert_eq!(editions.len(), 5, "every change is an edition of its own");
}
