//! How much is waiting: a statement on `outbox.log`.

use sqlx::PgConnection;

use crate::{Error, outgoing::backlog::Unsettled};

/// A topic's share of what is waiting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) topic: String,
    /// How many were counted.
    pub(crate) messages: i64,
    /// Age of the oldest that was looked at.
    pub(crate) oldest_seconds: f64,
}

/// Counts rows by topic, most first. Of each of the three sources at most `limit` are read, and of
/// what is published nothing.
pub(crate) async fn count(
    connection: &mut PgConnection,
    unsettled: &Unsettled,
    limit: i64,
) -> Result<Vec<Waiting>, Error> {
    let (xids, afters) = columns(&unsettled.late);
    Ok(sqlx::query_as!(
        Waiting,
        r#"select topic as "topic!", count(*) as "messages!",
                  extract(epoch from clock_timestamp()
                          - least(greatest(min(created_at), '0001-01-01+00'), '9999-12-31+00'))::float8 as "oldest_seconds!"
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

// ---- texts ----

/// `xid8` travels as text: the driver has no type for it.
pub(crate) fn columns(late: &[(u64, i64)]) -> (Vec<String>, Vec<i64>) {
    let (xids, afters) = late.iter().copied().unzip::<u64, i64, Vec<_>, Vec<_>>();
    (texts(&xids), afters)
}

fn texts(xids: &[u64]) -> Vec<String> {
    xids.iter().map(u64::to_string).collect()
}
