//! Reads: a few places per partition at which records are fetched ahead.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, Message, Offset, Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, base_consumer::PartitionQueue},
    error::KafkaError,
    message::BorrowedMessage,
};
use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    time::Instant,
};

use super::{
    Topic, away, blocking, member_config, record, refused,
    settings::Settings,
    stats::{self, Quiet},
    times::{Mark, next_time},
};
use crate::{Entry, LogError, Record, limits::check_within};

/// Readers of one partition that each go on where they were: a worker and a fact writer.
const LANES: usize = 2;

/// How long a record that is known to be there may take to come.
const FETCH_WAIT: Duration = Duration::from_secs(15);

/// How often a waiting reader looks by itself.
const LOOK: Duration = Duration::from_millis(200);

/// How often the events of idle lanes are cleared away.
const DRAIN: Duration = Duration::from_millis(250);

/// Kilobytes fetched ahead for each place.
const AHEAD_KBYTES: &str = "4096";

/// How often a place is taken up again because records do not follow each other.
const PLACINGS_MAX: u32 = 3;

/// Clients that fetch; each can be at one place of a partition.
pub(crate) struct Lanes(Vec<Arc<BaseConsumer<Quiet>>>);

/// Reads one partition.
pub(crate) struct Reader {
    partition: u32,
    topic: Arc<Topic>,
    lanes: Vec<Lane>,
    reads: AtomicU64,
}

struct Lane {
    client: Arc<BaseConsumer<Quiet>>,
    queue: PartitionQueue<Quiet>,
    arrived: Arc<Notify>,
    cursor: Mutex<Cursor>,
}

/// Where a lane is.
#[derive(Default)]
struct Cursor {
    /// The next record it will yield; `None`: it has to be placed.
    at: Option<u64>,
    /// What times come to there.
    mark: Option<Mark>,
    assigned: bool,
    /// When it was read last, counted in reads.
    used: u64,
}

/// What is read in one call.
struct Taken {
    entries: Vec<Entry>,
    bytes: usize,
}

/// Why a lane does not go on.
enum Trouble {
    /// Another record than the next one came.
    Jump,
    Error(LogError),
}

// === impl Lanes ===

pub(crate) fn lanes(settings: &Settings, config: &ClientConfig) -> Result<Lanes, LogError> {
    let mut config = member_config(config, &format!("{}.reader", settings.topic));
    config
        .set("check.crcs", "true")
        // The end of the log is the durable one, and so is what is read.
        .set("isolation.level", "read_uncommitted")
        .set("queued.max.messages.kbytes", AHEAD_KBYTES)
        .set("fetch.error.backoff.ms", "100")
        // A broker is asked one thing at a time: a place that is taken up waits for the last question about others.
        .set("fetch.wait.max.ms", "50");
    let mut clients = Vec::new();
    for _ in 0..LANES {
        let client: BaseConsumer<Quiet> =
            config.create_with_context(Quiet).map_err(|error| refused(&error))?;
        clients.push(Arc::new(client));
    }
    let watched: Vec<Weak<_>> = clients.iter().map(Arc::downgrade).collect();
    let drain = move || {
        while drain(&watched) {
            std::thread::sleep(DRAIN);
        }
    };
    std::thread::Builder::new()
        .name("kafka-lanes".to_owned())
        .spawn(drain)
        .map_err(|error| LogError::Unavailable(format!("no thread for the readers: {error}")))?;
    Ok(Lanes(clients))
}

/// Clears away what is no record; false when the log is closed.
fn drain(lanes: &[Weak<BaseConsumer<Quiet>>]) -> bool {
    lanes.iter().all(|lane| {
        let Some(lane) = lane.upgrade() else { return false };
        while let Some(event) = lane.poll(Duration::ZERO) {
            if let Err(error) = event {
                stats::tell(&error, "reading");
            }
        }
        true
    })
}

impl Lanes {
    /// The first, to ask questions with.
    pub(crate) fn client(&self) -> &Arc<BaseConsumer<Quiet>> {
        &self.0[0]
    }
}

// === impl Reader ===

impl Reader {
    pub(crate) fn new(partition: u32, topic: Arc<Topic>, lanes: &Lanes) -> Result<Self, LogError> {
        let lanes = lanes.0.iter().map(|client| Lane::new(client, &topic.name, partition)).collect();
        let lanes: Option<Vec<Lane>> = lanes;
        let lanes =
            lanes.ok_or_else(|| LogError::Unavailable(format!("no queue for partition {partition}")))?;
        Ok(Self { partition, topic, lanes, reads: AtomicU64::new(0) })
    }

