//! Ports for servers that have to be told theirs before they start.

use std::{
    hash::{BuildHasher, RandomState},
    net::TcpStream,
    ops::Range,
};

/// Below those that systems give to outgoing connections, also with 10,000 more, where a node of Redis has its bus: else a
/// connection that somebody opens between our look and the server's start could have taken the port.
const PORTS: Range<u16> = 10_240..20_000;

/// Ports that nobody listens on now, drawn at random, so that tests side by side hardly meet.
///
/// Asked by connecting: a listener of ours, even of a moment, would be handed on to what another thread starts meanwhile,
/// which holds it until it has become the other program.
pub fn free<const N: usize>() -> [u16; N] {
    let mut ports = [0; N];
    for count in 0..N {
        ports[count] = loop {
            let drawn = RandomState::new().hash_one(0) % u64::from(PORTS.end - PORTS.start);
            // Less than the length of a range of u16.
            let port = PORTS.start + drawn as u16;
            if !ports.contains(&port) && TcpStream::connect(("127.0.0.1", port)).is_err() {
                break port;
            }
        };
    }
    ports
}
