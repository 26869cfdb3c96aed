//! Who consumes: positions of consumers, and the sharing of partitions among the processes of one.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    client::ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::KafkaError,
};
use tokio::sync::watch;

use super::{
    REQUEST_WAIT, Topic, ask, away, blocking, member_config, refused,
    settings::Settings,
    stats::{self, Quiet},
};
use crate::LogError;

/// How often a member looks after its membership.
const MEMBER_POLL: Duration = Duration::from_millis(50);

/// The most consumers whose positions a process asks for; their names are words of the program.
const CONSUMERS_MAX: usize = 16;

/// The consumers of a log, each a group of its own.
pub(crate) struct Groups {
    topic: Arc<Topic>,
    config: ClientConfig,
    session: Duration,
    /// Clients to ask for positions with, by consumer.
    clients: Mutex<HashMap<String, Arc<BaseConsumer<Quiet>>>>,
    members: Mutex<HashMap<String, Weak<BaseConsumer<Member>>>>,
}

/// A member: its partitions are its own business and those who watch them.
struct Member {
    partitions: watch::Sender<BTreeSet<u32>>,
}

// === impl Groups ===

impl Groups {
    pub(crate) fn new(settings: &Settings, config: &ClientConfig, topic: Arc<Topic>) -> Self {
        Self {
            topic,
            config: config.clone(),
            session: settings.session,
            clients: Mutex::default(),
            members: Mutex::default(),
        }
    }

    /// Becomes a member, until nobody watches any more.
    pub(crate) fn join(&self, consumer: &str) -> Result<watch::Receiver<BTreeSet<u32>>, LogError> {
        let session = self.session.as_millis();
        let mut config = member_config(&self.config, &self.group(consumer));
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session.to_string())
            .set("heartbeat.interval.ms", (session / 6).to_string())
            // Life is a heartbeat of the process: work on a record may take as long as its stores are away.
            .set("max.poll.interval.ms", session.max(300_000).to_string());
        let (partitions, watching) = watch::channel(BTreeSet::new());
        let member: BaseConsumer<Member> =
            config.create_with_context(Member { partitions }).map_err(|error| refused(&error))?;
        let member = Arc::new(member);
        member.subscribe(&[&self.topic.name]).map_err(|error| refused(&error))?;
        self.members.lock().insert(consumer.to_owned(), Arc::downgrade(&member));
        let looking = std::thread::Builder::new().name("kafka-member".to_owned()).spawn(move || {
            while !member.context().partitions.is_closed() {
                if let Some(Err(error)) = member.poll(MEMBER_POLL) {
                    stats::tell(&error, "membership");
                }
            }
        });
        looking.map_err(|error| LogError::Unavailable(format!("no thread for the membership: {error}")))?;
        Ok(watching)
    }

    /// Stores a position, as a member where this process is one: that of a member which was put out is refused.
    pub(crate) async fn commit(&self, consumer: &str, partition: u32, offset: u64) -> Result<(), LogError> {
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(&self.topic.name, partition as i32, Offset::Offset(offset as i64))
            .map_err(|error| away(&error))?;
        let member = self.members.lock().get(consumer).and_then(Weak::upgrade);
        let commit: Box<dyn FnOnce() -> Result<(), KafkaError> + Send> = match member {
            Some(member) if !member.context().partitions.borrow().contains(&partition) => {
                let reason = format!("partition {partition} is not this process's: another has taken it");
                return Err(LogError::Unavailable(reason));
            }
            Some(member) => Box::new(move || member.commit(&at, CommitMode::Sync)),
            None => {
                let client = self.client(consumer)?;
                Box::new(move || client.commit(&at, CommitMode::Sync))
            }
        };
        blocking(move || commit().map_err(|error| away(&error))).await
    }

    pub(crate) async fn committed(&self, consumer: &str, partition: u32) -> Result<Option<u64>, LogError> {
        let (client, topic) = (self.client(consumer)?, Arc::clone(&self.topic));
        blocking(move || {
            let mut asked = TopicPartitionList::new();
            asked.add_partition(&topic.name, partition as i32);
            let found = ask(REQUEST_WAIT, || {
                let found = client.committed_offsets(asked.clone(), REQUEST_WAIT)?;
                let Some(found) = found.find_partition(&topic.name, partition as i32) else {
                    return Ok(Offset::Invalid);
                };
                found.error().map(|()| found.offset())
            })?;
            match found {
                Offset::Offset(offset) => Ok(u64::try_from(offset).ok()),
                _ => Ok(None),
            }
        })
        .await
    }

    fn client(&self, consumer: &str) -> Result<Arc<BaseConsumer<Quiet>>, LogError> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(consumer) {
            return Ok(Arc::clone(client));
        }
        if clients.len() >= CONSUMERS_MAX {
            return Err(LogError::Unavailable(format!("at most {CONSUMERS_MAX} consumers are asked for")));
        }
        let config = member_config(&self.config, &self.group(consumer));
        let client: BaseConsumer<Quiet> =
            config.create_with_context(Quiet).map_err(|error| refused(&error))?;
        Ok(Arc::clone(clients.entry(consumer.to_owned()).or_insert_with(|| Arc::new(client))))
    }

    /// Groups are the cluster's, consumers the log's.
    fn group(&self, consumer: &str) -> String {
        format!("{}.{consumer}", self.topic.name)
    }
}

// === impl Member ===

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        stats::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        stats::tell(&error, reason);
    }
}

impl ConsumerContext for Member {
    /// Before the group is told that they are free.
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance {
            let gone = numbers(partitions);
            tracing::info!(partitions = ?gone, "partitions are taken away");
            self.partitions.send_modify(|own| own.retain(|partition| !gone.contains(partition)));
        }
    }

    fn post_rebalance(&self, member: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            // Records are read by readers of their own.
            if let Err(error) = member.pause(partitions) {
                stats::tell(&error, "a partition is not paused");
            }
            let new = numbers(partitions);
            tracing::info!(partitions = ?new, "partitions are given");
            self.partitions.send_modify(|own| own.extend(new));
        }
    }
}

fn numbers(partitions: &TopicPartitionList) -> BTreeSet<u32> {
    partitions.elements().iter().map(|element| element.partition() as u32).collect()
}
