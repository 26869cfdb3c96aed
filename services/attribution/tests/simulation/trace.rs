//! What happened, in order, as one digest.

use std::sync::{Arc, Mutex};

/// A trace; clones are the same. With `SIMULATION_TRACE` set every line is printed too.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<(blake3::Hasher, u64)>>);

impl Trace {
    pub fn note(&self, what: &str) {
        let mut state = self.0.lock().unwrap();
        state.0.update(what.as_bytes());
        state.0.update(b"\n");
        state.1 += 1;
        if std::env::var_os("SIMULATION_TRACE").is_some() {
            eprintln!("{:6} {what}", state.1);
        }
    }

    /// The digest of all lines so far.
    pub fn digest(&self) -> String {
        self.0.lock().unwrap().0.finalize().to_hex()[..32].to_owned()
    }
}
