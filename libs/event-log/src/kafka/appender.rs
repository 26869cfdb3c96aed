//! Appends: frames wait per partition while its last flush is under way, then go together as records.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rdkafka::{
    ClientConfig,
    error::KafkaError,
    producer::{FutureProducer, FutureRecord, Producer, future_producer::Delivery},
};
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinSet,
};

use super::{
    Topic, record, refused,
    settings::Settings,
    stats::{INTERVAL_MILLIS, Producing},
};
use crate::{Appended, LogError};

/// How long a failed flush speaks against the log's health, unless a later one succeeds.
const AILING: Duration = Duration::from_secs(5);

/// Takes frames, and answers when they are durable.
pub(crate) struct Appender {
    shared: Arc<Shared>,
    /// One flushes each partition; they end with the log.
    _flushing: JoinSet<()>,
}

struct Shared {
    topic: Arc<Topic>,
    config: ClientConfig,
    producer: RwLock<FutureProducer<Producing>>,
    reachable: watch::Sender<bool>,
    partitions: Vec<Queue>,
    /// Bytes and frames that wait or are under way, over all partitions.
    bytes: AtomicUsize,
    frames: AtomicUsize,
    bytes_max: usize,
    frames_max: usize,
    failed: Mutex<Option<(String, Instant)>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Waiting>>,
    wake: Notify,
}

struct Waiting {
    frame: Bytes,
    reply: oneshot::Sender<Result<Appended, LogError>>,
}

// === impl Appender ===

impl Appender {
    pub(crate) fn start(
        settings: &Settings,
        config: &ClientConfig,
        topic: &Arc<Topic>,
    ) -> Result<Self, LogError> {
        let mut config = config.clone();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.codec", "zstd")
            .set("compression.level", "1")
            // Frames have waited for each other already.
            .set("linger.ms", "0")
            .set("message.timeout.ms", settings.delivery.as_millis().to_string())
            .set("request.timeout.ms", "5000")
            .set("statistics.interval.ms", INTERVAL_MILLIS)
            // Never the first to refuse: the queue in front of it is bounded.
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", "2097151");
        let reachable = watch::Sender::new(true);
        let producer = producer(&config, &reachable)?;
        let shared = Arc::new(Shared {
            topic: Arc::clone(topic),
            config,
            producer: RwLock::new(producer),
            reachable,
            partitions: (0..topic.partitions).map(|_| Queue::default()).collect(),
            bytes: AtomicUsize::new(0),
            frames: AtomicUsize::new(0),
            bytes_max: settings.queue_bytes_max,
            frames_max: settings.queue_frames_max,
            failed: Mutex::default(),
        });
        let mut flushing = JoinSet::new();
        for partition in 0..topic.partitions {
            flushing.spawn(flush(Arc::clone(&shared), partition));
        }
        Ok(Self { shared, _flushing: flushing })
    }

    pub(crate) async fn append(&self, partition: u32, frame: Bytes) -> Result<Appended, LogError> {
        self.shared.reserve(frame.len())?;
        let (reply, answer) = oneshot::channel();
        let queue = &self.shared.partitions[partition as usize];
        queue.waiting.lock().push_back(Waiting { frame, reply });
        queue.wake.notify_one();
        answer.await.unwrap_or_else(|_| Err(LogError::Indeterminate("the log was closed".to_owned())))
    }

    pub(crate) fn health(&self) -> Result<(), String> {
        if !*self.shared.reachable.borrow() {
            return Err("kafka: no broker answers".to_owned());
        }
        match &*self.shared.failed.lock() {
            Some((reason, at)) if at.elapsed() < AILING => Err(format!("kafka: {reason}")),
            _ => Ok(()),
        }
    }

    pub(crate) fn queue_depth(&self) -> usize {
        self.shared.frames.load(Ordering::Relaxed)
    }
}

fn producer(
    config: &ClientConfig,
    reachable: &watch::Sender<bool>,
) -> Result<FutureProducer<Producing>, LogError> {
    let context = Producing { reachable: reachable.clone() };
    config.create_with_context(context).map_err(|error| refused(&error))
}

