//! What a URL says of the cluster, the topic and the limits.

use std::{path::Path, time::Duration};

use rdkafka::ClientConfig;

use super::TOPIC_BYTES_MAX;
use crate::{
    FRAME_BYTES_MAX, LogError, QUEUE_BYTES_MAX, QUEUE_FRAMES_MAX, limits::PARTITIONS_MAX, url::LogUrl,
};

const KNOWN: &str = "acks, partitions, replication, min_insync_replicas, queue_bytes_max, queue_frames_max, \
    delivery_millis_max, session_millis, clock_skew_millis_max, tls, ca_file, certificate_file, key_file, sasl, user, \
    password_file";

/// A parsed `kafka://` URL.
pub(crate) struct Settings {
    pub(crate) brokers: String,
    pub(crate) topic: String,
    /// How many partitions a topic is made with that is not there; one that is there has as many.
    pub(crate) partitions: Option<u32>,
    pub(crate) replication: i32,
    pub(crate) min_insync_replicas: u32,
    /// Bytes and frames that wait for all partitions together.
    pub(crate) queue_bytes_max: usize,
    pub(crate) queue_frames_max: usize,
    /// How long a record may take to be acknowledged.
    pub(crate) delivery: Duration,
    /// After how long without a sign of life a process loses its partitions.
    pub(crate) session: Duration,
    /// By how much a broker's clock may be behind this process's.
    pub(crate) clock_skew: Duration,
    security: Vec<(&'static str, String)>,
}

// === impl Settings ===

impl Settings {
    pub(crate) fn from_url(mut url: LogUrl) -> Result<Self, LogError> {
        let wrong = LogError::Url;
        let place =
            url.path.split_once('/').filter(|(brokers, topic)| !brokers.is_empty() && !topic.is_empty());
        let (brokers, topic) = place.ok_or_else(|| {
            wrong(format!("write kafka://broker:9092,broker:9092/topic, not {:?}", url.path))
        })?;
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if topic.len() > TOPIC_BYTES_MAX || !topic.bytes().all(legal) {
            return Err(wrong(format!(
                "a topic's name is 1 to {TOPIC_BYTES_MAX} of a-z, A-Z, 0-9, ., _ and -, not {topic:?}"
            )));
        }
        let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
        url.choice("acks", &["all"])?;
        let millis = |millis: Option<u64>, default: u64| Duration::from_millis(millis.unwrap_or(default));
        let settings = Self {
            brokers,
            topic,
            partitions: url.number("partitions", 1, PARTITIONS_MAX)?.map(|partitions| partitions as u32),
            replication: url.number("replication", 1, 100)?.unwrap_or(3) as i32,
            min_insync_replicas: url.number("min_insync_replicas", 1, 100)?.unwrap_or(2) as u32,
            queue_bytes_max: url
                .number("queue_bytes_max", FRAME_BYTES_MAX as u64, 1 << 30)?
                .map_or(QUEUE_BYTES_MAX, |bytes| bytes as usize),
            queue_frames_max: url
                .number("queue_frames_max", 1, 10_000_000)?
                .map_or(QUEUE_FRAMES_MAX, |frames| frames as usize),
            delivery: millis(url.number("delivery_millis_max", 1_000, 300_000)?, 15_000),
            session: millis(url.number("session_millis", 6_000, 1_800_000)?, 45_000),
            clock_skew: millis(url.number("clock_skew_millis_max", 1, 60_000)?, 250),
            security: security(&mut url)?,
        };
        url.finish(KNOWN)?;
        let is = |name, test: fn(&str) -> bool| {
            settings.security.iter().any(|(key, value)| *key == name && test(value))
        };
        let openssl =
            is("security.protocol", |it| it.contains("ssl")) || is("sasl.mechanism", |it| it != "PLAIN");
        if openssl && !cfg!(feature = "kafka-tls") {
            return Err(wrong("this build has no feature kafka-tls: tls and scram are not there".to_owned()));
        }
        Ok(settings)
    }

