//! The names of all fail points and mutants.
//!
//! A fail point is a place between an effect and its commit, where a test kills the process or makes a call fail; a mutant
//! is a promise that is broken on purpose, so that a test can show that the suite notices.
//!
//! A program built for tests takes its points from the environment, `FAILPOINTS="worker::before_commit=3*off->pause"`:
//! the fourth time it stops there, to be killed from outside.

use fail::FailScenario;

/// Places at which a process may be killed.
pub const PLACES: [&str; 28] = [
    "event_log::before_write",
    "event_log::before_sync",
    "event_log::after_sync",
    "event_log::before_rename",
    "event_log::before_dir_sync",
    "event_log::before_position_rename",
    "event_log::before_position_dir_sync",
    "journey_store::before_record",
    "journey_store::after_record",
    "journey_store::before_commit",
    "journey_store::after_commit",
    "journey_store::before_persist",
    "journey_store::before_scores",
    "journey_store::before_clear",
    "journey_store::after_clear",
    "worker::after_record",
    "worker::after_redecides",
    "worker::before_commit",
    "worker::after_commit",
    "fact_writer::after_plan",
    "fact_writer::after_insert",
    "warehouse::after_identities",
    "warehouse::after_touches",
    "warehouse::after_conversions",
    "warehouse::before_progress",
    "warehouse::after_progress",
    "ingestion::after_append",
    "ingestion::before_acknowledgement",
];

/// Calls of the real disk that fail when their point is set to `return`.
pub const DISK_ERRORS: [&str; 2] = ["disk::write", "disk::sync"];

/// Promises that are broken when their point is set to `return`.
pub const MUTANTS: [&str; 8] = [
    "mutant::skip_fdatasync",
    "mutant::ack_before_append",
    "mutant::skip_dedup",
    "mutant::mark_seen_before_append",
    "mutant::read_before_write",
    "mutant::commit_before_effect",
    "mutant::plan_after_insert",
    "mutant::drop_tenant",
];

/// Fail points for one test: the tests of a process take turns, and all points are off at its start and its end.
pub struct Faults(FailScenario<'static>);

// === impl Faults ===

impl Faults {
    /// Waits for its turn.
    #[expect(clippy::new_without_default, reason = "it waits")]
    pub fn new() -> Self {
        Self(FailScenario::setup())
    }

    /// Sets a point to an action in the language of `fail`, such as `return`, `3*off->pause`.
    ///
    /// # Panics
    /// When the point is not one of this module's, or the action cannot be read.
    pub fn set(&self, point: &str, action: &str) {
        assert_known(point);
        fail::cfg(point, action).unwrap_or_else(|error| panic!("{point}={action}: {error}"));
    }

    /// Calls back at a point, before the process goes on. The callback must not set points itself.
    ///
    /// # Panics
    /// When the point is not one of this module's.
    pub fn call(&self, point: &str, callback: impl Fn() + Send + Sync + 'static) {
        assert_known(point);
        fail::cfg_callback(point, callback).unwrap_or_else(|error| panic!("{point}: {error}"));
    }

    /// Turns a point off.
    pub fn clear(&self, point: &str) {
        fail::remove(point);
    }

    /// Ends the turn.
    pub fn done(self) {
        self.0.teardown();
    }
}

fn assert_known(point: &str) {
    let known = PLACES.iter().chain(&DISK_ERRORS).chain(&MUTANTS).any(|known| *known == point);
    assert!(known, "there is no fail point {point}");
}
