//! What can go wrong with a saga. A refusal, a timeout, a duplicate are none of these: they are
//! outcomes.

use uuid::Uuid;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database or the outbox refused or was away, or a hook failed. Met by everything that
    /// has a transaction or a pool.
    #[error(transparent)]
    Outbox(#[from] outbox::Error),
    /// A migration failed. Met at start.
    #[error("migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A definition contradicts itself. Met when it is built.
    #[error("definition {definition}: {reason}")]
    Definition {
        /// Its name.
        definition: String,
        /// What is wrong.
        reason: String,
    },
    /// Another program registered another graph under this name and version. Met at start, or by a
    /// reply to a saga that began under the other one. Raise the version.
    #[error(
        "definition {name} version {version} was changed: it is known with hash {known}, this \
         program has {ours}; a changed graph needs a new version"
    )]
    DefinitionChanged {
        /// The definition's name.
        name: String,
        /// Its version.
        version: i32,
        /// The hash in the database.
        known: String,
        /// The hash of this program's definition.
        ours: String,
    },
    /// This coordinator has no such definition. Met by `start` with a wrong name, and by a reply
    /// or a timer of a saga whose version this replica lacks.
    #[error("this coordinator has no definition {name}{}", .version.map(|v| format!(" version {v}")).unwrap_or_default())]
    UnknownDefinition {
        /// The definition's name.
        name: String,
        /// The version an instance is pinned to; none when any would do.
        version: Option<i32>,
    },
    /// A saga's data does not fit its definition's type. Met by `start` with data of another type,
    /// and when the type was changed under sagas in flight.
    #[error("the data of a saga does not fit {definition}: {reason}")]
    Data {
        /// The definition's name.
        definition: String,
        /// Where it does not fit, without the content.
        reason: String,
    },
    /// A reply's payload is not what the step awaits. Met by the reply handler; never heals.
    #[error("step {step} cannot read a reply of kind {kind}: {reason}")]
    Reply {
        /// The step that awaits it.
        step: String,
        /// The kind on the wire.
        kind: String,
        /// What is wrong, without the content.
        reason: String,
    },
    /// A header is missing or is not what it should be. Met at the door by both sides.
    #[error("header {name}: {reason}")]
    Header {
        /// The header.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A reply to a saga that is not in this database. Met by the reply handler.
    #[error("there is no saga {0}")]
    UnknownSaga(Uuid),
    /// `start` was given the id of a saga that exists under another business key.
    #[error("the saga {0} exists already under another business key")]
    IdTaken(Uuid),
    /// `start` was given an id that is none for a saga. It never heals.
    #[error("{saga_id} cannot be a saga's id: {reason}; draw one with Uuid::now_v7()")]
    SagaId {
        /// The id.
        saga_id: Uuid,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A person wants what this saga's state does not allow. Met by interventions; nothing was
    /// changed.
    #[error("{operation} is not possible: {reason}")]
    NotAllowed {
        /// What was wanted.
        operation: crate::intervention::OperationName,
        /// Why not, for a person.
        reason: String,
    },
    /// What a person asks for can be asked of no saga. Met by interventions; nothing was changed.
    #[error("{field}: {reason}")]
    Request {
        /// Which part of it.
        field: &'static str,
        /// What would have been right.
        reason: String,
    },
    /// The saga has moved on since the person looked. Met by interventions that say what they
    /// expect; nothing was changed. Look again.
    #[error("the saga {saga_id} has moved on: its last event is {present}, not {expected}")]
    Stale {
        /// The saga.
        saga_id: Uuid,
        /// The number that was expected.
        expected: i64,
        /// The number it has.
        present: i64,
    },
    /// The idempotency key was used before, with another request. Met by interventions and bulk
    /// operations; nothing was changed. A new request needs a new key.
    #[error("the idempotency key was used before with another request")]
    KeyReused,
    /// Other sagas are selected now than the person saw. Met when a bulk operation is asked for with
    /// the number it is for; nothing was changed. Look again.
    #[error("{present} sagas are selected now, not {expected}")]
    CountChanged {
        /// The number that was expected.
        expected: i64,
        /// How many there are.
        present: i64,
    },
    /// There is no such bulk operation. Met by whoever looks at it or cancels it.
    #[error("there is no bulk operation {0}")]
    UnknownBulk(Uuid),
    /// Somebody else took this saga's turn. Met only when a lock was lost; trying again heals it.
    #[error("the saga {0} has moved on meanwhile")]
    Conflict(Uuid),
    /// A stored row cannot be read: an event, a state, a status of another program version.
    #[error("saga {saga_id} cannot be read from the database: {reason}")]
    Corrupt {
        /// The saga.
        saga_id: Uuid,
        /// What is wrong.
        reason: String,
    },
    /// A command reached a participant that has nothing registered for it. Never heals.
    #[error("{participant} has no {phase} for commands of kind {kind}")]
    UnknownCommand {
        /// The participant's name.
        participant: String,
        /// Forwards or back.
        phase: crate::Phase,
        /// The kind on the wire.
        kind: String,
    },
    /// A saga claims a resource in a way that cannot be. Met when its definition's claim is made;
    /// never heals.
    #[error("the claim of {resource:?} cannot be made: {reason}")]
    Claim {
        /// The resource's name.
        resource: String,
        /// What is wrong.
        reason: String,
    },
    /// An operation is being carried out by somebody else and has no answer yet.
    #[error("operation {0} has no answer yet")]
    Running(Uuid),
    /// What an external action calls did not answer in time: nobody knows what became of it. Met by
    /// a participant; the operation is probed when its command comes again.
    #[error("operation {0}: no answer from outside within {1:?}")]
    Overdue(Uuid, std::time::Duration),
    /// An external action's own rows speak against what was done outside, and that cannot be
    /// revoked. Met by a participant; trying again helps once it can.
    #[error("operation {0} was done outside, is refused here and could not be revoked")]
    Irrevocable(Uuid),
    /// A compensation or a question about a saga so old that its barrier rows may have been
    /// removed: that none is found says nothing. Met by a participant; a person has to look.
    #[error(
        "step {step} of saga {saga_id} may have taken effect and been forgotten: look at the \
         participant's own records, then complete or skip the step by hand"
    )]
    Forgotten {
        /// The saga.
        saga_id: Uuid,
        /// The step.
        step: String,
    },
    /// Barrier rows were to be kept for too short a time. Met at start.
    #[error(
        "the barrier would forget operations after {retention:?}, but a command may be begun for \
         {expiry:?}: keep its rows for longer than that, or a late command takes effect twice"
    )]
    Retention {
        /// What was asked for.
        retention: std::time::Duration,
        /// How long a command may be begun.
        expiry: std::time::Duration,
    },
}

impl Error {
    /// Whether this is the saga's own: it will fail like this for whoever tries, as often as they try.
    /// Not its fault are an outage, a replica without its version and what a setting is to blame for.
    pub(crate) fn is_the_sagas_own(&self) -> bool {
        match self {
            Self::Outbox(error) => !error.is_transient(),
            Self::Definition { .. }
            | Self::Data { .. }
            | Self::Reply { .. }
            | Self::Claim { .. }
            | Self::Corrupt { .. } => true,
            _ => false,
        }
    }

    /// Whether trying the same thing again can succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Outbox(error) => error.is_transient(),
            Self::Conflict(_) | Self::Running(_) | Self::Overdue(..) | Self::Irrevocable(_) => true,
            _ => false,
        }
    }
}

/// The pipe knows which failures of the database heal.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Outbox(error.into())
    }
}

impl From<Error> for outbox::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Outbox(error) => error,
            error if error.is_transient() => Self::transient(error),
            error => Self::permanent(error),
        }
    }
}

/// What serde found, without the value it found it in: a payload must not reach a log. The names of
/// fields and what is expected come from the type that is read.
pub(crate) fn without_content(error: &serde_json::Error) -> String {
    outbox::without_values(error)
}
