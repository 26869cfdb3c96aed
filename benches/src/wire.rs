//! The load: requests over connections that stay open, written by hand so that making them costs next to nothing.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    events::{Ids, Template},
    measure::Latencies,
};

/// How long an answer may take.
const ANSWER_SECONDS_MAX: u64 = 60;

/// How long a busy platform is asked again, and how often.
const BUSY_PATIENCE: Duration = Duration::from_secs(120);
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// A connection that speaks HTTP/1.1, one request at a time.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    request: Vec<u8>,
    key: String,
}

/// An answer's status and body.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

/// What came of a load.
pub(crate) struct Loaded {
    pub(crate) requests: u64,
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    pub(crate) latencies: Latencies,
}

// === impl Connection ===

impl Connection {
    pub(crate) fn open(address: SocketAddr, key: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("nobody at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(ANSWER_SECONDS_MAX)))?;
        Ok(Self { stream, buffer: vec![0; 64 * 1024], request: Vec::new(), key: key.to_owned() })
    }

    /// Sends a request, waits for its answer.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer<'_>> {
        self.request.clear();
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.key,
            body.len()
        )?;
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request)?;
        self.answer()
    }

    /// Sends events until they are taken: while the platform is busy it is asked again, and that is part of the latency.
    pub(crate) fn post(&mut self, body: &[u8]) -> Result<()> {
        let end = Instant::now() + BUSY_PATIENCE;
        loop {
            let answer = self.call("POST", "/v1/events", body)?;
            match answer.status {
                200 => return Ok(()),
                503 if Instant::now() < end => thread::sleep(BUSY_PAUSE),
                status => bail!("{status}: {}", String::from_utf8_lossy(answer.body)),
            }
        }
    }

    fn answer(&mut self) -> Result<Answer<'_>> {
        let mut filled = 0;
        let (status, from, to) = loop {
            if filled == self.buffer.len() {
                self.buffer.resize(2 * filled, 0);
            }
            let read = self.stream.read(&mut self.buffer[filled..])?;
            ensure!(read > 0, "the connection was closed");
            filled += read;
            if let Some((status, from, to)) = head(&self.buffer[..filled])? {
                break (status, from, to);
            }
        };
        if self.buffer.len() < to {
            self.buffer.resize(to, 0);
        }
        if filled < to {
            self.stream.read_exact(&mut self.buffer[filled..to])?;
        }
        Ok(Answer { status, body: &self.buffer[from..to] })
    }
}

/// The status, and where the body begins and ends; `None` while the head is not complete.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end])?;
    let status = text.split(' ').nth(1).context("no status")?.parse()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    let Some(length) = length else { bail!("an answer without content-length: {text}") };
    Ok(Some((status, end + 4, end + 4 + length?)))
}

/// Posts bodies over so many connections, each with one request under way, for a time.
pub(crate) fn load(
    address: SocketAddr,
    key: &str,
    template: &Template,
    ids: &Ids,
    connections: usize,
    time: Duration,
) -> Result<Loaded> {
    let over = Instant::now() + time;
    load_while(address, key, template, ids, connections, |_| Instant::now() < over)
}

/// Posts a number of bodies.
pub(crate) fn load_count(
    address: SocketAddr,
    key: &str,
    template: &Template,
    ids: &Ids,
    connections: usize,
    bodies: u64,
) -> Result<Loaded> {
    load_while(address, key, template, ids, connections, |number| number < bodies)
}

/// Posts bodies, numbered from 0, while there is another one to post.
fn load_while(
    address: SocketAddr,
    key: &str,
    template: &Template,
    ids: &Ids,
    connections: usize,
    more: impl Fn(u64) -> bool + Sync,
) -> Result<Loaded> {
    let (numbers, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let work = || -> Result<(u64, Latencies)> {
        let mut connection = Connection::open(address, key)?;
        let (mut template, mut requests, mut latencies) = (template.clone(), 0, Latencies::new()?);
        while !failed.load(Ordering::Relaxed) && more(numbers.fetch_add(1, Ordering::Relaxed)) {
            let body = template.fill(ids);
            let sent = Instant::now();
            connection.post(body).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            latencies.record(sent.elapsed());
            requests += 1;
        }
        Ok((requests, latencies))
    };
    let outcomes: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut loaded = Loaded {
        requests: 0,
        events: 0,
        seconds: began.elapsed().as_secs_f64(),
        latencies: Latencies::new()?,
    };
    for outcome in outcomes {
        let (requests, latencies) =
            outcome.map_err(|_| anyhow::anyhow!("a connection's thread panicked"))??;
        loaded.requests += requests;
        loaded.latencies.add(&latencies)?;
    }
    loaded.events = loaded.requests * template.events() as u64;
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_answer_is_found_in_its_bytes() {
        let bytes = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(head(bytes).unwrap(), Some((503, bytes.len() - 3, bytes.len())));
        assert_eq!(head(&bytes[..40]).unwrap(), None);
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