    /// What all clients of this log have in common.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "attribution")
            .set("socket.keepalive.enable", "true")
            // A broker that is paused or cut off is given up after this long, not after the default of a minute.
            .set("socket.timeout.ms", "10000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "30000");
        for (name, value) in &self.security {
            config.set(*name, value);
        }
        config
    }
}

/// TLS and SASL as librdkafka's settings.
fn security(url: &mut LogUrl) -> Result<Vec<(&'static str, String)>, LogError> {
    let tls = url.choice("tls", &["true", "false"])?.is_some_and(|tls| tls == "true");
    let sasl = url.choice("sasl", &["plain", "scram-sha-256", "scram-sha-512"])?;
    let mut set = Vec::new();
    for (name, key) in [
        ("ca_file", "ssl.ca.location"),
        ("certificate_file", "ssl.certificate.location"),
        ("key_file", "ssl.key.location"),
    ] {
        if let Some(file) = url.text(name)? {
            if !tls {
                return Err(LogError::Url(format!("{name} is for tls=true")));
            }
            set.push((key, file));
        }
    }
    let (user, password) = (url.text("user")?, url.text("password_file")?);
    match (&sasl, user, password) {
        (None, None, None) => {}
        (Some(mechanism), Some(user), Some(file)) => {
            let password = std::fs::read_to_string(Path::new(&file))
                .map_err(|error| LogError::Url(format!("password_file {file}: {error}")))?;
            set.push(("sasl.mechanism", mechanism.to_uppercase()));
            set.push(("sasl.username", user));
            set.push(("sasl.password", password.trim_end_matches(['\r', '\n']).to_owned()));
        }
        _ => return Err(LogError::Url("sasl, user and password_file go together".to_owned())),
    }
    let protocol = match (tls, sasl.is_some()) {
        (false, false) => "plaintext",
        (false, true) => "sasl_plaintext",
        (true, false) => "ssl",
        (true, true) => "sasl_ssl",
    };
    set.push(("security.protocol", protocol.to_owned()));
    Ok(set)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// What librdkafka is told beside where the brokers are, and what stands in `password_file`.
    fn told(parameters: &str) -> Result<Vec<(&'static str, String)>, LogError> {
        let mut url = LogUrl::parse(&format!("kafka://a:1/t?{parameters}"))?;
        let told = security(&mut url)?;
        url.finish(KNOWN)?;
        Ok(told)
    }

    fn owned(pairs: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    #[test]
    fn tls_and_logins_are_librdkafkas_settings() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "p&ss word\n").unwrap();
        let login =
            |mechanism: &str| format!("sasl={mechanism}&user=the%20user&password_file={}", file.display());
        assert_eq!(told("").unwrap(), owned(&[("security.protocol", "plaintext")]));
        for (mechanism, name) in
            [("plain", "PLAIN"), ("scram-sha-256", "SCRAM-SHA-256"), ("scram-sha-512", "SCRAM-SHA-512")]
        {
            let mut expected = owned(&[
                ("sasl.mechanism", name),
                ("sasl.username", "the user"),
                ("sasl.password", "p&ss word"),
                ("security.protocol", "sasl_plaintext"),
            ]);
            assert_eq!(told(&login(mechanism)).unwrap(), expected);
            expected.insert(0, ("ssl.ca.location", "/ca.pem".to_owned()));
            expected[4].1 = "sasl_ssl".to_owned();
            let over_tls = format!("tls=true&ca_file=/ca.pem&{}", login(mechanism));
            assert_eq!(told(&over_tls).unwrap(), expected);
        }
        assert_eq!(
            told("tls=true&ca_file=/a&certificate_file=/b&key_file=/c").unwrap(),
            owned(&[
                ("ssl.ca.location", "/a"),
                ("ssl.certificate.location", "/b"),
                ("ssl.key.location", "/c"),
                ("security.protocol", "ssl"),
            ])
        );
        // All clients of the log are told.
        let url = LogUrl::parse(&format!("kafka://a:1/t?{}", login("plain"))).unwrap();
        let client = Settings::from_url(url).unwrap().client();
        assert_eq!(client.get("sasl.password"), Some("p&ss word"));
        assert_eq!(client.get("security.protocol"), Some("sasl_plaintext"));
    }

    #[test]
    fn half_a_login_and_what_a_build_lacks_are_named() {
        for (parameters, named) in [
            ("sasl=plain&user=u", "password_file"),
            ("user=u", "go together"),
            ("sasl=plain&user=u&password_file=/nowhere/secret", "/nowhere/secret"),
            ("sasl=oauthbearer", "sasl"),
            ("tls=yes", "tls"),
            ("ca_file=/ca.pem", "ca_file is for tls=true"),
            ("tls=false&key_file=/key.pem", "key_file is for tls=true"),
            ("password=secret", "no parameter password"),
        ] {
            let error = told(parameters).unwrap_err().to_string();
            assert!(error.contains(named), "{parameters}: {error}");
        }
        let over_tls = Settings::from_url(LogUrl::parse("kafka://a:1/t?tls=true").unwrap());
        assert_eq!(over_tls.is_ok(), cfg!(feature = "kafka-tls"));
        if let Err(error) = over_tls {
            assert!(error.to_string().contains("kafka-tls"), "{error}");
        }
    }
}
