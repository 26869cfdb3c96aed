//! The warehouse over the embedded engine.
//!
//! The program runs itself again as the engine's process, so it needs none that was built before. Every test has a
//! database of its own. An argument chooses the tests whose names contain it.

#![allow(clippy::unwrap_used)]

mod by_hand;
mod cluster;
mod oracle;
mod random;
mod resume;
mod world;

use std::{ffi::OsString, future::Future, pin::Pin, time::Duration};

use warehouse::{Config, Warehouse};

const ENGINE: &str = "warehouse-engine";
/// Two shards of one server each, as a configuration of ClickHouse.
const CLUSTER: &str = "<clickhouse>
    <zookeeper><implementation>testkeeper</implementation></zookeeper>
    <macros><shard>1</shard><replica>1</replica></macros>
    <remote_servers><main>
        <shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard>
        <shard><replica><host>127.0.0.2</host><port>9000</port></replica></shard>
    </main></remote_servers>
</clickhouse>";
const START_SECONDS_MAX: u64 = 60;

/// An engine, and where it is.
#[derive(Clone)]
pub(crate) struct Engine {
    endpoint: chdb::Endpoint,
}

type Test = (&'static str, fn(Engine) -> Pin<Box<dyn Future<Output = ()>>>);

macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        [$((stringify!($name), |engine| Box::pin($module::$name(engine)))),*]
    };
}

fn main() {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(ENGINE) {
        // The engine reads `config.xml` of the folder that it starts in.
        std::env::set_current_dir(std::env::args().nth(2).unwrap()).unwrap();
        chdb::child::main().unwrap();
        return;
    }
    let tests: &[Test] = &tests![
        by_hand::one_decision_under_every_rule_model,
        by_hand::a_restated_decision_counts_once_and_is_known_as_of_its_moments,
        by_hand::currencies_are_never_mixed,
        by_hand::nothing_is_organic_and_empty_is_not_set,
        by_hand::filters_select_conversions_before_and_rows_after,
        by_hand::days_weeks_months_are_the_tenants_and_hours_are_utc,
        by_hand::persons_are_who_they_were_known_to_be,
        by_hand::the_published_markov_example_with_its_null_paths,
        by_hand::markov_shares_every_currency_by_the_same_weights,
        by_hand::null_paths_look_back_from_their_last_touch,
        by_hand::tenants_do_not_see_each_other_and_values_are_no_sql,
        by_hand::the_largest_values_are_exact,
        resume::migrating_twice_changes_nothing_and_a_newer_schema_is_refused,
        resume::generations_empty_everything,
        resume::more_than_a_hundred_months_come_in_one_batch,
        resume::whatever_is_there_the_rest_is_inserted_once,
        resume::what_is_past_a_batch_is_taken_back,
        cluster::what_is_past_a_batch_is_taken_back_from_its_shard,
        resume::an_insert_of_the_largest_batch_is_one_part,
        resume::an_unreachable_warehouse_is_unavailable,
        random::reports_equal_the_plain_model,
        cluster::a_partition_is_on_its_shard_and_reports_read_all,
        cluster::an_insert_whose_answer_is_lost_counts_once,
        cluster::reports_over_two_shards_equal_the_plain_model,
        cluster::the_engine_takes_replicated_tables_and_those_over_all_shards,
        cluster::a_cluster_that_is_not_there_is_named,
        cluster::it_is_reached_over_tls_by_those_who_may,
    ];
    let chosen = |name: &str| {
        argument.as_deref().is_none_or(|wanted| wanted.starts_with('-') || name.contains(wanted))
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let program: OsString = std::env::current_exe().unwrap().into();
        let configuration = tempfile::tempdir().unwrap();
        std::fs::write(configuration.path().join("config.xml"), CLUSTER).unwrap();
        let command = vec![program, ENGINE.into(), configuration.path().into()];
        let options = chdb::Options::new(folder.path(), command);
        let supervisor = chdb::Supervisor::start(options).unwrap();
        supervisor.wait_ready(Duration::from_secs(START_SECONDS_MAX)).await.unwrap();
        for (name, test) in tests.iter().filter(|(name, _)| chosen(name)) {
            eprintln!("test {name}");
            test(Engine { endpoint: supervisor.endpoint() }).await;
        }
        supervisor.stop(Duration::from_secs(10)).await;
    });
}

// === impl Engine ===

impl Engine {
    /// A warehouse in a database that is not made yet.
    pub(crate) fn connect(&self, database: &str) -> Warehouse {
        let endpoint = &self.endpoint;
        Warehouse::connect(&Config {
            url: endpoint.url.clone(),
            user: endpoint.user.clone(),
            password: endpoint.password.clone(),
            database: database.into(),
        })
        .unwrap()
    }

    /// An empty warehouse.
    pub(crate) async fn warehouse(&self, database: &str) -> Warehouse {
        let warehouse = self.connect(database);
        warehouse.migrate().await.unwrap();
        warehouse
    }

    /// A client of the crate itself.
    pub(crate) fn client(&self, database: &str) -> clickhouse::Client {
        let endpoint = &self.endpoint;
        clickhouse::Client::default()
            .with_url(&endpoint.url)
            .with_user(&endpoint.user)
            .with_password(&endpoint.password)
            .with_database(database)
    }
}
