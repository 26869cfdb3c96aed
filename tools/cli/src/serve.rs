//! `attribution serve`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

/// Run the whole platform in one process, on one data folder.
///
/// The first start on an empty folder writes settings.toml (one tenant, `default`) and api-key (one key that may do
/// everything) and says so.
/// SIGTERM or Ctrl-C stops it in order; a second one at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  attribution serve --data ./data
  attribution serve --data ./data --listen 0.0.0.0:8080 --metrics 127.0.0.1:9090
  attribution serve --data ./data --print-config")]
pub(crate) struct Serve {
    /// The data folder; made when it is not there [default: ./data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// A configuration file in TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where gRPC and REST listen [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where /metrics and health listen [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
    /// Print the configuration in force, and stop
    #[arg(long)]
    print_config: bool,
}

impl Serve {
    pub(crate) fn run(self) -> ExitCode {
        let Self { data, config, listen, metrics, print_config } = self;
        standalone::serve(standalone::Flags { data, config, listen, metrics, print_config })
    }
}
