//! The statements of [`replay`](crate::operator::replay).

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Error,
    operator::replay::{Holds, Range, Selection, TopicPlan},
};

/// The oldest row of the log.
pub(in crate::operator) async fn oldest(
    connection: &mut PgConnection,
) -> Result<Option<Holds>, Error> {
    Ok(sqlx::query_as!(
        Holds,
        r#"select seq as "from_seq!",
                  least(greatest(created_at, '0001-01-01+00'), '9999-12-31+00') as "from_time!"
           from outbox.log order by seq limit 1"#
    )
    .fetch_optional(connection)
    .await?)
}

/// The first row from a number on, and when it was enqueued.
pub(in crate::operator) async fn next_from(
    connection: &mut PgConnection,
    from: i64,
    until: i64,
) -> Result<Option<(i64, DateTime<Utc>)>, Error> {
    let row = sqlx::query!(
        r#"select seq, least(greatest(created_at, '0001-01-01+00'), '9999-12-31+00') as "created_at!"
           from outbox.log where seq >= $1 and seq <= $2 order by seq limit 1"#,
        from,
        until,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.seq, row.created_at)))
}

/// Takes the weakest lock on every partition, which forbids only to empty it; taken again, it shows that
/// the session is alive.
pub(in crate::operator) async fn keep_partitions(
    connection: &mut PgConnection,
) -> Result<(), Error> {
    sqlx::query!("lock table outbox.log in access share mode")
        .execute(connection)
        .await?;
    Ok(())
}

/// As `enqueue` does: what is published must not be lost in a crash.
pub(in crate::operator) async fn be_durable(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!(
        "select set_config('synchronous_commit', 'on', true)
         where current_setting('synchronous_commit') = 'off'"
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// A query over the rows to be replayed, `l`: what is to be replayed is said once. Parameters of the
/// query's own begin with `$11`.
macro_rules! of_replayable {
    ($query:ident!($($row:ty,)? $select:literal, $rest:literal), $range:ident, $selection:ident $(, $more:expr)*) => {
        sqlx::$query!(
            $($row,)?
            $select
                + r#" from outbox.log as l
                 where l.seq > $1 and l.seq <= $2
                   and ($3::timestamptz is null or l.created_at >= $3)
                   and ($4::text is null or l.topic = $4)
                   and ($5::text is null or l.key = $5)
                   and ($6::text is null or l.kind = $6)
                   and (pg_visible_in_snapshot(l.xid, $7::text::pg_snapshot)
                        or (l.seq <= $9 and pg_visible_in_snapshot(l.xid, $8::text::pg_snapshot)))
                   and not exists (select from outbox.parked where parked.seq = l.seq)
                   and not exists (
                       select from outbox.log as original
                       where original.seq = case when l.headers->>'replayed-from' ~ '^[0-9]{1,18}$'
                                                 then (l.headers->>'replayed-from')::bigint end
                         and original.seq >= $10 and original.message_id = l.message_id) "#
                + $rest,
            $range.after,
            $range.until,
            $range.since,
            $selection.topic,
            $selection.key,
            $selection.kind,
            $range.settled,
            $range.target,
            $range.last_seq,
            $range.from
            $(, $more)*
        )
    };
}

/// The next numbers to be replayed.
pub(in crate::operator) async fn replayable(
    connection: &mut PgConnection,
    range: &Range,
    selection: &Selection,
    limit: i64,
) -> Result<Vec<i64>, Error> {
    Ok(of_replayable!(
        query_scalar!(r#"select l.seq as "seq!""#, "order by l.seq limit $11"),
        range,
        selection,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// Counts the same by topic.
pub(in crate::operator) async fn count_replayable(
    connection: &mut PgConnection,
    range: &Range,
    selection: &Selection,
) -> Result<Vec<TopicPlan>, Error> {
    Ok(of_replayable!(
        query_as!(
            TopicPlan,
            r#"select l.topic, count(*) as "messages!", least(greatest(min(l.created_at), '0001-01-01+00'), '9999-12-31+00') as "first_at!",
                      least(greatest(max(l.created_at), '0001-01-01+00'), '9999-12-31+00') as "last_at!""#,
            "group by l.topic order by l.topic"
        ),
        range,
        selection
    )
    .fetch_all(connection)
    .await?)
}

/// Appends copies of rows in the order of their numbers, with the ids given, or their own.
pub(in crate::operator) async fn enqueue_again(
    connection: &mut PgConnection,
    seqs: &[i64],
    ids: &[Option<Uuid>],
    header: &str,
) -> Result<u64, Error> {
    let done = sqlx::query!(
        r#"insert into outbox.log (message_id, topic, key, kind, payload, traceparent, headers)
           select coalesce(copy.id, l.message_id), l.topic, l.key, l.kind, l.payload, l.traceparent,
                  coalesce(l.headers, '{}') || jsonb_build_object($3::text, l.seq::text)
           from unnest($1::bigint[], $2::uuid[]) as copy (seq, id)
           join outbox.log as l on l.seq = copy.seq
           order by l.seq"#,
        seqs,
        ids as &[Option<Uuid>],
        header,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
