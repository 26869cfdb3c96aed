//! The memory that all pods share: a key with a time to live for each seen id, and one script for quotas.
//!
//! The only file that knows the client library. A Redis that is away costs a bounded wait, and then none: the circuit
//! opens, calls fail at once, and one of them looks again after a while.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use fred::{
    clients::Client,
    interfaces::{ClientLike, EventInterface, KeysInterface, LuaInterface},
    types::{
        Builder, ClusterHash, CustomCommand, Key, Value,
        config::{Config, ReconnectPolicy, TlsConnector},
    },
};
use parking_lot::Mutex;
use telemetry::metrics::CACHE_AVAILABLE;

use crate::{Cache, CacheError, Quota, SEEN_TTL_SECONDS_DEFAULT, Taken, check, key::Id, parameter, seconds};

/// How long a call may take unless the URL says otherwise.
const TIMEOUT_MILLIS_DEFAULT: u64 = 500;
const TIMEOUT_MILLIS_MAX: u64 = 60_000;

/// What is sent to a Redis that is away waits in memory: so many commands, then calls fail.
const QUEUE_COMMANDS_MAX: usize = 4_096;

/// Ids that one command may name: a server does nothing else meanwhile.
const COMMAND_IDS_MAX: usize = 1_000;

/// In a cluster the keys of one command lie in one slot. Keys have one of so many tags, which decide their slots.
const TAGS: u8 = 16;

/// Marks ids: one command for many, since each costs the client as much as an id, or more.
const MARK: &str = r"
for _, key in ipairs(KEYS) do
  redis.call('SET', key, '', 'EX', ARGV[1])
end
return #KEYS
";

/// How long nobody asks a Redis that is away.
const CIRCUIT_PAUSE: Duration = Duration::from_secs(1);

/// The pauses between attempts to connect, milliseconds.
const RECONNECT_MILLIS: (u32, u32) = (50, 2_000);

/// Takes from a bucket that leaks evenly (GCRA): the state is the moment at which it is empty again, in microseconds of
/// the server's clock, and is forgotten then. Answers 0, or the microseconds until there is room.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local each, burst, events = 1000000 / ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local empty = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local next = empty + events * each
local wait = next - burst * each - now
if wait > 0 then
  return math.ceil(wait)
end
redis.call('SET', KEYS[1], string.format('%.3f', next), 'PX', math.ceil((next - now) / 1000) + 1)
return 0
";

pub(crate) struct RedisCache {
    client: Client,
    /// Before every key: installations that share a Redis have different ones.
    prefix: String,
    seen_ttl_seconds: i64,
    timeout: Duration,
    circuit: Circuit,
    /// Why the last attempt to connect failed.
    trouble: Arc<Mutex<Option<String>>>,
}

/// Open while the store is away; then one call at a time looks again.
struct Circuit {
    begin: Instant,
    /// Milliseconds from `begin` on until which nobody asks; 0: closed.
    open_until: AtomicU64,
}

