//! Settings: from flags and environment into checked types, in the first place they enter.
//!
//! **What passes here**: the command line, the environment, and nothing else; there is no
//! settings file. A flag outranks its variable; what is secret may stand in a file that the variable
//! with `_FILE` behind its name points to, as Docker and Kubernetes hand secrets out. **Promised**: whoever holds a [`Settings`] holds
//! values that parse; a wrong or missing one is one line on stderr naming flag and variable, and
//! exit status 2; a secret is never printed, by `--help` and by error lines neither.
//! **Not promised**: that what a setting points at exists. That is readiness's question.

mod files;
mod parse;
mod settings;
mod values;

pub use parse::{Refusal, or_exit, parse, parse_from, try_parse_from};
pub use settings::Settings;
pub use values::{
    DatabaseUrl, KafkaBrokers, LogFilter, LogFormat, duration, name, positive_duration,
};
