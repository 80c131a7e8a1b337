//! The HTTP client for tests and tools.

use std::time::Duration;

/// A client that talks to services on this machine, past any proxy, and gives up on an answer after `timeout`.
///
/// Use this rather than `reqwest::Client::new()`: the crate that fetches Postgres turns on reqwest's TLS without a provider
/// for it, for every crate that is built together with it, and then building a client panics until one is installed.
///
/// # Panics
/// If the system gives no randomness or memory; there is no other way to fail.
#[must_use]
pub fn http(timeout: Duration) -> reqwest::Client {
    // An error means that somebody installed one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(timeout).no_proxy();
    client
        .build()
        .expect("a client for plain HTTP needs nothing that could be missing")
}
