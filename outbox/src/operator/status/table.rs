//! The statements of [`status`](crate::operator::status).

use sqlx::PgConnection;

use crate::{
    Error,
    operator::{
        parked::Class,
        status::{InboxParked, Lease, ParkedCount, Partition, Pause, Ring},
    },
};

/// The relay's row, without the cursor.
pub(in crate::operator) struct Relay {
    pub(in crate::operator) lease: Option<Lease>,
    pub(in crate::operator) epoch: i64,
    pub(in crate::operator) paused: Option<Pause>,
    pub(in crate::operator) cursor_age_seconds: f64,
}

pub(in crate::operator) async fn relay(connection: &mut PgConnection) -> Result<Relay, Error> {
    let row = sqlx::query!(
        r#"select case when outbox.lease_is_held(lease_until, lease_length) then owner end as owner,
                  case when outbox.lease_is_held(lease_until, lease_length)
                       then extract(epoch from lease_until - clock_timestamp())::float8 end as seconds_left,
                  epoch, paused_at, paused_by,
                  extract(epoch from clock_timestamp() - written_at)::float8 as "age!"
           from outbox.relay"#
    )
    .fetch_one(connection)
    .await?;
    let lease = row.owner.zip(row.seconds_left);
    let pause = row.paused_at.zip(row.paused_by);
    Ok(Relay {
        lease: lease.map(|(owner, seconds_left)| Lease {
            owner,
            seconds_left,
        }),
        epoch: row.epoch,
        paused: pause.map(|(since, by)| Pause { since, by }),
        cursor_age_seconds: row.age,
    })
}

/// The last number given out, committed or not.
pub(in crate::operator) async fn last_seq(connection: &mut PgConnection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(
        r#"select case when is_called then last_value else 0 end as "seq!" from outbox.log_seq"#
    )
    .fetch_one(connection)
    .await?)
}

pub(in crate::operator) async fn ring(connection: &mut PgConnection) -> Result<Ring, Error> {
    Ok(sqlx::query_as!(
        Ring,
        r#"select 1::bigint << outbox.partition_bits() as "partition!""#
    )
    .fetch_one(connection)
    .await?)
}

/// The partitions in order, with who `seq` says is current.
pub(in crate::operator) async fn partitions(
    connection: &mut PgConnection,
    seq: i64,
) -> Result<Vec<Partition>, Error> {
    Ok(sqlx::query_as!(
        Partition,
        r#"select c.relname::text as "name!", pg_total_relation_size(c.oid) as "bytes!",
                  pg_stat_get_live_tuples(c.oid) as "rows_estimate!",
                  c.relname = 'log_' || ((($1::bigint + 1) >> outbox.partition_bits()) & 3)::text as "current!"
           from pg_inherits as i
           join pg_class as c on c.oid = i.inhrelid
           where i.inhparent = 'outbox.log'::regclass
           order by c.relname"#,
        seq,
    )
    .fetch_all(connection)
    .await?)
}

pub(in crate::operator) async fn parked_counts(
    connection: &mut PgConnection,
) -> Result<Vec<ParkedCount>, Error> {
    let rows = sqlx::query!(
        r#"select class, count(*) as "messages!",
                  extract(epoch from clock_timestamp() - min(parked_at))::float8 as "oldest!"
           from outbox.parked group by class order by class"#
    )
    .fetch_all(connection)
    .await?;
    let counts = rows.into_iter().map(|row| ParkedCount {
        class: Class::of_row(&row.class),
        messages: row.messages,
        oldest_seconds: row.oldest,
    });
    Ok(counts.collect())
}

pub(in crate::operator) async fn blocked_keys(connection: &mut PgConnection) -> Result<i64, Error> {
    Ok(
        sqlx::query_scalar!(r#"select count(*) as "count!" from outbox.blocked_key"#)
            .fetch_one(connection)
            .await?,
    )
}

pub(in crate::operator) async fn inbox_parked_counts(
    connection: &mut PgConnection,
) -> Result<Vec<InboxParked>, Error> {
    Ok(sqlx::query_as!(
        InboxParked,
        r#"select consumer, count(*) as "messages!",
                  extract(epoch from clock_timestamp() - min(parked_at))::float8 as "oldest_seconds!"
           from outbox.inbox_parked group by consumer order by consumer"#
    )
    .fetch_all(connection)
    .await?)
}
