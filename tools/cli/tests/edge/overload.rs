//! More than the process can take, by clients that do not wait for answers.

use std::{collections::BTreeMap, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use crate::{
    client::{Answer, Client, conversions},
    platform::{Platform, Setup, eventually, tenants},
};

/// Requests at once, in all and of one tenant.
const IN_FLIGHT_MAX: usize = 8;
const OF_TENANT_MAX: usize = 4;
const EVENTS: usize = 50;
const CONFIG: &str = "[limits]\nrequests_in_flight_max = 8\ntenant_requests_in_flight_max = 4\n";

/// How many requests a flood has.
const REQUESTS: u32 = 400;

async fn ingest(client: &Client, tenant: &str, name: String) -> Answer {
    let ids = (0..EVENTS).map(|index| format!("{name}-{index}"));
    client.post("/v1/events", Some(&format!("{tenant}-key")), &conversions(ids)).await
}

/// The time that one request takes at capacity: as many at once as are taken on.
async fn pace(client: &Client) -> Duration {
    let begin = Instant::now();
    let mut workers = JoinSet::new();
    for worker in 0..OF_TENANT_MAX {
        let client = client.clone();
        workers.spawn(async move {
            for round in 0..10 {
                let answer = ingest(&client, "warm", format!("warm-{worker}-{round}")).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        });
    }
    workers.join_all().await;
    begin.elapsed() / (OF_TENANT_MAX as u32 * 10)
}

/// Sends on a schedule, whatever comes back; the statuses and how often each came.
async fn flood(client: &Client, tenant: &'static str, name: &str, pace: Duration) -> BTreeMap<u16, usize> {
    let mut requests = JoinSet::new();
    let begin = Instant::now();
    for index in 0..REQUESTS {
        tokio::time::sleep_until(begin + pace * index).await;
        let (client, name) = (client.clone(), format!("{name}-{index}"));
        requests.spawn(async move { ingest(&client, tenant, name).await });
    }
    let mut statuses = BTreeMap::new();
    while let Some(answer) = requests.join_next().await {
        let answer = answer.unwrap();
        if answer.status != 200 {
            let code = answer.json()["code"].as_str().unwrap().to_owned();
            let wanted = match answer.status {
                429 => "too_many_requests",
                503 => "overloaded",
                other => panic!("{other}: {}", answer.text()),
            };
            assert_eq!(code, wanted);
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
        }
        *statuses.entry(answer.status).or_default() += 1;
    }
    statuses
}

fn gauge(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_and_loses_nothing_acknowledged_and_others_are_served() {
    let settings = tenants(&["warm", "flood", "small", "watch"]);
    let platform = Platform::start(Setup { settings, config: CONFIG, ..Setup::default() }).await;
    let client = platform.client();
    let at_capacity = pace(&client).await;
    let mut acknowledged = 0;
    let mut refused = 0;
    let mut served = 0;
    for (times, name) in [(3, "three"), (10, "ten")] {
        let mut flooding = std::pin::pin!(flood(&client, "flood", name, at_capacity / times));
        let statuses = loop {
            // The other tenant asks one thing after the other, as long as the flood lasts.
            let others = async {
                // A name of its own: the last one of a flood is given up, and its repeat would share its fate.
                let answer = ingest(&client, "small", format!("small-{name}-{served}")).await;
                assert_eq!(answer.status, 200, "a tenant pays for another's flood: {}", answer.text());
                let waiting = gauge(&platform.metrics().await, "kafka_producer_queue_size");
                assert!(waiting <= (IN_FLIGHT_MAX * EVENTS) as f64, "{waiting} events wait for the log");
            };
            tokio::select! {
                statuses = &mut flooding => break statuses,
                () = others => served += 1,
            }
        };
        acknowledged += statuses.get(&200).copied().unwrap_or_default();
        refused += statuses.values().sum::<usize>() - statuses.get(&200).copied().unwrap_or_default();
        println!("{times} times capacity ({at_capacity:?} a request): {statuses:?}");
    }
    assert!(acknowledged > 0 && refused > 0 && served > 0, "{acknowledged} {refused} {served}");
    assert_eq!(client.conversions("flood-key").await, (acknowledged * EVENTS) as f64);
    // The last of the small ones was given up half way, so it may count or not.
    let small = client.conversions("small-key").await as usize / EVENTS;
    assert!((served..=served + 2).contains(&small), "{small} of {served}");
    let drained = async || {
        let page = platform.metrics().await;
        gauge(&page, "kafka_producer_queue_size") == 0.0 && gauge(&page, "attribution_queue_size") == 0.0
    };
    eventually("the queues are empty again", drained).await;
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_bound_of_all_requests_everybody_is_told_to_come_again() {
    // Two tenants fill the house.
    let config = "[limits]\nrequests_in_flight_max = 2\ntenant_requests_in_flight_max = 1\n";
    let settings = tenants(&["one", "two", "three"]);
    let platform = Platform::start(Setup { settings, config, ..Setup::default() }).await;
    let client = platform.client();
    let hold = |tenant: &str| {
        let request = client.request("POST", "/v1/events", Some(&format!("{tenant}-key")));
        // A body that does not come.
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
        let body = axum::body::Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
        (sender, client.stream(request.header("content-type", "application/json"), body))
    };
    let status = async |tenant: &str| {
        let answer = client.get("/v1/settings/none", Some(&format!("{tenant}-key"))).await;
        (answer.status, !answer.header("retry-after").is_empty())
    };
    // Nothing is asked before the held one is in: it would be refused if it came while a question is answered.
    let held = async |requests| {
        let has = async || gauge(&platform.metrics().await, "requests_in_flight") == requests;
        eventually("the request is held", has).await;
    };
    let (one, first) = hold("one");
    held(1.0).await;
    eventually("one is full", async || status("one").await == (429, true)).await;
    assert_eq!(status("two").await, (404, false));
    held(1.0).await;
    let (two, second) = hold("two");
    held(2.0).await;
    eventually("all is full", async || status("three").await == (503, true)).await;
    assert_eq!(client.get("/health/live", None).await.status, 200);
    for sender in [one, two] {
        sender.send(Ok(b"[]".to_vec())).await.unwrap();
    }
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
    for tenant in ["one", "two", "three"] {
        eventually(tenant, async || status(tenant).await == (404, false)).await;
    }
    platform.stop().await;
}
