//! Free TCP ports on loopback.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Below the range from which systems take the local ports of outgoing connections: a server that binds seconds after we
/// looked would otherwise meet one of those now and then.
const RANGE: std::ops::Range<u64> = 15_000..32_000;

/// Ports already given away by this process; their servers may not have bound them yet.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port on 127.0.0.1 that nobody listens on and that this process was not given before.
///
/// # Panics
/// If a thousand attempts find none.
#[must_use]
pub fn free_port() -> u16 {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let random = RandomState::new();
    let candidates =
        (0..1000).map(|n| RANGE.start + random.hash_one(n) % (RANGE.end - RANGE.start));
    candidates
        .filter_map(|port| u16::try_from(port).ok())
        .find(|&port| port_is_free(port) && given.insert(port))
        .expect("no free port on 127.0.0.1 between 15000 and 32000")
}

/// Whether a server could listen on this port of 127.0.0.1 now.
#[must_use]
pub fn port_is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
