//! The life of a process: provider, runtime, signals, telemetry, exit code.

use std::{future::Future, process::ExitCode};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal: as a shell reports a process ended by one.
const SECOND_SIGNAL_EXIT_CODE: i32 = 130;

/// Runs a process to its end: `fn main() -> ExitCode { service::run(telemetry, |shutdown| start(config, shutdown)) }`.
///
/// The first SIGTERM or SIGINT cancels the token, a second one exits at once. An error of the body goes to the log
/// and makes the exit code 1. Traces are flushed last.
pub fn run<F, Fut, E>(telemetry: telemetry::Config, body: F) -> ExitCode
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    install_crypto_provider();
    allow_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let code = runtime.block_on(async {
        let guard = match telemetry::init(telemetry) {
            Ok(guard) => guard,
            Err(error) => return fail(&error),
        };
        let shutdown = CancellationToken::new();
        if let Err(error) = listen_for_signals(shutdown.clone()) {
            return fail(&error);
        }
        let code = match body(shutdown).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "stopped");
                ExitCode::FAILURE
            }
        };
        // It blocks until the last traces are sent, and sending needs this runtime.
        let _ = tokio::task::spawn_blocking(move || guard.shutdown()).await;
        code
    });
    // Blocking work that ignores the shutdown must not hold up the exit.
    runtime.shutdown_background();
    code
}

/// Makes aws-lc-rs the provider of this process for every TLS client and server; later calls do nothing.
pub fn install_crypto_provider() {
    // An error says that one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Raises the number of files this process may open to what the system allows it.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // A refusal leaves what there was; connections are bounded by it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn listen_for_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    crate::task::spawn("signals", async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if shutdown.is_cancelled() {
                tracing::warn!(signal = name, "second signal: exiting at once");
                std::process::exit(SECOND_SIGNAL_EXIT_CODE);
            }
            tracing::info!(signal = name, "shutting down");
            shutdown.cancel();
        }
    });
    Ok(())
}

/// There is no log yet.
fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::FAILURE
}
