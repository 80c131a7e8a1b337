//! What is known of the topics: how large a record each takes, and what happens to a key whose
//! message was refused for good.
//!
//! A service declares its topics when it starts, [`enqueue`](crate::enqueue) looks at their limits,
//! the relay at their policies. A limit that was lowered in the broker and not noted here yet costs
//! no message: the relay asks, makes smaller batches, and parks what is refused all the same.

mod table;

use std::collections::BTreeMap;

use sqlx::{PgConnection, PgPool};

use crate::{
    Error,
    broker::{Broker, OnPoison, Topic},
};

/// Makes sure that the topics exist in the broker, asks it for the largest record each takes, and
/// notes that and their policy in `outbox.topic`. Safe to repeat; a later declaration wins.
///
/// # Errors
///
/// [`Error::Broker`] when the broker is away or refuses, [`Error::Database`].
pub async fn declare(pool: &PgPool, broker: &dyn Broker, topics: &[Topic]) -> Result<(), Error> {
    broker.ensure_topics(topics).await?;
    let policies: BTreeMap<String, OnPoison> = topics
        .iter()
        .map(|topic| (topic.name.clone(), topic.on_poison))
        .collect();
    let names: Vec<_> = policies.keys().cloned().collect();
    let limits = broker.limits(&names).await?;
    table::declare(pool, &policies, &limits.into_iter().collect()).await
}

/// Asks the broker anew for the limits of all declared topics and notes what has changed. Returns how
/// many have. Nobody does so on his own: a service asks when it declares, an operator with
/// `recompense outbox topics --refresh`.
///
/// The broker may take its five seconds to answer: nothing that must renew a lease waits for this.
///
/// # Errors
///
/// As [`declare`].
pub async fn refresh_limits(
    connection: &mut PgConnection,
    broker: &dyn Broker,
) -> Result<u64, Error> {
    let names = table::names(connection).await?;
    let limits = broker.limits(&names).await?;
    table::note_limits(connection, &limits).await
}

/// Notes what the broker said of topics that are declared.
pub(super) async fn note_limits(
    connection: &mut PgConnection,
    limits: &[(String, Option<usize>)],
) -> Result<u64, Error> {
    table::note_limits(connection, limits).await
}

/// The largest and the smallest record size, in bytes, that any topic takes as its largest: what a
/// producer must let through, and what none of its batches may exceed.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn largest_and_smallest_limit(
    connection: &mut PgConnection,
) -> Result<(usize, usize), Error> {
    table::largest_and_smallest_limit(connection).await
}
