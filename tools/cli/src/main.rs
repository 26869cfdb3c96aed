//! `attribution`: the platform on a laptop, and a client of the public API.
//!
//! Owns the command line: what is read from files, asked of the API and shown to people.
//! It must never know more than the API tells, open a store, or decide anything: `serve` is the standalone process, and
//! every other command works against any installation.
//!
//! Data goes to standard output, everything else to standard error; any failure is a non-zero exit code.

mod check;
mod client;
mod demo;
mod explain;
mod features;
mod import;
mod journey;
mod load;
mod out;
mod paths;
mod progress;
mod report;
mod rows;
mod send;
mod serve;
mod source;
mod table;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Self-hosted marketing attribution: events in, every conversion credited and explained, reports out.
#[derive(Debug, Parser)]
#[command(name = "attribution", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  attribution serve --data ./data
  attribution import events.ndjson.gz
  attribution report --from 2026-01-01 --to 2026-02-01 --models last_touch,markov --by channel
  attribution explain order-4711

The key is taken from --key, from ATTRIBUTION_KEY, or from the file api-key in --data (./data).
Data goes to standard output, everything else to standard error.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole platform in one process, on one data folder
    Serve(serve::Serve),
    /// Send events from files: NDJSON, JSON, CSV, or a table of paths
    Import(import::Import),
    /// Ask for a report
    Report(report::Report),
    /// Say why a conversion was credited as it was
    Explain(explain::Explain),
    /// Show the touches, conversions and identities of a person
    Journey(journey::Journey),
    /// Send events at a fixed rate and measure the answers
    Load(load::Load),
    /// Compute what the fraud model looks at, of past conversions
    Features(features::Features),
    /// Check a settings file, the connection and the key
    Check(check::Check),
    /// Attribute 88,387 real journeys from beginning to end, and compare with published figures
    Demo(demo::Demo),
    /// The warehouse process that `serve` starts for itself
    #[command(name = "chdb-server", hide = true)]
    ChdbServer {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(command) => return command.run(),
        Command::ChdbServer { .. } => chdb::child::main().map_err(Into::into),
        Command::Import(command) => on_runtime(command.run()),
        Command::Report(command) => on_runtime(command.run()),
        Command::Explain(command) => on_runtime(command.run()),
        Command::Journey(command) => on_runtime(command.run()),
        Command::Load(command) => on_runtime(command.run()),
        Command::Features(command) => on_runtime(command.run()),
        Command::Check(command) => on_runtime(command.run()),
        Command::Demo(command) => on_runtime(command.run()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough.
        Err(error) if out::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            out::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn on_runtime(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    service::install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    // A reader that waits for standard input must not hold up the exit.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        for command in Cli::command().get_subcommands_mut().filter(|command| !command.is_hide_set()) {
            let help = command.render_long_help().to_string();
            assert!(help.contains(&format!("attribution {}", command.get_name())), "{help}");
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (line, kind, named) in [
            ("report --to 2026-02-01", ErrorKind::MissingRequiredArgument, "--from"),
            ("import", ErrorKind::MissingRequiredArgument, "FILE"),
            ("import a.csv --format xml", ErrorKind::InvalidValue, "--format"),
            ("import a.csv --paths --base-time yesterday", ErrorKind::ValueValidation, "--base-time"),
            ("load --rate 0 --duration 1s", ErrorKind::ValueValidation, "--rate"),
            ("load --rate 1000 --duration 1", ErrorKind::ValueValidation, "--duration"),
            ("journey", ErrorKind::MissingRequiredArgument, "--device-id"),
            ("journey --user-id u --device-id d", ErrorKind::ArgumentConflict, "--device-id"),
            ("report --from a --to b --json --csv", ErrorKind::ArgumentConflict, "--csv"),
            ("explain", ErrorKind::MissingRequiredArgument, "EVENT_ID"),
        ] {
            let error =
                Cli::try_parse_from(std::iter::once("attribution").chain(line.split(' '))).unwrap_err();
            assert_eq!(error.kind(), kind, "{line}: {error}");
            assert!(error.to_string().contains(named), "{line}: {error}");
        }
    }
}
