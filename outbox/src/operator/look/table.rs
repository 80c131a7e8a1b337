//! What every look at the log asks.
//!
//! `xid8` and `pg_snapshot` travel as text: the driver has no type for them.

use sqlx::PgConnection;

use crate::{
    Error,
    outgoing::{
        cursor::{Cursor, Cut},
        snapshot::{ParseError, Snapshot},
    },
};

/// The isolation of every transaction that writes: each statement sees what others have committed.
pub(in crate::operator) const BEGIN: &str = "begin isolation level read committed";

/// Pins plans for the rest of the transaction, as the relay's session does: the log is read by its
/// two indexes, in index order. No look takes longer than a minute.
pub(in crate::operator) async fn pin_plans(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!(
        "select count(set_config(name, value, true))
         from (values ('plan_cache_mode', 'force_custom_plan'), ('enable_seqscan', 'off'),
                      ('enable_bitmapscan', 'off'), ('enable_sort', 'off'), ('jit', 'off'),
                      ('statement_timeout', '60s')) as pinned (name, value)"
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// The cursor as it is written down.
pub(in crate::operator) async fn cursor(connection: &mut PgConnection) -> Result<Cursor, Error> {
    let row = sqlx::query!(
        r#"select settled::text as "settled!", settled_floor, target::text as "target!", target_floor,
                  last_seq
           from outbox.relay"#
    )
    .fetch_one(connection)
    .await?;
    Ok(Cursor {
        settled: Cut {
            snapshot: parse(&row.settled)?,
            floor: row.settled_floor,
        },
        target: Cut {
            snapshot: parse(&row.target)?,
            floor: row.target_floor,
        },
        last_seq: row.last_seq,
        ceiling: i64::MAX,
    })
}

pub(in crate::operator) async fn snapshot(
    connection: &mut PgConnection,
) -> Result<Snapshot, Error> {
    let text = sqlx::query_scalar!(r#"select pg_current_snapshot()::text as "snapshot!""#)
        .fetch_one(connection)
        .await?;
    parse(&text)
}

/// The highest number in the log.
pub(in crate::operator) async fn newest_seq(
    connection: &mut PgConnection,
) -> Result<Option<i64>, Error> {
    Ok(
        sqlx::query_scalar!("select seq from outbox.log order by seq desc limit 1")
            .fetch_optional(connection)
            .await?,
    )
}

fn parse(text: &str) -> Result<Snapshot, Error> {
    // Only the server writes these; another text means another server.
    text.parse()
        .map_err(|error: ParseError| Error::ForeignCursor(error.to_string()))
}

/// A word in a table that this version does not know.
pub(in crate::operator) fn decode(
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Database(sqlx::Error::Decode(error.into()))
}
