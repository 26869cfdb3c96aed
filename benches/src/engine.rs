//! The warehouse's engine, and a relay in front of it that tells how long it worked.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// The bytes that are handed on at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Hands bytes on between a client and the engine, and takes down when.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    moments: Moments,
}

type Moments = Arc<Mutex<Vec<(Instant, Way)>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToEngine,
    FromEngine,
}

// === impl Relay ===

impl Relay {
    /// Its threads end with the process.
    pub(crate) fn start(engine_url: &str) -> Result<Self> {
        let engine: SocketAddr = engine_url.strip_prefix("http://").context("not http")?.parse()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, moments) = (listener.local_addr()?, Moments::default());
        let taken = Arc::clone(&moments);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client of an engine that is gone sees its connection closed.
                let _ = relay(client, engine, &taken);
            }
        });
        Ok(Self { address, moments })
    }

    /// How long requests were at the engine since the last time.
    pub(crate) fn engine_time(&self) -> Duration {
        busy(&std::mem::take(&mut *self.moments.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn relay(client: TcpStream, engine: SocketAddr, moments: &Moments) -> Result<()> {
    let engine = TcpStream::connect(engine)?;
    client.set_nodelay(true)?;
    engine.set_nodelay(true)?;
    for (from, to, way) in
        [(client.try_clone()?, engine.try_clone()?, Way::ToEngine), (engine, client, Way::FromEngine)]
    {
        let moments = Arc::clone(moments);
        thread::spawn(move || hand_on(from, to, way, &moments));
    }
    Ok(())
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, way: Way, moments: &Moments) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        moments.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), way));
        if to.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    // It may be closed already.
    let _ = to.shutdown(Shutdown::Write);
}

/// From the first bytes of each request to the last of its answer, one request at a time.
fn busy(moments: &[(Instant, Way)]) -> Duration {
    let mut sum = Duration::ZERO;
    let mut request: Option<(Instant, Option<Instant>)> = None;
    for &(at, way) in moments {
        request = match (request, way) {
            (Some((from, Some(to))), Way::ToEngine) => {
                sum += to - from;
                Some((at, None))
            }
            (None, Way::ToEngine) => Some((at, None)),
            (Some((from, _)), Way::FromEngine) => Some((from, Some(at))),
            (unchanged, _) => unchanged,
        };
    }
    if let Some((from, Some(to))) = request {
        sum += to - from;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_busy_from_the_first_byte_of_a_request_to_the_last_of_its_answer() {
        let start = Instant::now();
        let at = |millis, way| (start + Duration::from_millis(millis), way);
        let moments = [
            at(0, Way::ToEngine),
            at(2, Way::ToEngine),
            at(10, Way::FromEngine),
            at(12, Way::FromEngine),
            at(100, Way::ToEngine),
            at(105, Way::FromEngine),
        ];
        assert_eq!(busy(&moments), Duration::from_millis(12 + 5));
        assert_eq!(busy(&moments[..2]), Duration::ZERO);
    }
}