/// What the URL says beside where the server is.
struct Parameters {
    prefix: String,
    seen_ttl_seconds: i64,
    timeout: Duration,
    nodes: Vec<(&'static str, String)>,
    /// Certificates that servers are checked against; `None`: those of the system.
    ca_file: Option<PathBuf>,
}

// === impl RedisCache ===

impl RedisCache {
    /// Connects in the background: a server that is away now is found later.
    pub(crate) fn open(scheme: &str, rest: &str) -> Result<Self, CacheError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(CacheError::Unavailable("it needs a runtime to connect on".into()));
        }
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let Parameters { prefix, seen_ttl_seconds, timeout, nodes, ca_file } =
            Parameters::parse(scheme, query)?;
        let nodes: Vec<String> = nodes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        // The library's errors may show the URL, which may have a password.
        let wrong = |_| parameter("url", "write redis://user:password@host:6379");
        let mut config =
            Config::from_url(&format!("{scheme}://{address}?{}", nodes.join("&"))).map_err(wrong)?;
        if let Some(file) = ca_file {
            let trusting = tls::client(&file).map_err(|error| parameter("ca_file", &error))?;
            config.tls = Some(TlsConnector::from(trusting).into());
        }
        let (least, most) = RECONNECT_MILLIS;
        let client = Builder::from_config(Config { fail_fast: false, ..config })
            .with_performance_config(|config| config.default_command_timeout = timeout)
            .with_connection_config(|config| {
                config.connection_timeout = timeout.max(Duration::from_secs(5));
                config.internal_command_timeout = Duration::from_secs(5);
                config.max_command_attempts = 1;
                config.max_command_buffer_len = QUEUE_COMMANDS_MAX;
                // A server that is stopped keeps its connections: what is not answered in time tells it.
                config.unresponsive.max_timeout = Some(timeout.max(Duration::from_secs(1)) * 4);
            })
            .set_policy(ReconnectPolicy::new_exponential(0, least, most, 2))
            .build()
            .map_err(|error| parameter("url", &format!("it cannot be used: {}", error.details())))?;
        let trouble = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&trouble);
        // Both end with the client.
        drop(client.on_error(move |(error, _)| {
            *heard.lock() = Some(error.details().to_owned());
            std::future::ready(Ok(()))
        }));
        drop(client.connect());
        Ok(Self { client, prefix, seen_ttl_seconds, timeout, circuit: Circuit::new(), trouble })
    }

    /// Bounds a call, and keeps the circuit.
    /// Futures of the client are some 20 KB each: callers box them.
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, fred::error::Error>>,
    ) -> Result<T, CacheError> {
        if !self.circuit.lets_through() {
            return Err(CacheError::Unavailable("it did not answer a moment ago".into()));
        }
        let connected = async {
            // At first it is still connecting.
            if !self.client.is_connected() {
                self.client.wait_for_connect().await?;
            }
            call.await
        };
        let outcome = match tokio::time::timeout(self.timeout, connected).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(error.details().to_owned()),
            Err(_) => {
                let waited = format!("no answer within {} ms", self.timeout.as_millis());
                match self.trouble.lock().as_ref().filter(|_| !self.client.is_connected()) {
                    Some(reason) => Err(format!("{waited}: {reason}")),
                    None => Err(waited),
                }
            }
        };
        self.circuit.tell(outcome.is_ok());
        outcome.map_err(CacheError::Unavailable)
    }

    /// The keys of ids, each with the place of its id, in groups that one command may name.
    fn groups(&self, tenant: &str, ids: &[Id<'_>]) -> Vec<Vec<(usize, Key)>> {
        let mut by_tag = vec![Vec::new(); if self.client.is_clustered() { usize::from(TAGS) } else { 1 }];
        let tags = by_tag.len();
        for (place, id) in ids.iter().enumerate() {
            let (tag, key) = self.key(tenant, id.text);
            by_tag[usize::from(tag) % tags].push((place, key));
        }
        let groups = by_tag.iter().flat_map(|group| group.chunks(COMMAND_IDS_MAX));
        groups.map(<[_]>::to_vec).collect()
    }

    /// The key of an id, and its tag; made of the text: pods share it, and their keys in memory have secrets of their own.
    fn key(&self, tenant: &str, id: &str) -> (u8, Key) {
        let mut hasher = blake3::Hasher::new();
        // The boundary counts.
        hasher.update(&(tenant.len() as u64).to_le_bytes()).update(tenant.as_bytes()).update(id.as_bytes());
        let hash = hasher.finalize();
        let tag = hash.as_bytes()[0] % TAGS;
        let mut key = Vec::with_capacity(self.prefix.len() + 21);
        key.extend_from_slice(self.prefix.as_bytes());
        key.extend_from_slice(&[b's', b'{', b'a' + tag, b'}', b':']);
        // As long as the journey store's own: ids that meet in it are not to be found.
        key.extend_from_slice(&hash.as_bytes()[..16]);
        (tag, key.into_boxed_slice().into())
    }
}