    pub(crate) async fn read(
        &self,
        from: u64,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, LogError> {
        let until = Instant::now() + wait;
        let (lane, mut cursor) = self.lane(from).await;
        cursor.used = self.reads.fetch_add(1, Ordering::Relaxed);
        if cursor.at != Some(from)
            && let Some(gap) = self.place(lane, &mut cursor, from).await?
        {
            return Ok(vec![gap]);
        }
        let mut until = until;
        let mut known_to_be_there = false;
        let mut placings = 0;
        loop {
            let mut taken = Taken { entries: Vec::new(), bytes: 0 };
            let trouble = lane.take(&mut cursor, &mut taken, bytes_max);
            if !taken.entries.is_empty() {
                // What is wrong behind them is met by the next read.
                if let (Some(at), Ok(())) = (cursor.at, &trouble) {
                    self.topic.reached(self.partition, at, cursor.mark);
                }
                return Ok(taken.entries);
            }
            match trouble {
                Ok(()) => {}
                Err(Trouble::Error(error)) => return Err(error),
                Err(Trouble::Jump) if placings < PLACINGS_MAX => {
                    placings += 1;
                    if let Some(gap) = self.place(lane, &mut cursor, from).await? {
                        return Ok(vec![gap]);
                    }
                    continue;
                }
                Err(Trouble::Jump) => {
                    return Err(LogError::Corrupt(format!(
                        "partition {} has no record {from}, and later ones: nobody else may write to the topic",
                        self.partition
                    )));
                }
            }
            let now = Instant::now();
            if now < until {
                let look = (until - now).min(LOOK);
                // Nothing came: it looks again.
                let _ = tokio::time::timeout(look, lane.arrived.notified()).await;
            } else if known_to_be_there {
                cursor.at = None;
                return Err(LogError::Unavailable(format!("kafka: record {from} does not come")));
            } else if from >= self.topic.bounds(self.partition).await?.1 {
                return Ok(Vec::new());
            } else {
                known_to_be_there = true;
                until = now + FETCH_WAIT;
            }
        }
    }

    /// The lane that is there already, or the one that was not read for the longest.
    async fn lane(&self, from: u64) -> (&Lane, MutexGuard<'_, Cursor>) {
        let mut free: Vec<(&Lane, MutexGuard<'_, Cursor>)> = self
            .lanes
            .iter()
            .filter_map(|lane| lane.cursor.try_lock().ok().map(|cursor| (lane, cursor)))
            .collect();
        if let Some(there) = free.iter().position(|(_, cursor)| cursor.at == Some(from)) {
            return free.swap_remove(there);
        }
        let oldest = free.into_iter().min_by_key(|(_, cursor)| (cursor.at.is_some(), cursor.used));
        match oldest {
            Some(oldest) => oldest,
            None => (&self.lanes[0], self.lanes[0].cursor.lock().await),
        }
    }

    /// Moves a lane to an offset; the gap there is instead, if its records were removed.
    async fn place(&self, lane: &Lane, cursor: &mut Cursor, from: u64) -> Result<Option<Entry>, LogError> {
        cursor.at = None;
        let (low, high) = self.topic.bounds(self.partition).await?;
        check_within(from, high)?;
        if from < low {
            let reason = "removed by the topic's retention".to_owned();
            return Ok(Some(Entry::Gap { from, to: low, reason }));
        }
        let mark = self.topic.mark_before(self.partition, from).await?;
        let (client, assigned) = (Arc::clone(&lane.client), cursor.assigned);
        let mut place = TopicPartitionList::new();
        place
            .add_partition_offset(&self.topic.name, self.partition as i32, Offset::Offset(from as i64))
            .map_err(|error| away(&error))?;
        cursor.assigned = true;
        blocking(move || {
            if assigned {
                client.incremental_unassign(&place).map_err(|error| away(&error))?;
            }
            client.incremental_assign(&place).map_err(|error| away(&error))
        })
        .await
        .inspect_err(|_| cursor.assigned = assigned)?;
        (cursor.at, cursor.mark) = (Some(from), mark);
        Ok(None)
    }
}

// === impl Lane ===

impl Lane {
    fn new(client: &Arc<BaseConsumer<Quiet>>, topic: &str, partition: u32) -> Option<Self> {
        // Before it is assigned, so that no record goes elsewhere.
        let mut queue = client.split_partition_queue(topic, partition as i32)?;
        let arrived = Arc::new(Notify::new());
        let arrives = Arc::clone(&arrived);
        queue.set_nonempty_callback(move || arrives.notify_one());
        Some(Self { client: Arc::clone(client), queue, arrived, cursor: Mutex::default() })
    }

    /// Takes what has been fetched, as far as it is wanted.
    fn take(&self, cursor: &mut Cursor, taken: &mut Taken, bytes_max: usize) -> Result<(), Trouble> {
        while taken.entries.is_empty() || taken.bytes < bytes_max {
            let Some(at) = cursor.at else { return Ok(()) };
            match self.queue.poll(Duration::ZERO) {
                None => return Ok(()),
                Some(Err(error)) => {
                    if is_passing(&error) {
                        stats::tell(&error, "reading");
                        continue;
                    }
                    cursor.at = None;
                    return Err(Trouble::Error(away(&error)));
                }
                Some(Ok(message)) => {
                    let offset = message.offset() as u64;
                    if offset < at {
                        continue;
                    }
                    if offset > at {
                        cursor.at = None;
                        return Err(Trouble::Jump);
                    }
                    let entry =
                        entry(&message, &mut cursor.mark).map_err(Trouble::Error).inspect_err(|_| {
                            cursor.at = None;
                        })?;
                    cursor.at = Some(at + 1);
                    taken.bytes += message.payload_len();
                    taken.entries.push(entry);
                }
            }
        }
        Ok(())
    }
}

/// What librdkafka tries again by itself.
fn is_passing(error: &KafkaError) -> bool {
    !matches!(error, KafkaError::MessageConsumptionFatal(_))
        && error.rdkafka_error_code() != Some(rdkafka::error::RDKafkaErrorCode::AutoOffsetReset)
}

fn entry(message: &BorrowedMessage<'_>, mark: &mut Option<Mark>) -> Result<Entry, LogError> {
    let offset = message.offset() as u64;
    let Timestamp::LogAppendTime(millis) = message.timestamp() else {
        return Err(LogError::Corrupt(format!(
            "record {offset} was not stamped by its broker: set message.timestamp.type=LogAppendTime"
        )));
    };
    let time_micros = next_time(mark, offset, millis);
    Ok(match record::unpack(message.payload().unwrap_or_default()) {
        Ok(frames) => Entry::Record(Record { offset, time_micros, frames }),
        Err(reason) => Entry::Gap { from: offset, to: offset + 1, reason: reason.to_owned() },
    })
}
