//! The life of a process, seen from outside: this test's binary is started again as the process.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Does nothing unless started by [`start`].
#[test]
fn process() {
    let Ok(mode) = std::env::var("TEST_MODE") else { return };
    let code = service::run(telemetry::Config::new("under-test"), |shutdown| async move {
        eprintln!("up");
        if mode == "fails" {
            return Err("the log cannot be opened");
        }
        shutdown.cancelled().await;
        eprintln!("told");
        if mode == "hangs" {
            std::future::pending::<()>().await;
        }
        Ok(())
    });
    // An exit code can only be compared, not read.
    let success = format!("{code:?}") == format!("{:?}", std::process::ExitCode::SUCCESS);
    std::process::exit(if success { 0 } else { 1 });
}

fn start(mode: &str) -> (Child, impl FnMut(&str)) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process", "--nocapture"])
        .env("TEST_MODE", mode)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // The pipe ends with the process, so this does too.
    let wait_for = move |wanted: &str| {
        assert!(lines.by_ref().any(|line| line.unwrap().contains(wanted)), "never said: {wanted}");
    };
    (child, wait_for)
}

fn kill(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn exit_code(mut child: Child) -> Option<i32> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if begin.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("still running");
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_signal_ends_it_in_order() {
    for signal in ["-TERM", "-INT"] {
        let (child, mut wait_for) = start("ends");
        wait_for("up");
        kill(signal, &child);
        wait_for("told");
        assert_eq!(exit_code(child), Some(0), "{signal}");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (child, mut wait_for) = start("hangs");
    wait_for("up");
    kill("-TERM", &child);
    wait_for("told");
    kill("-TERM", &child);
    assert_eq!(exit_code(child), Some(130));
}

#[test]
fn an_error_is_said_and_is_the_exit_code() {
    let (child, mut wait_for) = start("fails");
    wait_for("the log cannot be opened");
    assert_eq!(exit_code(child), Some(1));
}
