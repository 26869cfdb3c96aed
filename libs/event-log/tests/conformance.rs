//! Every implementation keeps every promise of the trait.

use std::sync::Arc;

use event_log::{EventLog, MemoryLog, conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_in_memory_keeps_every_promise() {
    conformance::suite(|partitions| async move { MemoryLog::new(partitions) as Arc<dyn EventLog> }).await;
}