/// Flushes a partition for ever, one flush after the other: so what one appender sent first comes first.
async fn flush(shared: Arc<Shared>, partition: u32) {
    let queue = &shared.partitions[partition as usize];
    loop {
        let mut batch = std::mem::take(&mut *queue.waiting.lock());
        if batch.is_empty() {
            queue.wake.notified().await;
            continue;
        }
        let mut sent = Vec::new();
        while !batch.is_empty() {
            let rest = batch.split_off(record::fitting(batch.iter().map(|waiting| &waiting.frame)));
            let payload = record::pack(batch.iter().map(|waiting| &waiting.frame));
            sent.push((std::mem::replace(&mut batch, rest), shared.send(partition, &payload)));
        }
        let mut failure = None;
        for (frames, delivery) in sent {
            let answer = match delivery {
                Ok(delivery) => match delivery.await {
                    Ok(Ok(delivered)) => Ok(delivered),
                    // Tried until the time was up: a try may have come through, or may still.
                    Ok(Err((error, _))) => Err(LogError::Indeterminate(format!("kafka: {error}"))),
                    Err(_) => Err(LogError::Indeterminate("the producer was closed".to_owned())),
                },
                Err(error) => Err(LogError::Unavailable(format!("kafka: {error}"))),
            };
            // Said before it is answered: who was refused finds the log ailing, and who was not finds it well.
            match &answer {
                Err(error) => {
                    *shared.failed.lock() = Some((error.to_string(), Instant::now()));
                    failure = Some(error.to_string());
                }
                Ok(_) if failure.is_none() => *shared.failed.lock() = None,
                Ok(_) => {}
            }
            shared.reply(frames, answer.as_ref());
        }
        if let Some(reason) = failure {
            shared.fail(partition, reason);
        }
    }
}

// === impl Shared ===

impl Shared {
    fn reserve(&self, bytes: usize) -> Result<(), LogError> {
        let frames = self.frames.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes_now = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if frames <= self.frames_max && bytes_now <= self.bytes_max {
            return Ok(());
        }
        self.release(1, bytes);
        Err(LogError::Unavailable("too much waits to become durable: append again later".to_owned()))
    }

    fn release(&self, frames: usize, bytes: usize) {
        self.frames.fetch_sub(frames, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn send(&self, partition: u32, payload: &[u8]) -> Result<rdkafka::producer::DeliveryFuture, KafkaError> {
        let record: FutureRecord<'_, (), [u8]> =
            FutureRecord::to(&self.topic.name).partition(partition as i32).payload(payload);
        self.producer.read().send_result(record).map_err(|(error, _)| error)
    }

    fn reply(&self, frames: VecDeque<Waiting>, answer: Result<&Delivery, &LogError>) {
        for Waiting { frame, reply } in frames {
            self.release(1, frame.len());
            // Whoever asked may be gone.
            let _ = reply.send(match answer {
                Ok(delivered) => Ok(Appended {
                    offset: delivered.offset as u64,
                    time_micros: delivered.timestamp.to_millis().unwrap_or(0) * 1_000,
                }),
                Err(LogError::Unavailable(reason)) => Err(LogError::Unavailable(reason.clone())),
                Err(other) => Err(LogError::Indeterminate(other.to_string())),
            });
        }
    }

    /// What waited behind a flush that failed has waited long enough, and was never sent.
    fn fail(&self, partition: u32, reason: String) {
        tracing::warn!(partition, reason, "appends fail");
        let behind = std::mem::take(&mut *self.partitions[partition as usize].waiting.lock());
        self.reply(behind, Err(&LogError::Unavailable(reason)));
        let mut current = self.producer.write();
        if let Some((code, reason)) = current.client().fatal_error() {
            tracing::error!(%code, reason, "the producer is made anew");
            match producer(&self.config, &self.reachable) {
                Ok(new) => *current = new,
                Err(error) => tracing::error!(%error, "there is no new producer"),
            }
        }
    }
}
