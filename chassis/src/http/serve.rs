//! From an address to answers, until the shutdown.

use std::net::SocketAddr;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::auth::Auth;
use crate::http::guard::guard_described;
use crate::http::reference::Described;

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
    described: impl Into<Described>,
    auth: Auth,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    serve(bind(address).await?, described, auth, shutdown).await
}

/// Serves the routes to whom `auth` and their description let in, with
/// [`guard_described`] around them, until `shutdown`; then takes no new requests and
/// gives the open ones [`DRAIN_TIMEOUT`].
///
/// # Errors
/// [`Error::Serve`] when the listener breaks.
pub async fn serve(
    listener: TcpListener,
    described: impl Into<Described>,
    auth: Auth,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let described = described.into();
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, asks = auth.is_required(), "serving http");
        // Where every route is everybody's anyway, nobody has to be asked.
        if !described.is_public() {
            auth.warn_if_open(address);
        }
    }
    let fresh = auth.clone();
    let listener = listener.tap_io(|connection| {
        // Only makes small answers slower where it fails.
        let _ = connection.set_nodelay(true);
    });
    let router = guard_described(described, auth);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let serving =
        axum::serve(listener, service).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        served = serving => served.map_err(Error::Serve),
        never = fresh.keep_fresh() => match never {},
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
