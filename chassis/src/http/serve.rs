//! From an address to answers, until the shutdown.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::guard::guard;

/// How long open requests may go on after the shutdown. Streams should watch the shutdown
/// themselves.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why HTTP is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is in use, not ours, or not allowed. Met at start.
    #[error("cannot listen on {address} (--listen, environment LISTEN): {source}")]
    Listen {
        /// The address of the setting.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The listener broke. Met at any time, in practice never.
    #[error("cannot serve HTTP: {0}")]
    Serve(#[source] std::io::Error),
}

/// Takes the address. Port 0 takes a free one, which the listener knows.
///
/// # Errors
/// [`Error::Listen`], in one line.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

/// [`bind`], then [`serve`].
///
/// # Errors
/// As both.
pub async fn serve_at(
    address: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    serve(bind(address).await?, router, shutdown).await
}

/// Serves the router, with [`guard`] around it, until `shutdown`; then takes no new requests and
/// gives the open ones [`DRAIN_TIMEOUT`].
///
/// # Errors
/// [`Error::Serve`] when the listener breaks.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving http");
    }
    let listener = listener.tap_io(|connection| {
        // Only makes small answers slower where it fails.
        let _ = connection.set_nodelay(true);
    });
    let serving = axum::serve(listener, guard(router))
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        served = serving => served.map_err(Error::Serve),
        () = drained(&shutdown) => {
            tracing::warn!(limit = ?DRAIN_TIMEOUT, "open http requests did not end in time");
            Ok(())
        }
    }
}

async fn drained(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(DRAIN_TIMEOUT).await;
}
