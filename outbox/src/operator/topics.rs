//! The topics that services declared, as `enqueue` knows them and as the broker has them.

mod table;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

use crate::{
    Error,
    broker::{Broker, Described},
    outgoing,
};

/// A declared topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// What happens to later messages of a key after one was refused for good: `block-key` or
    /// `skip-message`.
    pub on_poison: String,
    /// The largest record, in bytes, that `enqueue` lets pass; `None` while nobody has asked the broker:
    /// then it is [`DEFAULT_MAX_BYTES`](crate::broker::DEFAULT_MAX_BYTES).
    pub max_bytes: Option<i32>,
    /// When that was declared, or last asked for and found changed.
    pub noted_at: DateTime<Utc>,
    /// The broker's side; `None` when it was not asked.
    pub broker: Option<AtBroker>,
}

/// A topic as the broker has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AtBroker {
    /// How many partitions; `None` when there is no such topic.
    pub partitions: Option<usize>,
    /// The largest batch of records it takes, in bytes; `None` when the broker does not say.
    pub max_bytes: Option<i64>,
}

/// All declared topics by name; with what the broker says, if one is given.
///
/// # Errors
///
/// [`Error::Database`]; [`Error::Broker`] when the broker is away.
pub async fn topics(pool: &PgPool, broker: Option<&dyn Broker>) -> Result<Vec<Topic>, Error> {
    let mut topics = table::declared(pool).await?;
    if let Some(broker) = broker {
        let names: Vec<_> = topics.iter().map(|topic| topic.name.clone()).collect();
        let described = broker.describe(&names).await?;
        for (topic, there) in topics.iter_mut().zip(&described) {
            topic.broker = Some(there.into());
        }
    }
    Ok(topics)
}

/// Asks the broker for the limits of all declared topics, and has `enqueue` keep to them from now on.
/// Returns how many have changed. A limit that the broker does not say stays as it was.
///
/// # Errors
///
/// As [`topics`].
pub async fn refresh_topics(pool: &PgPool, broker: &dyn Broker) -> Result<u64, Error> {
    let mut session = pool.acquire().await?;
    outgoing::refresh_limits(&mut session, broker).await
}

impl From<&Described> for AtBroker {
    fn from(there: &Described) -> Self {
        Self {
            partitions: there.partitions,
            max_bytes: there.max_bytes,
        }
    }
}
