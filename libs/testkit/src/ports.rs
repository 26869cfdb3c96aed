//! Ports for servers that have to be told theirs before they start.

use std::{
    array,
    hash::{BuildHasher, RandomState},
    net::TcpListener,
    ops::Range,
};

/// Below those that systems give to outgoing connections, also with 10,000 more, where a node of Redis has its bus: else a
/// connection that somebody opens between our look and the server's start could have taken the port.
const PORTS: Range<u16> = 10_240..20_000;

/// Ports that nobody listens on now, drawn at random, so that tests side by side hardly meet.
pub(crate) fn free<const N: usize>() -> [u16; N] {
    // All held at once, so that they differ.
    let held: [(u16, TcpListener); N] = array::from_fn(|_| {
        loop {
            let drawn = RandomState::new().hash_one(0) % u64::from(PORTS.end - PORTS.start);
            // Less than the length of a range of u16.
            let port = PORTS.start + drawn as u16;
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                break (port, listener);
            }
        }
    });
    held.map(|(port, _)| port)
}
