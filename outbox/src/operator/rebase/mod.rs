//! Gives a database a cursor of its own cluster, where the stored one means nothing: after a dump was
//! restored in another cluster, or the cluster's transaction ids were set back. Until then no relay reads.
//!
//! The room is the operator's and not the relay's, although it writes the relay's row: a person must have
//! decided that the old database is gone, and it works only while nobody leads.
//!
//! # What is sent again
//!
//! Every row of the log, unless there is proof that the broker has acknowledged it or that a full copy is
//! parked. The proof is the stored cursor's, read with the stored transaction ids, which still mean something
//! to each other: visible in `settled`, or visible in `target` and not above `last_seq`. (Not "above the last
//! number": a transaction that was open then has lower ones.)
//!
//! A row that was enqueued *here*, before the rebase, has an id of this cluster, which may be lower than those of
//! the snapshots and look acknowledged. Two things tell it, and one is enough:
//!
//! - its number is above `target_floor`: the sequence was restored too, as of the dump, so whatever is enqueued
//!   here has a higher number than the relay ever saw. What the relay saw in the moment after it had noted the floor
//!   has one too, and is sent again: the newest one at least. This asks no clock.
//! - it was enqueued after the cursor was written (`created_at > written_at`): both are wall-clock times of the
//!   database server, of the insert and of the write. What was acknowledged is older than the write that says so. This
//!   asks no sequence, which a partial dump leaves out; a clock here that is behind the old one by more than the time
//!   between backup and restore would hide rows.
//!
//! A row that is older than the cursor's write and was committed later needs neither: its transaction was open in
//! the snapshots or above them. Whatever is in doubt is sent again: receivers absorb a duplicate, nobody a loss.
//!
//! # How
//!
//! One READ COMMITTED transaction: take the new snapshot; lock the relay's row and see that nobody leads; lock the log
//! against everybody; set aside what is to be sent again, truncate the log, append it anew in the old order; write the
//! cursor with a new epoch, so that a former leader who wakes is fenced.
//!
//! - The snapshot comes first, while the transaction has no id of its own. (Locking a row gives it one, and so does
//!   ACCESS EXCLUSIVE: it is logged for standbys.) A snapshot taken later may count the own id as ended, and what is
//!   appended under it would never be read.
//! - READ COMMITTED, so that what is set aside is looked for after the lock was granted. REPEATABLE READ would look
//!   with the snapshot from before: a writer who committed while we waited for the lock would be truncated and lost.
//! - What is parked keeps its rows and numbers; new numbers begin above them, else a new message would be taken for a
//!   parked one.
//!
//! If we die here, nothing has happened (the sequence may have been advanced, which makes a gap).
//!
//! Not promised: that what receivers have seen is what the restored database knows. See docs/operations.md.

mod table;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use crate::{
    Error,
    audit::{self, Author},
};
use table::Found;

/// How long to wait for a lock, unless told: writers who come meanwhile wait behind it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Why the stored cursor means nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was written in another cluster.
    AnotherCluster,
    /// It was written in this cluster, whose transaction ids have been set back since.
    Rewound,
}

/// What [`rebase`] would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Why it is needed.
    pub origin: Origin,
    /// When the stored cursor was written, by the clock of its server: the end of what is known.
    pub cursor_written_at: DateTime<Utc>,
    /// Messages that would be sent again, or for the first time.
    pub messages: i64,
    /// The same by topic.
    pub topics: Vec<TopicPlan>,
    /// Messages that leave the log: acknowledged, or parked. A replay finds them no more.
    pub dropped: i64,
    /// Messages in `outbox.parked`, which stay as they are.
    pub parked: i64,
    /// Whether the sequence gives out numbers that exist already, and is to be advanced.
    pub sequence_is_behind: bool,
}

/// A topic's share of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopicPlan {
    /// The topic.
    pub topic: String,
    /// How many messages.
    pub messages: i64,
    /// The lowest of their numbers, as they are before the rebase.
    pub first_seq: i64,
    /// The highest.
    pub last_seq: i64,
    /// When the first of them was enqueued.
    pub first_at: DateTime<Utc>,
    /// When the last was.
    pub last_at: DateTime<Utc>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rebased {
    /// Why it was needed.
    pub origin: Origin,
    /// Messages that the relay will send, under the ids they had.
    pub messages: i64,
    /// The same by topic, with the numbers they had.
    pub topics: Vec<TopicPlan>,
    /// Messages that left the log.
    pub dropped: i64,
    /// The new numbers, first and last; `None` without messages.
    pub numbers: Option<(i64, i64)>,
    /// The relay's epoch from now on: a leader of before is fenced.
    pub epoch: i64,
    /// An operator's pause stands, perhaps from before the dump: nothing is sent until it is resumed.
    pub paused: bool,
}

