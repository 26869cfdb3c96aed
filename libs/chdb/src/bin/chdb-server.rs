//! The embedded warehouse on its own, for tests and for attaching a ClickHouse tool to a folder.
//!
//! Without an argument it is the child process of a supervisor.
//! `chdb-server FOLDER` supervises one itself: prints the endpoint, and stops when standard input
//! ends.

use std::io::{Read, Write};
use std::time::Duration;

fn main() -> std::process::ExitCode {
    let result = match std::env::args_os().nth(1) {
        None => chdb::child::main().map_err(|error| error.to_string()),
        Some(folder) => alone(folder),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code says enough then.
            let _ = writeln!(std::io::stderr(), "{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn alone(folder: std::ffi::OsString) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let supervisor = chdb::Supervisor::start(chdb::Options::new(folder, vec![program.into()]))
        .map_err(|error| error.to_string())?;
    runtime.block_on(supervisor.wait_ready(Duration::from_secs(60))).map_err(|error| error.to_string())?;
    let endpoint = supervisor.endpoint();
    let pid = supervisor.pid().unwrap_or_default();
    writeln!(std::io::stdout(), "{} {} {} {pid}", endpoint.url, endpoint.user, endpoint.password)
        .map_err(|error| error.to_string())?;
    let mut rest = Vec::new();
    // Whether it ends or breaks, there is nobody left to serve.
    let _ = std::io::stdin().read_to_end(&mut rest);
    runtime.block_on(supervisor.stop(Duration::from_secs(10)));
    Ok(())
}
