//! The topic before it is used: made when the URL says how, and refused when it does not keep the log's promises.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    client::ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
};
use tokio::time::Instant;

use super::{
    OPEN_WAIT, REQUEST_WAIT, ask, away, blocking, refused,
    settings::Settings,
    stats::{self, Quiet},
};
use crate::LogError;

/// How long a broker may take to let us in before it is asked again, or a login is seen to be refused.
const LOGIN_WAIT: Duration = Duration::from_secs(3);

/// How many events of a client are heard for the reason of a failure, and how long each is waited for.
const EVENTS_MAX: usize = 20;
const EVENT_WAIT: Duration = Duration::from_millis(20);

/// How often a broker is asked again for a topic that is new.
const LOOK: Duration = Duration::from_millis(100);

/// Whose login is refused is told so.
#[derive(Default)]
struct Arriving {
    refused: Mutex<Option<String>>,
}

impl ClientContext for Arriving {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        stats::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Authentication) {
            *self.refused.lock() = Some(reason.to_owned());
        }
        stats::tell(&error, reason);
    }
}

impl ConsumerContext for Arriving {}

/// The cluster's id, and how many partitions the topic has.
pub(crate) async fn prepare(settings: &Settings, config: &ClientConfig) -> Result<(String, u32), LogError> {
    let admin: AdminClient<Quiet> = config.create_with_context(Quiet).map_err(|error| refused(&error))?;
    let admin = Arc::new(admin);
    let arriving: BaseConsumer<Arriving> =
        config.create_with_context(Arriving::default()).map_err(|error| refused(&error))?;
    let arriving = Arc::new(arriving);
    let partitions = match (partitions(&arriving, &settings.topic).await?, settings.partitions) {
        (Some(there), _) => there,
        (None, Some(asked)) => {
            make(&admin, settings, asked).await?;
            known(&arriving, &settings.topic).await?
        }
        (None, None) => {
            return Err(LogError::Url(format!(
                "there is no topic {}: make it, or say with how many partitions=",
                settings.topic
            )));
        }
    };
    if let Some(asked) = settings.partitions.filter(|asked| *asked != partitions) {
        return Err(LogError::Url(format!("the topic was made with partitions={partitions}, not {asked}")));
    }
    check(&admin, settings).await?;
    let asked = Arc::clone(&admin);
    let cluster = blocking(move || Ok(asked.inner().fetch_cluster_id(REQUEST_WAIT))).await?;
    let cluster =
        cluster.ok_or_else(|| LogError::Unavailable("kafka: it does not say its cluster id".to_owned()))?;
    Ok((cluster, partitions))
}

async fn partitions(arriving: &Arc<BaseConsumer<Arriving>>, topic: &str) -> Result<Option<u32>, LogError> {
    let (arriving, name) = (Arc::clone(arriving), topic.to_owned());
    blocking(move || {
        let metadata = ask(OPEN_WAIT, || let_in(&arriving, &name))?
            .map_err(|reason| LogError::Unavailable(format!("kafka: the login is refused: {reason}")))?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
            return Ok(None);
        };
        match topic.error().map(RDKafkaErrorCode::from) {
            None => Ok(Some(topic.partitions().len() as u32)),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => Ok(None),
            Some(code) => Err(LogError::Unavailable(format!("kafka: topic {name}: {code}"))),
        }
    })
    .await
}

/// What is known of the topic, or why nothing is told to this login.
fn let_in(arriving: &BaseConsumer<Arriving>, topic: &str) -> Result<Result<Metadata, String>, KafkaError> {
    let answer = arriving.fetch_metadata(Some(topic), LOGIN_WAIT);
    // Errors are told while it is polled, behind what else there is to tell.
    for _ in 0..EVENTS_MAX {
        if answer.is_ok() || arriving.context().refused.lock().is_some() {
            break;
        }
        drop(arriving.poll(EVENT_WAIT));
    }
    match (answer, arriving.context().refused.lock().take()) {
        (Ok(metadata), _) => Ok(Ok(metadata)),
        (Err(_), Some(reason)) => Ok(Err(reason)),
        (Err(error), None) => Err(error),
    }
}

