//! The runs of one version: calls that wait are joined into one run, the urgent ones first.
//!
//! A call that finds the model free runs in its own task, so that nothing is added to it while there is little to do.
//! What comes while the model is busy waits, and the next run takes all of it that fits.
//! Who goes away leaves their place, and a run that nobody waits for any more is given up.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    Config,
    backend::{Backend, BackendError, Rows, Tensor},
    breaker::Breaker,
    manifest::{Manifest, Output},
    metrics,
};

/// Runs a version, as many calls at a time as it may.
pub(crate) struct Runner {
    backend: Arc<dyn Backend>,
    name: String,
    number: String,
    output: Output,
    limits: Limits,
    breaker: Breaker,
    line: Mutex<Line>,
}

/// Who waits longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits for it within milliseconds.
    RealTime,
    /// Runs when nothing urgent waits.
    Batch,
}

/// What a version answered, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scored {
    /// The tensor as the model gave it.
    pub(crate) tensor: Tensor,
    /// Its column of the score.
    pub(crate) scores: Vec<f64>,
    /// How long the model took.
    pub(crate) took: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunError {
    QueueFull,
    Deadline,
    Model(BackendError),
}

struct Limits {
    queue_calls_max: usize,
    batch_calls_max: usize,
    batch_rows_max: usize,
    patience: Duration,
}

struct Line {
    free: usize,
    real_time: VecDeque<Waiting>,
    batch: VecDeque<Waiting>,
}

struct Waiting {
    rows: Rows,
    answer: oneshot::Sender<Result<Scored, RunError>>,
}

/// The right to run. When it is dropped, whoever waits has it.
struct Turn {
    runner: Arc<Runner>,
    given_back: bool,
}

enum Place {
    Turn(Turn, Rows),
    InLine(oneshot::Receiver<Result<Scored, RunError>>),
}

// === impl Runner ===

impl Runner {
    pub(crate) fn new(backend: Arc<dyn Backend>, manifest: &Manifest, config: &Config) -> Arc<Self> {
        let free = config.calls_per_version_max.max(1);
        Arc::new(Self {
            backend,
            name: manifest.name.clone(),
            number: manifest.version.clone(),
            output: manifest.output.clone(),
            limits: Limits {
                queue_calls_max: config.queue_calls_max,
                batch_calls_max: config.batch_calls_max.max(1),
                batch_rows_max: config.batch_rows_max.max(1),
                patience: Duration::from_millis(config.inference_millis_max),
            },
            breaker: Breaker::new(config),
            line: Mutex::new(Line { free, real_time: VecDeque::new(), batch: VecDeque::new() }),
        })
    }

