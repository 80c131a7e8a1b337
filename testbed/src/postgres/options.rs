//! How a server is started.

use std::path::PathBuf;

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether a commit is on the disk before it is acknowledged. Off (the default) is several times faster and still
    /// survives kill -9 up to the last fraction of a second; a test about crashes needs it on.
    pub durable: bool,
    /// `max_connections`; 300 unless told.
    pub max_connections: u32,
    /// The port on 127.0.0.1; a free one unless told.
    pub port: Option<u16>,
    /// The folder for data, which must be enterable by the user the server runs as; a throw-away one unless told.
    pub folder: Option<PathBuf>,
    /// The server's log; a file in `folder` unless told.
    pub log: Option<PathBuf>,
    /// Further settings, as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            durable: false,
            max_connections: 300,
            port: None,
            folder: None,
            log: None,
            settings: Vec::new(),
        }
    }
}
