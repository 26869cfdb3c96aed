//! Progress of what takes more than a second: a bar on a terminal, a line every few seconds elsewhere.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{out, table::thousands};

/// How often a line is written when nobody watches a bar.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far something is.
pub(crate) struct Progress {
    label: String,
    /// How many steps there are; none when that is not known.
    total: Option<u64>,
    started: Instant,
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

struct State {
    position: u64,
    events: u64,
    last_line: Instant,
}

// === impl Progress ===

impl Progress {
    pub(crate) fn new(label: &str, total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(label, total));
        let started = Instant::now();
        let state = Mutex::new(State { position: 0, events: 0, last_line: started });
        Self { label: label.to_owned(), total, started, bar, state }
    }

    /// Says where it is: of the total, and in events.
    pub(crate) fn at(&self, position: u64, events: u64) {
        // A poisoned lock holds numbers all the same.
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        (state.position, state.events) = (position, events);
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(self.count(events));
        }
    }

    /// Waits for something, and shows that the time is passing.
    pub(crate) async fn during<F: Future>(&self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = tick.tick() => self.tick(),
            }
        }
    }

    /// Removes the bar, and says how long it took.
    pub(crate) fn finish(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }

    fn tick(&self) {
        if let Some(bar) = &self.bar {
            bar.tick();
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.last_line.elapsed() < LINE_EVERY {
            return;
        }
        state.last_line = Instant::now();
        let seconds = self.started.elapsed().as_secs();
        let percent = match self.total {
            Some(total) if total > 0 => format!(" {} %,", state.position.min(total) * 100 / total),
            _ => String::new(),
        };
        let count = if state.events > 0 { format!(" {},", self.count(state.events)) } else { String::new() };
        out::note(format!("{}:{percent}{count} {seconds} s", self.label));
    }

    fn count(&self, events: u64) -> String {
        format!("{} events, {}", thousands(&events.to_string()), rate(events, self.started.elapsed()))
    }
}

/// Events in a second, in words.
pub(crate) fn rate(events: u64, time: Duration) -> String {
    let each_second = events as f64 / time.as_secs_f64().max(0.001);
    format!("{}/s", thousands(&format!("{each_second:.0}")))
}

fn bar(label: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{prefix} [{bar:30}] {percent:>3} %  {msg}  {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {prefix}  {msg}  {elapsed}"),
    };
    // The templates are the two above; if one did not parse, the bar would only look plainer.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_prefix(label.to_owned())
}