async fn make<C: ClientContext>(
    admin: &AdminClient<C>,
    settings: &Settings,
    partitions: u32,
) -> Result<(), LogError> {
    let replicas = settings.min_insync_replicas.to_string();
    let topic =
        NewTopic::new(&settings.topic, partitions as i32, TopicReplication::Fixed(settings.replication))
            .set("message.timestamp.type", "LogAppendTime")
            .set("min.insync.replicas", &replicas)
            .set("unclean.leader.election.enable", "false")
            .set("cleanup.policy", "delete")
            // The log is the source of truth: what goes is the operator's to say.
            .set("retention.ms", "-1");
    let made = admin.create_topics([&topic], &options()).await.map_err(|error| away(&error))?;
    match made.into_iter().next() {
        // Another process was first; it is checked like one that was there.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) => {
            tracing::info!(topic = settings.topic, partitions, "a topic was made");
            Ok(())
        }
        Some(Err((name, code))) => {
            Err(LogError::Unavailable(format!("kafka: topic {name} is not made: {code}")))
        }
        None => Err(LogError::Unavailable("kafka: no answer to the making of the topic".to_owned())),
    }
}

/// How many partitions a topic has that was made just now, by us or by another process.
async fn known(arriving: &Arc<BaseConsumer<Arriving>>, topic: &str) -> Result<u32, LogError> {
    let until = Instant::now() + REQUEST_WAIT;
    loop {
        match partitions(arriving, topic).await? {
            Some(partitions) => return Ok(partitions),
            None if Instant::now() > until => {
                return Err(LogError::Unavailable(format!("kafka: topic {topic} was made and is not there")));
            }
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn check<C: ClientContext>(admin: &AdminClient<C>, settings: &Settings) -> Result<(), LogError> {
    let name = &settings.topic;
    let topic = describe(admin, name).await?;
    for (key, wanted) in [
        ("message.timestamp.type", "LogAppendTime"),
        ("unclean.leader.election.enable", "false"),
        ("cleanup.policy", "delete"),
    ] {
        let value = value(&topic, key);
        if value != wanted {
            return Err(LogError::Url(format!("topic {name} has {key}={value}: set it to {wanted}")));
        }
    }
    let replicas = value(&topic, "min.insync.replicas");
    if replicas.parse::<u32>().is_ok_and(|replicas| replicas >= settings.min_insync_replicas) {
        return Ok(());
    }
    Err(LogError::Url(format!(
        "topic {name} has min.insync.replicas={replicas}: set it to {least} or more, or say min_insync_replicas={replicas}",
        least = settings.min_insync_replicas
    )))
}

/// What the cluster says of a topic, once the broker that is asked knows it: one that was made just now may not.
async fn describe<C: ClientContext>(admin: &AdminClient<C>, name: &str) -> Result<ConfigResource, LogError> {
    let until = Instant::now() + REQUEST_WAIT;
    loop {
        let answer = admin.describe_configs([&ResourceSpecifier::Topic(name)], &options()).await;
        let reason = match answer.map_err(|error| away(&error))?.into_iter().next() {
            Some(Ok(topic)) if !value(&topic, "message.timestamp.type").is_empty() => return Ok(topic),
            Some(Err(code)) => code.to_string(),
            _ => "the broker does not know it".to_owned(),
        };
        if Instant::now() > until {
            return Err(LogError::Unavailable(format!("kafka: topic {name} cannot be looked at: {reason}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn value<'a>(topic: &'a ConfigResource, key: &str) -> &'a str {
    topic.get(key).and_then(|entry| entry.value.as_deref()).unwrap_or_default()
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_WAIT)).operation_timeout(Some(REQUEST_WAIT))
}
