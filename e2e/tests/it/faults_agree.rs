//! What REST answers 503 is what the pipe repeats: two lists of SQL states that may not know of each other.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use chassis::database::is_outage;
use outbox::fault::{self, Fault};
use sqlx::error::{DatabaseError, ErrorKind};

#[derive(Debug)]
struct Reported {
    state: String,
    message: &'static str,
}

impl fmt::Display for Reported {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.message)
    }
}

impl StdError for Reported {}

impl DatabaseError for Reported {
    fn message(&self) -> &str {
        self.message
    }
    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.state.as_str().into())
    }
    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }
    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }
    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

fn assert_agreed(error: &sqlx::Error, what: &str) {
    let fault = fault::of(error);
    let may_succeed = !matches!(fault, Fault::Item | Fault::Setting);
    assert_eq!(is_outage(error), may_succeed, "{what}: {fault:?}");
}

#[test]
fn what_rest_answers_503_is_what_the_pipe_repeats() {
    assert!(fault::STATES.len() > 20, "the table was not found");
    for (prefix, ..) in fault::STATES {
        for message in ["", "cached plan must not change result type"] {
            let state = format!("{prefix:0<5}");
            let error = sqlx::Error::Database(Box::new(Reported { state, message }));
            assert_agreed(&error, &format!("{prefix} {message}"));
        }
    }
    for error in [
        sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()),
        sqlx::Error::Tls("no".into()),
        sqlx::Error::Protocol("out of step".to_owned()),
        sqlx::Error::PoolTimedOut,
        sqlx::Error::PoolClosed,
        sqlx::Error::WorkerCrashed,
        sqlx::Error::BeginFailed,
        sqlx::Error::Configuration("wrong".into()),
        sqlx::Error::RowNotFound,
        sqlx::Error::ColumnNotFound("x".to_owned()),
        sqlx::Error::Decode("unreadable".into()),
    ] {
        assert_agreed(&error, &error.to_string());
    }
}
