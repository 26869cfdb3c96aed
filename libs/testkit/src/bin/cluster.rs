//! Runs a command against a cluster: `cluster FOLDER COMMAND…` starts the servers, and from the folder a process for each
//! service; the command finds the platform in `ATTRIBUTION_URL` and `ATTRIBUTION_KEY`.
//! `cluster --servers COMMAND…` starts Kafka, a CQL server and Redis alone; the command finds them in `KAFKA_URL`,
//! `SCYLLA_URL` and `REDIS_URL`.
//! Afterwards everything stops, and the exit code is the command's.

#![allow(clippy::print_stderr)]

use std::{process::ExitCode, time::Instant};

use testkit::{
    cassandra::{self, CqlServer},
    cluster::{Programs, Servers},
    kafka::{self, Kafka},
    redis::{self, Redis},
};
use tokio::process::Command;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), Some(command)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: cluster FOLDER|--servers COMMAND [ARGUMENT…]");
        return ExitCode::from(2);
    };
    if folder == "--servers" {
        return with_servers(Command::new(command).args(arguments)).await;
    }
    // The supervisor of the warehouse runs it in a folder of its own.
    let folder = std::path::absolute(&folder).expect("a working folder");
    let programs = Programs::beside(folder.join("attribution"));
    let begin = Instant::now();
    eprintln!("starting Kafka, a CQL server, Redis and ClickHouse");
    let servers = Servers::start(&programs).await;
    eprintln!(
        "servers are there after {:.1} s; starting a process for each service",
        begin.elapsed().as_secs_f64()
    );
    let cluster = servers.cluster(&programs).await;
    eprintln!(
        "the platform is ready after {:.1} s at {}",
        begin.elapsed().as_secs_f64(),
        cluster.client().url()
    );
    let status = Command::new(&command)
        .args(arguments)
        .env("ATTRIBUTION_URL", cluster.client().url())
        .env("ATTRIBUTION_KEY", cluster.client().key())
        .status()
        .await;
    match status {
        Ok(status) if status.success() => {
            cluster.stop().await;
            ExitCode::SUCCESS
        }
        Ok(status) => {
            for (name, process) in [
                ("ingestion", &cluster.ingestion),
                ("attribution", &cluster.attribution),
                ("query", &cluster.query),
            ] {
                eprintln!("the log of {name}:\n{}", process.log());
            }
            eprintln!("{}: {status}", command.display());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cannot run {}: {error}", command.display());
            ExitCode::FAILURE
        }
    }
}

/// Those that run already stay as they are named. The CQL server acknowledges from memory: one that syncs first would be what
/// is measured.
async fn with_servers(command: &mut Command) -> ExitCode {
    eprintln!("starting Kafka, a CQL server and Redis");
    let (mut kafka, mut cql, mut redis) = tokio::join!(Kafka::start(), CqlServer::start(), Redis::start());
    if let Some(own) = kafka.own() {
        let url = format!("kafka://{}?replication=1&min_insync_replicas=1", own.address(0));
        command.env(kafka::URL_VARIABLE, url);
    }
    if let Some(own) = cql.own() {
        command.env(cassandra::URL_VARIABLE, format!("scylla://{}?replicas=1", own.address()));
    }
    if let Some(own) = redis.own() {
        command.env(redis::URL_VARIABLE, format!("redis://{}", own.address()));
    }
    match command.status().await {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("{status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cannot run the command: {error}");
            ExitCode::FAILURE
        }
    }
}
