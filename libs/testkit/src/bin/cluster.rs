//! Runs a command against a cluster: `cluster FOLDER COMMAND…` starts the servers, and from the folder a process for each
//! service; the command finds the platform in `ATTRIBUTION_URL` and `ATTRIBUTION_KEY`.
//! Afterwards everything stops, and the exit code is the command's.

#![allow(clippy::print_stderr)]

use std::{process::ExitCode, time::Instant};

use testkit::cluster::{Programs, Servers};

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), Some(command)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: cluster FOLDER COMMAND [ARGUMENT…]");
        return ExitCode::from(2);
    };
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
    let status = tokio::process::Command::new(&command)
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