#[async_trait]
impl Cache for RedisCache {
    async fn seen(&self, tenant: &str, ids: &[Id<'_>]) -> Result<Vec<bool>, CacheError> {
        check(ids)?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let groups = self.groups(tenant, ids);
        let found: Vec<Value> = self
            .call(Box::pin(async {
                let pipeline = self.client.pipeline();
                for group in &groups {
                    let keys: Vec<Key> = group.iter().map(|(_, key)| key.clone()).collect();
                    let () = pipeline.mget(keys).await?;
                }
                pipeline.try_all().await.into_iter().collect()
            }))
            .await?;
        let mut seen = vec![false; ids.len()];
        for (group, found) in groups.iter().zip(found) {
            for ((place, _), value) in group.iter().zip(found.into_array()) {
                seen[*place] = !value.is_null();
            }
        }
        Ok(seen)
    }

    async fn mark(&self, tenant: &str, ids: &[Id<'_>]) -> Result<(), CacheError> {
        check(ids)?;
        if ids.is_empty() {
            return Ok(());
        }
        let groups = self.groups(tenant, ids);
        self.call(Box::pin(async {
            let pipeline = self.client.pipeline();
            for group in groups {
                let Some((_, first)) = group.first() else { continue };
                // Unlike the client's own it does not keep others waiting for its answer.
                let slot = ClusterHash::Custom(first.cluster_hash());
                let eval = CustomCommand::new_static("EVAL", slot, false);
                let mut arguments = Vec::with_capacity(group.len() + 3);
                arguments.extend([Value::from_static_str(MARK), (group.len() as i64).into()]);
                arguments.extend(group.into_iter().map(|(_, key)| Value::from(key)));
                arguments.push(self.seen_ttl_seconds.into());
                let () = pipeline.custom(eval, arguments).await?;
            }
            pipeline.try_all::<Value>().await.into_iter().try_for_each(|marked| marked.map(drop))
        }))
        .await
    }

    async fn take(&self, tenant: &str, events: NonZeroU32, quota: Quota) -> Result<Taken, CacheError> {
        let Quota { events_per_second, burst_events } = quota;
        if events > burst_events {
            return Ok(Taken::Never);
        }
        // A changed quota is another bucket.
        let key = format!("{}q:{tenant}:{events_per_second}:{burst_events}", self.prefix);
        let arguments = [events_per_second, burst_events, events].map(|number| i64::from(number.get()));
        let take = self.client.eval(TAKE, vec![key], arguments.to_vec());
        let wait: u64 = self.call(Box::pin(take)).await?;
        Ok(if wait == 0 { Taken::Yes } else { Taken::After(Duration::from_micros(wait)) })
    }
}

// === impl Circuit ===

impl Circuit {
    fn new() -> Self {
        Self { begin: Instant::now(), open_until: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        // As long as the age of the earth.
        self.begin.elapsed().as_millis() as u64
    }

    fn lets_through(&self) -> bool {
        let until = self.open_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let now = self.now();
        let again = now + CIRCUIT_PAUSE.as_millis() as u64;
        // Of all that come after the pause, one.
        now >= until
            && self.open_until.compare_exchange(until, again, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn tell(&self, answered: bool) {
        let until = if answered { 0 } else { self.now() + CIRCUIT_PAUSE.as_millis() as u64 };
        let before = self.open_until.swap(until, Ordering::Relaxed);
        match (before == 0, answered) {
            (true, false) => {
                tracing::warn!("the cache is away: repeats are found later, and quotas are not kept");
                metrics::gauge!(CACHE_AVAILABLE).set(0);
            }
            (false, true) => {
                tracing::info!("the cache is there again");
                metrics::gauge!(CACHE_AVAILABLE).set(1);
            }
            _ => {}
        }
    }
}

// === impl Parameters ===

impl Parameters {
    fn parse(scheme: &str, query: &str) -> Result<Self, CacheError> {
        let mut parameters = Self {
            prefix: "attribution:".into(),
            seen_ttl_seconds: SEEN_TTL_SECONDS_DEFAULT as i64,
            timeout: Duration::from_millis(TIMEOUT_MILLIS_DEFAULT),
            nodes: Vec::new(),
            ca_file: None,
        };
        let (cluster, sentinel) = (scheme.ends_with("-cluster"), scheme.ends_with("-sentinel"));
        let mut given = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if name != "node" && given.contains(&name) {
                return Err(parameter(name, "given twice"));
            }
            given.push(name);
            match name {
                "prefix" => parameters.prefix = value.to_owned(),
                "seen_ttl" => {
                    let seconds = seconds(value).and_then(|seconds| i64::try_from(seconds).ok());
                    parameters.seen_ttl_seconds = seconds
                        .ok_or_else(|| parameter("seen_ttl", "1s to 365d, such as 7d, 12h, 30m or 90s"))?;
                }
                "timeout_millis" => {
                    let millis =
                        value.parse().ok().filter(|millis| (1..=TIMEOUT_MILLIS_MAX).contains(millis));
                    parameters.timeout = millis
                        .map(Duration::from_millis)
                        .ok_or_else(|| parameter("timeout_millis", "a whole number from 1 to 60000"))?;
                }
                "ca_file" if scheme.starts_with("rediss") => {
                    parameters.ca_file = Some(Path::new(value).to_owned());
                }
                "node" if cluster || sentinel => parameters.nodes.push(("node", value.to_owned())),
                "service_name" if sentinel => {
                    parameters.nodes.push(("sentinelServiceName", value.to_owned()));
                }
                "sentinel_username" if sentinel => {
                    parameters.nodes.push(("sentinelUsername", value.to_owned()));
                }
                "sentinel_password" if sentinel => {
                    parameters.nodes.push(("sentinelPassword", value.to_owned()));
                }
                _ => {
                    let known = "unknown; known are prefix, seen_ttl, timeout_millis, over TLS ca_file, of a cluster \
                        and of sentinels node, of sentinels service_name, sentinel_username, sentinel_password";
                    return Err(parameter(name, known));
                }
            }
        }
        if sentinel && !given.contains(&"service_name") {
            return Err(parameter("service_name", "sentinels are asked for it: give its name"));
        }
        Ok(parameters)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::key::Keys;

    #[test]
    fn a_circuit_lets_nobody_through_while_open_and_one_after_it() {
        let circuit = Circuit::new();
        assert!(circuit.lets_through());
        circuit.tell(false);
        assert!(!circuit.lets_through());
        // Its pause is over.
        circuit.open_until.store(1, Ordering::Relaxed);
        while circuit.now() < 1 {}
        assert!(circuit.lets_through());
        assert!(!circuit.lets_through());
        circuit.tell(true);
        assert!(circuit.lets_through());
    }

    #[tokio::test]
    async fn what_is_unknown_in_a_url_is_named() {
        let error = |scheme: &str, rest: &str| RedisCache::open(scheme, rest).err().unwrap().to_string();
        assert!(error("redis", "h?seen_max=1").contains("seen_max"));
        assert!(error("redis", "h?node=a:1").contains("node"));
        assert!(error("redis", "h?prefix=a&prefix=b").contains("twice"));
        assert!(error("redis", "h?timeout_millis=0").contains("timeout_millis"));
        assert!(error("redis", "h?timeout_millis=60001").contains("timeout_millis"));
        assert!(error("redis", "h?seen_ttl=0s").contains("seen_ttl"));
        assert!(error("redis-sentinel", "h:26379").contains("service_name"));
        assert!(error("redis", "h?ca_file=/ca.pem").contains("ca_file"));
        let missing = error("rediss", "u:secret@h?ca_file=/nowhere/ca.pem");
        assert!(missing.contains("/nowhere/ca.pem") && !missing.contains("secret"), "{missing}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_costs_a_bounded_wait_and_then_none() {
        // Nobody listens on a port that was just given back.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let cache = RedisCache::open("redis", &format!("{address}?timeout_millis=50")).unwrap();
        let ids = Keys::default().ids("t", ["a"]);
        assert!(matches!(cache.seen("t", &ids).await, Err(CacheError::Unavailable(_))));
        let refused = cache.mark("t", &ids).await.unwrap_err().to_string();
        assert!(refused.contains("a moment ago"), "{refused}");
    }
}
