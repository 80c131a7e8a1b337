//! What every look at the log asks.
//!
//! `xid8` and `pg_snapshot` travel as text: the driver has no type for them.

use sqlx::PgConnection;

use crate::{
    Error,
    operator::lag::TopicLag,
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

/// Where the rows are that the cursor has not passed: see [`unsettled`](crate::operator::look::unsettled).
#[derive(Debug, PartialEq, Eq)]
pub(in crate::operator) struct Unsettled {
    /// Transactions from here on, with numbers above, except `but_not`.
    pub(in crate::operator) began_at: u64,
    pub(in crate::operator) above: i64,
    pub(in crate::operator) but_not: Vec<u64>,
    /// Transactions from here on, with numbers above and up to.
    pub(in crate::operator) began_later_at: u64,
    pub(in crate::operator) later_above: i64,
    pub(in crate::operator) later_to: i64,
    /// Single transactions, each with the number above which its rows count.
    pub(in crate::operator) late: Vec<(u64, i64)>,
}

/// Counts rows by topic, most first. Of each of the three sources at most `limit` are read.
pub(in crate::operator) async fn count(
    connection: &mut PgConnection,
    unsettled: &Unsettled,
    limit: i64,
) -> Result<Vec<TopicLag>, Error> {
    let (xids, afters) = columns(&unsettled.late);
    Ok(sqlx::query_as!(
        TopicLag,
        r#"select topic as "topic!", count(*) as "messages!",
                  extract(epoch from clock_timestamp() - min(created_at))::float8 as "oldest_seconds!"
           from (
               (select topic, created_at
                from outbox.log
                where seq > $1 and xid >= $2::text::xid8 and xid <> all($3::text[]::xid8[])
                order by seq
                limit $9)
               union all
               (select topic, created_at
                from outbox.log
                where seq > $4 and seq <= $5 and xid >= $6::text::xid8
                order by seq
                limit $9)
               union all
               (select l.topic, l.created_at
                from unnest($7::text[], $8::bigint[]) as late (xid, after)
                cross join lateral (
                    select topic, created_at
                    from outbox.log
                    where log.xid >= late.xid::xid8 and log.xid <= late.xid::xid8
                      and log.seq > late.after
                    order by log.xid, log.seq
                    limit $9
                ) as l
                limit $9)
           ) as unsettled
           group by topic
           order by count(*) desc, topic"#,
        unsettled.above,
        unsettled.began_at.to_string(),
        &texts(&unsettled.but_not),
        unsettled.later_above,
        unsettled.later_to,
        unsettled.began_later_at.to_string(),
        &xids,
        &afters,
        limit,
    )
    .fetch_all(connection)
    .await?)
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

// ---- texts ----

pub(in crate::operator) fn columns(late: &[(u64, i64)]) -> (Vec<String>, Vec<i64>) {
    let (xids, afters) = late.iter().copied().unzip::<u64, i64, Vec<_>, Vec<_>>();
    (texts(&xids), afters)
}

fn texts(xids: &[u64]) -> Vec<String> {
    xids.iter().map(u64::to_string).collect()
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
