//! How a broker is started.

use std::path::PathBuf;

/// What the broker's virtual machine is tuned for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Jvm {
    /// An early first answer: only the quick compiler. For tests and the demo.
    #[default]
    QuickStart,
    /// Throughput after warming up: both compilers. For benchmarks.
    Fast,
}

/// How a broker is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the virtual machine is tuned for.
    pub jvm: Jvm,
    /// The port on 127.0.0.1; a free one unless told.
    pub port: Option<u16>,
    /// The folder for data; a throw-away one unless told.
    pub folder: Option<PathBuf>,
    /// The broker's log; a file in `folder` unless told.
    pub log: Option<PathBuf>,
    /// Further settings, as in `server.properties`.
    pub settings: Vec<(String, String)>,
}