/// What [`accept_same_xids`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// This cluster's identifier, now the cursor's.
    pub system_identifier: i64,
    /// The relay's epoch from now on.
    pub epoch: i64,
}

/// Says what [`rebase`] would do now, and changes nothing. Reads the whole log: seconds for millions.
///
/// # Errors
///
/// [`Error::NotRebased`] for what [`rebase`] would refuse, except a lock that somebody holds, and
/// [`Error::Database`].
pub async fn plan(pool: &PgPool) -> Result<Plan, Error> {
    let mut tx = pool
        .begin_with("begin isolation level repeatable read read only")
        .await?;
    must_own(&mut tx).await?;
    let found = table::find(&mut tx).await?;
    let origin = must_be_needed(&found)?;
    let topics = table::unacknowledged_by_topic(&mut tx).await?;
    let messages = topics.iter().map(|topic| topic.messages).sum();
    let held = table::count(&mut tx).await?;
    let numbers = table::numbers(&mut tx).await?;
    tx.rollback().await?;
    Ok(Plan {
        origin,
        cursor_written_at: found.written_at,
        messages,
        topics,
        dropped: held.log - messages,
        parked: held.parked,
        sequence_is_behind: numbers.are_given_twice(),
    })
}

/// Makes a cursor for this cluster. What may not have been acknowledged is appended anew, in its order, with the
/// message ids it had; the rest of the log is emptied. Relays may start afterwards. Writers wait meanwhile: half
/// a minute for a million messages on two busy cores. Of each lock it waits at most `patience`. `by` says who wants it.
///
/// # Errors
///
/// [`Error::NotRebased`] and nothing was changed: the cursor is this cluster's own, a relay holds the lease,
/// somebody uses the log, or the user does not own the schema. [`Error::Database`]: nothing was changed either,
/// unless the connection was lost at the commit; then repeat it, and it says that there is nothing to rebase if it
/// was done.
pub async fn rebase(
    pool: &PgPool,
    patience: Duration,
    by: impl Into<Author>,
) -> Result<Rebased, Error> {
    let mut tx = pool
        .begin_with("begin isolation level read committed")
        .await?;
    table::settle_in(&mut tx, patience).await?;
    must_own(&mut tx).await?;
    let Some(snapshot) = table::snapshot_before_own_id(&mut tx).await? else {
        return refuse("this session is in a transaction that has written already; connect anew");
    };
    table::lock_relay(&mut tx)
        .await
        .map_err(|error| busy(error, RELAY_BUSY))?;
    let found = table::find(&mut tx).await?;
    let origin = must_be_needed(&found)?;
    table::lock_log(&mut tx)
        .await
        .map_err(|error| busy(error, LOG_BUSY))?;
    // From here on nobody reads or writes the log.
    let held = table::count(&mut tx).await?;
    table::set_aside(&mut tx).await?;
    table::park_flawed(&mut tx).await?;
    let topics = table::set_aside_by_topic(&mut tx).await?;
    let messages: i64 = topics.iter().map(|topic| topic.messages).sum();
    let numbers = table::numbers(&mut tx).await?;
    table::empty_log(&mut tx).await?;
    if numbers.are_given_twice() {
        table::advance_sequence(&mut tx, numbers.highest).await?;
    }
    // Everything appended from now on, here or by others, has a higher number.
    let floor = numbers.given.max(numbers.highest);
    table::append(&mut tx, numbers.are_given_twice()).await?;
    let numbers = table::first_and_last(&mut tx).await?;
    let written = table::write_cursor(&mut tx, &snapshot, floor).await?;
    let dropped = held.log - messages;
    let details = json!({ "origin": origin, "messages": messages, "dropped": dropped, "epoch": written.epoch });
    audit::record(&mut tx, &by.into(), "log.rebase", "outbox", details).await?;
    tx.commit().await?;
    Ok(Rebased {
        origin,
        messages,
        topics,
        dropped,
        numbers,
        epoch: written.epoch,
        paused: written.paused,
    })
}

