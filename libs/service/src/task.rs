//! Tasks with names.

use std::{any::Any, future::Future, io};

use rustix::process::{getpriority_process, setpriority_process};
use tokio::{runtime::Runtime, task::JoinHandle};

/// By how much threads apart give way to those that answer requests: of one core they get a third of what those get.
const NICENESS: i32 = 5;

/// Threads apart from those that answer requests, for work that keeps one for tens of milliseconds. They give way to those,
/// and so does every thread and process that they start.
///
/// Dropped, they are let go without a wait.
pub struct Threads {
    runtime: Option<Runtime>,
}

/// Starts a task that works for no request. A panic in it is logged under its name, and also in the handle.
// The wrapper that everyone else is sent to.
#[allow(clippy::disallowed_methods)]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(async move {
        let guard = PanicGuard { name };
        let output = future.await;
        drop(guard);
        output
    })
}

// === impl Threads ===

impl Threads {
    /// As many as there are cores.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn new(name: &'static str) -> io::Result<Self> {
        // The same for all: some of them are started by others.
        let niceness = getpriority_process(None)? + NICENESS;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name(name)
            .on_thread_start(move || give_way(niceness))
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Calls a function whose tasks run on these threads.
    pub fn enter<T>(&self, start: impl FnOnce() -> T) -> T {
        let _entered = self.runtime.as_ref().map(Runtime::enter);
        start()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A runtime that waits for its threads must not be dropped by a task.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// On Linux niceness is a thread's own; elsewhere it is the whole process's, so nobody gives way to anybody.
fn give_way(niceness: i32) {
    if cfg!(target_os = "linux")
        && let Err(error) = setpriority_process(None, niceness)
    {
        tracing::warn!(%error, "threads that give way to none");
    }
}

struct PanicGuard {
    name: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "a task panicked");
        }
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn tasks_run_on_the_threads_that_were_entered() {
        let threads = Threads::new("apart").unwrap();
        let name = || std::thread::current().name().map(str::to_owned);
        let task = threads.enter(|| spawn("named", async move { name() }));
        assert_eq!(task.await.unwrap().as_deref(), Some("apart"));
        // A task may let them go.
        drop(threads);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn threads_apart_and_what_they_start_give_way() {
        let niceness = || getpriority_process(None).unwrap();
        let threads = Threads::new("apart").unwrap();
        let its_own = niceness();
        let expected = (its_own + NICENESS).min(19);
        let started = move || std::thread::spawn(niceness).join().unwrap();
        let blocking = move || tokio::task::spawn_blocking(started);
        let task = threads.enter(|| {
            spawn("named", async move { (niceness(), blocking().await.unwrap(), blocking().await.unwrap()) })
        });
        assert_eq!(task.await.unwrap(), (expected, expected, expected));
        assert_eq!(niceness(), its_own);
    }
}