    pub(crate) fn platform(&self) -> &'static str {
        self.backend.platform()
    }

    pub(crate) fn patience(&self) -> Duration {
        self.limits.patience
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Scores rows when their turn comes; more than fit into a run are run in parts, behind what is urgent.
    ///
    /// # Errors
    /// A full queue, or what the model did.
    pub(crate) async fn score(self: &Arc<Self>, rows: Rows, urgency: Urgency) -> Result<Scored, RunError> {
        if rows.count() <= self.limits.batch_rows_max {
            return self.run(rows, urgency).await;
        }
        let mut whole: Option<Scored> = None;
        for part in rows.values.chunks(self.limits.batch_rows_max * rows.width) {
            let part = Rows { values: part.to_vec(), width: rows.width };
            let part = self.run(part, Urgency::Batch).await?;
            match &mut whole {
                Some(whole) => whole.append(part),
                None => whole = Some(part),
            }
        }
        // There is at least one row.
        whole.ok_or(RunError::QueueFull)
    }

    async fn run(self: &Arc<Self>, rows: Rows, urgency: Urgency) -> Result<Scored, RunError> {
        let (turn, rows) = match self.enter(rows, urgency)? {
            Place::InLine(answer) => return answer.await.unwrap_or_else(|_| Err(lost())),
            Place::Turn(turn, rows) => (turn, rows),
        };
        // Whoever is about to ask, too, gets in line; with nobody about this is over at once.
        tokio::task::yield_now().await;
        let joined = turn.runner.take(1, rows.count());
        if joined.is_empty() {
            return self.infer(rows).await.map_err(RunError::Model);
        }
        // In a task of its own: others wait for it, too, and this one may go away.
        let (answer, mine) = oneshot::channel();
        let first = std::iter::once(Waiting { rows, answer });
        service::task::spawn("model", turn.work(first.chain(joined).collect()));
        mine.await.unwrap_or_else(|_| Err(lost()))
    }

    fn enter(self: &Arc<Self>, rows: Rows, urgency: Urgency) -> Result<Place, RunError> {
        let mut line = self.line.lock();
        if line.free > 0 {
            line.free -= 1;
            return Ok(Place::Turn(Turn { runner: Arc::clone(self), given_back: false }, rows));
        }
        let queue = match urgency {
            Urgency::RealTime => &mut line.real_time,
            Urgency::Batch => &mut line.batch,
        };
        if queue.len() >= self.limits.queue_calls_max {
            queue.retain(|waiting| !waiting.answer.is_closed());
        }
        if queue.len() >= self.limits.queue_calls_max {
            return Err(RunError::QueueFull);
        }
        let (answer, mine) = oneshot::channel();
        queue.push_back(Waiting { rows, answer });
        Ok(Place::InLine(mine))
    }

    /// What fits into a run that has some calls and rows already.
    fn take(&self, calls: usize, rows: usize) -> Vec<Waiting> {
        self.line.lock().take(&self.limits, calls, rows)
    }

    /// One run of the model, its answer checked.
    async fn infer(&self, rows: Rows) -> Result<Scored, BackendError> {
        let count = rows.count();
        let begin = Instant::now();
        let answer = self.backend.infer(rows).await;
        let took = begin.elapsed();
        metrics::ran(&self.name, &self.number, took, count);
        let checked = answer.and_then(|tensor| {
            let scores = tensor.scores(&self.output, count).map_err(BackendError::Wrong)?;
            Ok(Scored { tensor, scores, took })
        });
        self.breaker.note(checked.is_ok());
        checked
    }

    async fn answer(&self, mut calls: Vec<Waiting>) {
        calls.retain(|call| !call.answer.is_closed());
        let Some(first) = calls.first() else { return };
        let width = first.rows.width;
        let values = match &calls[..] {
            [only] => only.rows.values.clone(),
            _ => calls.iter().flat_map(|call| call.rows.values.iter().copied()).collect(),
        };
        let run = tokio::time::timeout(self.limits.patience, self.infer(Rows { values, width }));
        let outcome = tokio::select! {
            outcome = run => outcome,
            () = all_gone(&mut calls) => return,
        };
        match outcome {
            Ok(Ok(scored)) => {
                let mut at = 0;
                for call in calls {
                    let count = call.rows.count();
                    // Whoever has gone does not want it.
                    let _ = call.answer.send(Ok(scored.part(at, count)));
                    at += count;
                }
            }
            // Perhaps only one of them is what the model cannot answer.
            Ok(Err(BackendError::Wrong(_))) if calls.len() > 1 => {
                for call in calls {
                    let alone = tokio::time::timeout(self.limits.patience, self.infer(call.rows)).await;
                    let _ = call
                        .answer
                        .send(alone.map_or(Err(RunError::Deadline), |ran| ran.map_err(RunError::Model)));
                }
            }
            Ok(Err(error)) => {
                for call in calls {
                    let _ = call.answer.send(Err(RunError::Model(error.clone())));
                }
            }
            Err(_) => {
                for call in calls {
                    let _ = call.answer.send(Err(RunError::Deadline));
                }
            }
        }
    }
}

async fn all_gone(calls: &mut [Waiting]) {
    for call in calls {
        call.answer.closed().await;
    }
}

/// A run that ended without an answer: a panic, which was logged, or the end of the process.
fn lost() -> RunError {
    RunError::Model(BackendError::Away("the run was lost".into()))
}

// === impl Line ===

impl Line {
    fn take(&mut self, limits: &Limits, mut calls: usize, mut rows: usize) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for queue in [&mut self.real_time, &mut self.batch] {
            while let Some(next) = queue.front() {
                let count = next.rows.count();
                if next.answer.is_closed() {
                    queue.pop_front();
                    continue;
                }
                if calls > 0 && (calls == limits.batch_calls_max || rows + count > limits.batch_rows_max) {
                    return taken;
                }
                calls += 1;
                rows += count;
                taken.extend(queue.pop_front());
            }
        }
        taken
    }
}

// === impl Turn ===

impl Turn {
    /// Runs these calls, and then those that wait, until there is none.
    async fn work(mut self, mut calls: Vec<Waiting>) {
        while !calls.is_empty() {
            self.runner.answer(calls).await;
            calls = self.next();
        }
    }

    /// The next calls to run; with none the turn is given back.
    fn next(&mut self) -> Vec<Waiting> {
        let mut line = self.runner.line.lock();
        let next = line.take(&self.runner.limits, 0, 0);
        if next.is_empty() {
            line.free += 1;
            self.given_back = true;
        }
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.given_back {
            return;
        }
        let next = self.next();
        if next.is_empty() {
            return;
        }
        // Its turn goes on.
        let turn = Self { runner: Arc::clone(&self.runner), given_back: false };
        if Handle::try_current().is_ok() {
            service::task::spawn("model", turn.work(next));
        }
    }
}

// === impl Scored ===

impl Scored {
    fn append(&mut self, next: Self) {
        self.tensor.shape[0] += next.tensor.shape[0];
        self.tensor.values.extend(next.tensor.values);
        self.scores.extend(next.scores);
        self.took += next.took;
    }

    fn part(&self, at: usize, count: usize) -> Self {
        let columns = self.tensor.values.len() / self.scores.len();
        let mut shape = self.tensor.shape.clone();
        shape[0] = count as i64;
        Self {
            tensor: Tensor {
                shape,
                values: self.tensor.values[at * columns..(at + count) * columns].to_vec(),
            },
            scores: self.scores[at..at + count].to_vec(),
            took: self.took,
        }
    }
}