/// Says whether [`accept_same_xids`] would accept the cursor, and changes nothing.
///
/// # Errors
///
/// As [`accept_same_xids`].
pub async fn check_same_xids(pool: &PgPool) -> Result<(), Error> {
    let mut tx = pool
        .begin_with("begin isolation level repeatable read read only")
        .await?;
    must_own(&mut tx).await?;
    same_xids(&mut tx).await?;
    Ok(tx.rollback().await?)
}

/// Accepts the stored cursor as this cluster's, because the transaction ids are the same and only the identifier is
/// new: after `pg_upgrade`, and after nothing else. The log stays as it is.
///
/// # Errors
///
/// [`Error::NotRebased`] and nothing was changed: as [`rebase`], and where the cursor or a message has a
/// transaction id that this cluster has not reached, so that the ids cannot be the same.
pub async fn accept_same_xids(
    pool: &PgPool,
    patience: Duration,
    by: impl Into<Author>,
) -> Result<Accepted, Error> {
    let mut tx = pool
        .begin_with("begin isolation level read committed")
        .await?;
    table::settle_in(&mut tx, patience).await?;
    must_own(&mut tx).await?;
    table::lock_relay(&mut tx)
        .await
        .map_err(|error| busy(error, RELAY_BUSY))?;
    same_xids(&mut tx).await?;
    let accepted = table::write_identifier(&mut tx).await?;
    let details = json!({ "epoch": accepted.epoch });
    audit::record(
        &mut tx,
        &by.into(),
        "log.accept_same_xids",
        "outbox",
        details,
    )
    .await?;
    tx.commit().await?;
    Ok(accepted)
}

// ---- what is refused ----

const RELAY_BUSY: &str = "another session holds the relay's row, and did not let go of it in time: a rebase under way, \
                          or a relay; try again when it has ended";
const LOG_BUSY: &str = "the log is in use and could not be locked in time: a transaction that has written to it or reads \
                        it is still open, or prepared. recompense outbox doctor names it; end it and try again";

fn refuse<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::NotRebased(why.into()))
}

/// The log is locked and emptied: that is its owner's.
async fn must_own(connection: &mut PgConnection) -> Result<(), Error> {
    let user = table::user(connection).await?;
    let (name, owner) = (&user.name, &user.owner);
    if !user.owns {
        return refuse(format!(
            "only the owner of the outbox may do that; {name} is not a member of {owner}, connect as one"
        ));
    }
    if !user.may_set_aside {
        return refuse(format!(
            "{name} may make no temporary tables here, which a rebase needs; grant temporary on this database to \
             {owner}"
        ));
    }
    Ok(())
}

fn nobody_leads(found: &Found) -> Result<(), Error> {
    let Some(seconds) = found.lease_seconds else {
        return Ok(());
    };
    let owner = found.owner.as_deref().unwrap_or("somebody");
    refuse(format!(
        "{owner} holds the lease for another {seconds:.1} s: stop every relay of this database, wait until the lease \
         has expired, and try again"
    ))
}

/// Why it is needed, if it is and nobody leads. In this order: where there is nothing to rebase, nobody shall
/// stop a relay for it.
fn must_be_needed(found: &Found) -> Result<Origin, Error> {
    let origin = foreign(found)?;
    nobody_leads(found)?;
    Ok(origin)
}

/// Why the cursor means nothing here; refuses one that does.
fn foreign(found: &Found) -> Result<Origin, Error> {
    match (found.same, found.behind) {
        (true, true) => refuse("nothing to rebase: the cursor was written in this cluster"),
        (true, false) => Ok(Origin::Rewound),
        (false, _) => Ok(Origin::AnotherCluster),
    }
}

/// Refuses a cursor whose transaction ids cannot be this cluster's.
async fn same_xids(connection: &mut PgConnection) -> Result<(), Error> {
    let found = table::find(connection).await?;
    must_be_needed(&found)?;
    if !found.behind || table::log_is_ahead(connection).await? {
        return refuse(
            "the cursor or a message has a transaction id that this cluster has not reached: the ids are not the \
             same; rebase without --same-xids",
        );
    }
    Ok(())
}

/// Names the lock that was not to be had.
fn busy(error: Error, what: &str) -> Error {
    let code = match &error {
        Error::Database(error) => error.as_database_error().and_then(|error| error.code()),
        _ => None,
    };
    // lock_not_available, deadlock_detected
    match code.as_deref() {
        Some("55P03" | "40P01") => Error::NotRebased(what.to_owned()),
        _ => error,
    }
}
