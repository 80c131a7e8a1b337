//! The statements of [`tail`](crate::operator::tail).

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Error,
    operator::{
        look::table::{decode, newest_seq},
        parked::Class,
        tail::{Filter, WINDOW},
    },
    outgoing::backlog::table::columns,
};

/// A row of the log, as an operator sees it.
pub(in crate::operator) struct Row {
    pub(in crate::operator) seq: i64,
    pub(in crate::operator) xid: u64,
    pub(in crate::operator) message_id: Uuid,
    pub(in crate::operator) topic: String,
    pub(in crate::operator) key: String,
    pub(in crate::operator) kind: String,
    pub(in crate::operator) bytes: Option<i64>,
    pub(in crate::operator) payload: Option<Vec<u8>>,
    pub(in crate::operator) created_at: DateTime<Utc>,
    pub(in crate::operator) age_seconds: f64,
    pub(in crate::operator) parked: Option<Class>,
}

/// As the driver returns it.
struct RawRow {
    seq: i64,
    xid: String,
    message_id: Uuid,
    topic: String,
    key: String,
    kind: String,
    bytes: Option<i64>,
    payload: Option<Vec<u8>>,
    created_at: DateTime<Utc>,
    age_seconds: f64,
    parked: Option<String>,
}

impl TryFrom<RawRow> for Row {
    type Error = Error;

    fn try_from(raw: RawRow) -> Result<Self, Error> {
        Ok(Self {
            seq: raw.seq,
            xid: raw.xid.parse().map_err(decode)?,
            message_id: raw.message_id,
            topic: raw.topic,
            key: raw.key,
            kind: raw.kind,
            bytes: raw.bytes,
            payload: raw.payload,
            created_at: raw.created_at,
            age_seconds: raw.age_seconds,
            parked: raw.parked.as_deref().map(Class::of_row),
        })
    }
}

/// The newest rows, newest first.
pub(in crate::operator) async fn newest(
    connection: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Row>, Error> {
    let newest = newest_seq(connection).await?.unwrap_or(0);
    let rows = sqlx::query_as!(
        RawRow,
        r#"select l.seq as "seq!", l.xid::text as "xid!", l.message_id as "message_id!",
                  l.topic as "topic!", l.key as "key!", l.kind as "kind!",
                  octet_length(l.payload)::bigint as bytes,
                  case when $5 then l.payload end as payload, outbox.readable_time(l.created_at) as "created_at!",
                  extract(epoch from clock_timestamp() - outbox.readable_time(l.created_at))::float8 as "age_seconds!",
                  (select class from outbox.parked where parked.seq = l.seq) as parked
           from (select * from outbox.log
                 where seq > $1
                   and ($2::text is null or topic = $2)
                   and ($3::text is null or key = $3)
                   and ($4::text is null or kind = $4)
                 order by seq desc
                 limit $6) as l"#,
        newest - WINDOW,
        filter.topic,
        filter.key,
        filter.kind,
        filter.payload,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::try_from).collect()
}

/// Rows of the transactions that began at `began_at` or later, and of those in `late`.
pub(in crate::operator) async fn began_or_late(
    connection: &mut PgConnection,
    filter: &Filter,
    began_at: u64,
    late: &[(u64, i64)],
    limit: i64,
) -> Result<Vec<Row>, Error> {
    let (xids, afters) = columns(late);
    let rows = sqlx::query_as!(
        RawRow,
        r#"select l.seq as "seq!", l.xid::text as "xid!", l.message_id as "message_id!",
                  l.topic as "topic!", l.key as "key!", l.kind as "kind!",
                  octet_length(l.payload)::bigint as bytes,
                  case when $7 then l.payload end as payload, outbox.readable_time(l.created_at) as "created_at!",
                  extract(epoch from clock_timestamp() - outbox.readable_time(l.created_at))::float8 as "age_seconds!",
                  (select class from outbox.parked where parked.seq = l.seq) as parked
           from (
               (select * from outbox.log where xid >= $1::text::xid8 order by xid, seq limit $8)
               union all
               (select l.*
                from unnest($2::text[], $3::bigint[]) as late (xid, after)
                cross join lateral (
                    select * from outbox.log
                    where log.xid >= late.xid::xid8 and log.xid <= late.xid::xid8
                      and log.seq > late.after
                    order by log.xid, log.seq
                    limit $8
                ) as l)
           ) as l
           where ($4::text is null or topic = $4)
             and ($5::text is null or key = $5)
             and ($6::text is null or kind = $6)
           limit $8"#,
        began_at.to_string(),
        &xids,
        &afters,
        filter.topic,
        filter.key,
        filter.kind,
        filter.payload,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::try_from).collect()
}
