//! The log in Kafka: one topic, whose partitions are the log's. `docs/adr/0010-kafka-log.md` says why it is made so.
//!
//! Owns everything that knows librdkafka. A Kafka record is a record of the log, its offset is Kafka's.

mod appender;
mod group;
mod reader;
mod record;
mod settings;
mod stats;
mod times;
mod topic;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult},
};
use tokio::sync::watch;

use crate::{
    Appended, End, Entry, EventLog, LogError,
    limits::{check_consumer, check_frame, check_partition, check_within},
    memory::unix_micros,
    url::LogUrl,
};
use appender::Appender;
use group::Groups;
use reader::Reader;
use settings::Settings;
use times::{Mark, last_time};

/// How long one question to the brokers may take.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// How long the cluster may take to be there when a log is opened.
const OPEN_WAIT: Duration = Duration::from_secs(30);

/// How long it is until a question is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The longest name of a consumer group that Kafka is asked for stays far below its limit.
const TOPIC_BYTES_MAX: usize = 180;

/// A log whose records are those of a topic.
pub(crate) struct KafkaLog {
    id: u128,
    topic: Arc<Topic>,
    appender: Appender,
    readers: Vec<Reader>,
    groups: Groups,
    skew_micros: i64,
}

/// A topic, and a client to ask about it.
pub(crate) struct Topic {
    name: String,
    partitions: u32,
    client: Arc<BaseConsumer<stats::Quiet>>,
    /// Per partition the last end that was looked up, and what times come to there.
    ends: Vec<Mutex<(u64, Option<Mark>)>>,
}

// === impl KafkaLog ===

impl KafkaLog {
    pub(crate) async fn open(url: LogUrl) -> Result<Arc<Self>, LogError> {
        let settings = Settings::from_url(url)?;
        let config = settings.client();
        let (cluster, partitions) = topic::prepare(&settings, &config).await?;
        let mut hash = blake3::Hasher::new();
        hash.update(cluster.as_bytes()).update(&[0]).update(settings.topic.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize().as_bytes()[..16]);
        let lanes = reader::lanes(&settings, &config)?;
        let topic = Arc::new(Topic {
            name: settings.topic.clone(),
            partitions,
            client: Arc::clone(lanes.client()),
            ends: (0..partitions).map(|_| Mutex::default()).collect(),
        });
        Ok(Arc::new(Self {
            id: u128::from_be_bytes(id),
            appender: Appender::start(&settings, &config, &topic)?,
            readers: (0..partitions)
                .map(|partition| Reader::new(partition, Arc::clone(&topic), &lanes))
                .collect::<Result<_, _>>()?,
            groups: Groups::new(&settings, &config, Arc::clone(&topic)),
            topic,
            skew_micros: settings.clock_skew.as_micros() as i64,
        }))
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    fn partitions(&self) -> u32 {
        self.topic.partitions
    }

    fn id(&self) -> u128 {
        self.id
    }

    async fn append(&self, partition: u32, frame: Bytes) -> Result<Appended, LogError> {
        self.topic.check(partition)?;
        check_frame(&frame)?;
        self.appender.append(partition, frame).await
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, LogError> {
        self.topic.check(partition)?;
        self.readers[partition as usize].read(from, bytes_max, wait).await
    }

    async fn end(&self, partition: u32) -> Result<End, LogError> {
        self.topic.check(partition)?;
        // Before the question: what comes after the answer is later than this by the broker's clock, but for its skew.
        let now = unix_micros();
        let (_, offset) = self.topic.bounds(partition).await?;
        let mark = self.topic.mark_before(partition, offset).await?;
        let after_last = last_time(mark, offset).unwrap_or(i64::MIN);
        Ok(End { offset, time_micros: after_last.max(now - self.skew_micros) })
    }

    async fn commit(&self, consumer: &str, partition: u32, offset: u64) -> Result<(), LogError> {
        check_consumer(consumer)?;
        self.topic.check(partition)?;
        check_within(offset, self.topic.bounds(partition).await?.1)?;
        self.groups.commit(consumer, partition, offset).await
    }

    async fn committed(&self, consumer: &str, partition: u32) -> Result<Option<u64>, LogError> {
        check_consumer(consumer)?;
        self.topic.check(partition)?;
        self.groups.committed(consumer, partition).await
    }

    async fn join(&self, consumer: &str) -> Result<watch::Receiver<BTreeSet<u32>>, LogError> {
        check_consumer(consumer)?;
        self.groups.join(consumer)
    }

    fn health(&self) -> Result<(), String> {
        self.appender.health()
    }

    fn queue_depth(&self) -> usize {
        self.appender.queue_depth()
    }
}

// === impl Topic ===

impl Topic {
    fn check(&self, partition: u32) -> Result<(), LogError> {
        check_partition(partition, self.partitions as usize)
    }

    /// The first offset that is still there, and the durable end.
    async fn bounds(self: &Arc<Self>, partition: u32) -> Result<(u64, u64), LogError> {
        let topic = Arc::clone(self);
        blocking(move || {
            let (low, high) = ask(REQUEST_WAIT, || {
                topic.client.fetch_watermarks(&topic.name, partition as i32, REQUEST_WAIT)
            })?;
            // Kafka's offsets are never negative.
            Ok((low as u64, high as u64))
        })
        .await
    }

    /// What the times of a partition come to before an offset; see [`times`].
    async fn mark_before(self: &Arc<Self>, partition: u32, offset: u64) -> Result<Option<Mark>, LogError> {
        let (known_at, known) = *self.ends[partition as usize].lock();
        if known_at == offset {
            return Ok(known);
        }
        let least = known.filter(|_| known_at < offset).map_or(0, |mark| mark.millis);
        let topic = Arc::clone(self);
        let mark = blocking(move || times::mark_before(&topic, partition, offset, least)).await?;
        self.reached(partition, offset, mark);
        Ok(mark)
    }

    /// Remembers what times come to before an offset.
    fn reached(&self, partition: u32, offset: u64, mark: Option<Mark>) {
        let mut end = self.ends[partition as usize].lock();
        if end.0 < offset {
            *end = (offset, mark);
        }
    }
}

/// Runs what waits for an answer of librdkafka without being a future.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let stopped = |error| Err(LogError::Unavailable(format!("the runtime stops: {error}")));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(stopped)
}

/// Asks the brokers, again until the time is up: one that was asked may be away, new, or no leader any more.
fn ask<T>(wait: Duration, question: impl Fn() -> KafkaResult<T>) -> Result<T, LogError> {
    let until = Instant::now() + wait;
    loop {
        match question() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= until => return Err(away(&error)),
            Err(error) => stats::tell(&error, "asked again"),
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// A question that was not answered.
fn away(error: &KafkaError) -> LogError {
    LogError::Unavailable(format!("kafka: {error}"))
}

/// Settings that librdkafka does not take.
fn refused(error: &KafkaError) -> LogError {
    LogError::Url(format!("kafka: {error}"))
}

/// A consumer of a group, which does not read by itself.
fn member_config(config: &ClientConfig, group: &str) -> ClientConfig {
    let mut config = config.clone();
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error");
    config
}
