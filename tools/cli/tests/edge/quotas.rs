//! What a tenant may send.

use crate::{
    client::conversions,
    platform::{Platform, Setup, eventually, tenants},
};

/// A burst of 1,000, and so slow a refill that it does not matter here.
const QUOTA: &str = "[tenants.small]\nquota_events_per_second = 1\nquota_burst_events = 1000\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_refused_past_its_burst_and_no_other_is() {
    let settings = format!("{}{QUOTA}", tenants(&["small", "free"]));
    let platform = Platform::start(Setup { settings, ..Setup::default() }).await;
    let client = platform.client();
    let send = async |key: &str, name: &str, events: usize| {
        let ids = (0..events).map(|index| format!("{name}-{index}"));
        client.post("/v1/events", Some(key), &conversions(ids)).await
    };
    // More than the burst never passes, whatever was used.
    let past = send("small-key", "past", 1_001).await;
    assert_eq!((past.status, past.json()["code"].as_str()), (429, Some("batch_over_quota")));
    assert!(!past.header("retry-after").is_empty());
    // Nothing was taken for it, so the burst itself passes, and what comes after it waits.
    assert_eq!(send("small-key", "burst", 1_000).await.status, 200);
    let after = send("small-key", "after", 500).await;
    assert_eq!((after.status, after.json()["code"].as_str()), (429, Some("over_quota")));
    assert!(after.header("retry-after").parse::<u64>().unwrap() <= 500);
    assert_eq!(send("free-key", "free", 2_000).await.status, 200);
    assert_eq!(client.conversions("small-key").await, 1_000.0);
    assert_eq!(client.conversions("free-key").await, 2_000.0);

    // A wider quota counts as soon as the file says so, and is no new edition.
    let file = platform.data().join("settings.toml");
    let editions = || std::fs::read_dir(platform.data().join("editions")).unwrap().count();
    let before = editions();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("events_per_second = 1\n", "events_per_second = 1_000_000\n"))
        .unwrap();
    eventually("the wider quota", async || send("small-key", "after", 500).await.status == 200).await;
    assert_eq!(editions(), before);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_check_is_refused_as_a_whole_and_a_key_counts_from_then_on() {
    let platform = Platform::start(Setup { settings: tenants(&["acme"]), ..Setup::default() }).await;
    let client = platform.client();
    let file = platform.data().join("settings.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    // A new tenant, and behind it a line that does not check.
    let more = tenants(&["acme", "late"]);
    std::fs::write(&file, format!("{more}[tenants.late.windows]\nclick = \"7\"\n")).unwrap();
    let refused = platform.line("the settings file is refused, the old one stays in force").await;
    let line = more.lines().count() + 2;
    assert!(refused["error"].as_str().unwrap().contains(&format!("line {line}")), "{refused}");
    // Whose key is known is told that there is no such edition.
    let status = async |key: &str| client.get("/v1/settings/none", Some(key)).await.status;
    assert_eq!((status("late-key").await, status("acme-key").await), (401, 404));
    std::fs::write(&file, more).unwrap();
    eventually("the new tenant", async || status("late-key").await == 404).await;
    std::fs::write(&file, good).unwrap();
    eventually("the tenant is gone", async || status("late-key").await != 404).await;
    assert_eq!(status("acme-key").await, 404);
    platform.stop().await;
}
