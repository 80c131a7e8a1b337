//! How much is waiting: a statement on `outbox.log` for the metrics.

use sqlx::PgConnection;

use crate::{Error, outgoing::cursor::Cursor};

/// What [`waiting`] counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Waiting {
    pub(super) messages: i64,
    /// Age of the oldest that was looked at; 0 when there is none.
    pub(super) oldest_seconds: f64,
}

/// Counts what a cursor has not passed, up to `limit`, from its lower end. Reads no more than three
/// times as many rows, and none that are published: by the index on `seq` from the cursor on, or by
/// that on `xid` for single transactions.
///
/// A row that is not passed belongs to a transaction that began after `settled` (the first source,
/// and the second for those that drew their numbers early), or was open in `settled` or `target`.
pub(super) async fn waiting(
    connection: &mut PgConnection,
    cursor: &Cursor,
    limit: i64,
) -> Result<Waiting, Error> {
    let (settled, target) = (&cursor.settled, &cursor.target);
    let texts = |xids: &[u64]| xids.iter().map(u64::to_string).collect::<Vec<_>>();
    let open = texts(target.snapshot.in_progress());
    let ended = texts(&settled.snapshot.ended_since(&target.snapshot));
    let afters = [
        vec![i64::MIN; open.len()],
        vec![cursor.last_seq; ended.len()],
    ]
    .concat();
    let late = [&open[..], &ended[..]].concat();
    Ok(sqlx::query_as!(
        Waiting,
        r#"select count(*) as "messages!",
                  coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8
                      as "oldest_seconds!"
           from (
               (select created_at
                from outbox.log
                where seq > $1 and xid >= $2::text::xid8 and xid <> all($3::text[]::xid8[])
                order by seq
                limit $9)
               union all
               (select created_at
                from outbox.log
                where seq > $4 and seq <= $5 and xid >= $6::text::xid8
                order by seq
                limit $9)
               union all
               (select l.created_at
                from unnest($7::text[], $8::bigint[]) as late (xid, after)
                cross join lateral (
                    select created_at
                    from outbox.log
                    where log.xid >= late.xid::xid8 and log.xid <= late.xid::xid8
                      and log.seq > late.after
                    order by log.xid, log.seq
                    limit $9
                ) as l
                limit $9)
           ) as waiting"#,
        settled.floor.max(cursor.last_seq),
        settled.snapshot.xmax().to_string(),
        &open,
        target.floor,
        cursor.last_seq,
        target.snapshot.xmax().to_string(),
        &late,
        &afters,
        limit,
    )
    .fetch_one(connection)
    .await?)
}
