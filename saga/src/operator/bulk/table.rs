//! Every statement about bulk operations. One function per statement, named as the sentence.
//!
//! Whoever holds the row of a bulk operation has its turn: its items are touched by nobody else.

use sqlx::{PgExecutor, PgPool, PgTransaction, QueryBuilder};
use uuid::Uuid;

use crate::{
    Error,
    intervention::What,
    operator::{
        Selection,
        bulk::{
            BulkStatus, ItemResult,
            ask::BulkRequest,
            look::{Bulk, Counts, Item},
        },
        table::{OPEN, push_selection},
    },
    stored::{Moment, Unreadable, Word},
    table::corrupt,
};

/// Whether a bulk operation was written down.
pub(super) enum Inserted {
    /// It was.
    Here,
    /// Its key has one already.
    Before { id: Uuid, request_hash: String },
}

/// Whether nobody else is at a request under this key: true until the transaction ends.
pub(super) async fn claim_key(
    tx: &mut PgTransaction<'_>,
    actor: &str,
    idempotency_key: &str,
) -> Result<bool, Error> {
    Ok(sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtext('saga.bulk'), hashtext($1)) as "mine!""#,
        format!("{actor} {idempotency_key}")
    )
    .fetch_one(&mut **tx)
    .await?)
}

/// Writes a bulk operation down, unless its key is taken.
pub(super) async fn insert(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    request: &BulkRequest,
    role: Option<&str>,
    request_hash: &str,
) -> Result<Inserted, Error> {
    let json = |value| serde_json::to_value(value).map_err(|error| corrupt(id, error));
    let what = serde_json::to_value(&request.what).map_err(|error| corrupt(id, error))?;
    let inserted = sqlx::query!(
        "insert into saga.bulk
           (id, idempotency_key, request_hash, what, operation, selection, actor, role, reason,
            allow_changed, per_second)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict on constraint bulk_idempotency_key_unique do nothing",
        id,
        request.idempotency_key,
        request_hash,
        what,
        request.what.name().as_str(),
        json(&request.selection)?,
        request.actor,
        role,
        request.reason,
        request.allow_changed,
        request.per_second
    )
    .execute(&mut **tx)
    .await?;
    if inserted.rows_affected() > 0 {
        return Ok(Inserted::Here);
    }
    // A second statement, so that it sees what a concurrent one has just committed.
    let before = sqlx::query!(
        "select id, request_hash from saga.bulk where actor = $1 and idempotency_key = $2",
        request.actor,
        request.idempotency_key
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(Inserted::Before {
        id: before.id,
        request_hash: before.request_hash,
    })
}

/// Lists the sagas that are selected now and have not ended, the oldest first, at most `limit`.
/// Returns how many.
pub(super) async fn list_sagas(
    tx: &mut PgTransaction<'_>,
    bulk_id: Uuid,
    selection: &Selection,
    limit: i64,
) -> Result<i64, Error> {
    let mut sql = QueryBuilder::new(
        "insert into saga.bulk_item (bulk_id, position, saga_id, expected_seq) \
         select ",
    );
    sql.push_bind(bulk_id).push(
        ", row_number() over (order by created_at, id), id, seq \
         from (select id, seq, created_at from saga.instance where true",
    );
    sql.push(OPEN);
    push_selection(&mut sql, selection);
    sql.push(" order by created_at, id limit ")
        .push_bind(limit)
        .push(") as found");
    let listed = sql.build().execute(&mut **tx).await?;
    Ok(i64::try_from(listed.rows_affected()).unwrap_or(i64::MAX))
}

/// Says of how many sagas it is.
pub(super) async fn set_total(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    sagas: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update saga.bulk set total = $2::bigint::integer where id = $1",
        id,
        sagas
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// How many sagas are selected now and have not ended: at most `most` are counted.
pub(super) async fn count_sagas(
    pool: &PgPool,
    selection: &Selection,
    most: i64,
) -> Result<i64, Error> {
    let mut sql = QueryBuilder::new("select count(*) from (select from saga.instance where true");
    sql.push(OPEN);
    push_selection(&mut sql, selection);
    sql.push(" limit ").push_bind(most).push(") as found");
    Ok(sql.build_query_scalar().fetch_one(pool).await?)
}

/// The oldest of them.
pub(super) async fn oldest_sagas(
    pool: &PgPool,
    selection: &Selection,
    limit: i64,
) -> Result<Vec<Uuid>, Error> {
    let mut sql = QueryBuilder::new("select id from saga.instance where true");
    sql.push(OPEN);
    push_selection(&mut sql, selection);
    sql.push(" order by created_at, id limit ").push_bind(limit);
    Ok(sql.build_query_scalar().fetch_all(pool).await?)
}

/// Stops it, unless it has ended. Whether it did.
pub(super) async fn cancel(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    actor: &str,
    reason: &str,
) -> Result<bool, sqlx::Error> {
    let stopped = sqlx::query!(
        "update saga.bulk set status = 'cancelled', ended_at = clock_timestamp(),
                cancelled_by = $2, cancel_reason = $3
         where id = $1 and status = 'running'",
        id,
        actor,
        reason
    )
    .execute(&mut **tx)
    .await?;
    Ok(stopped.rows_affected() > 0)
}

/// A bulk operation whose row we hold.
pub(super) struct Running {
    pub(super) id: Uuid,
    pub(super) what: What,
    pub(super) actor: String,
    pub(super) role: Option<String>,
    pub(super) reason: String,
    pub(super) allow_changed: bool,
}

/// What is taken.
pub(super) enum Taken {
    /// What can be carried out.
    Whole(Running),
    /// What this replica cannot read.
    Unreadable { id: Uuid, reason: String },
}

/// Takes the one that is due and has waited longest, none of those that are `left` to others; whoever
/// is locked is at work.
pub(super) async fn take_running(
    tx: &mut PgTransaction<'_>,
    left: &[Uuid],
) -> Result<Option<Taken>, Error> {
    let row = sqlx::query!(
        r#"select id, what::text as "what!", actor, role, reason, allow_changed from saga.bulk
           where status = 'running' and next_at <= clock_timestamp() and id <> all ($1)
           order by next_at limit 1 for update skip locked"#,
        left
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|row| match serde_json::from_str(&row.what) {
        Ok(what) => Taken::Whole(Running {
            id: row.id,
            what,
            actor: row.actor,
            role: row.role,
            reason: row.reason,
            allow_changed: row.allow_changed,
        }),
        Err(error) => Taken::Unreadable {
            id: row.id,
            reason: error.to_string(),
        },
    }))
}

/// The saga whose turn it is.
pub(super) struct Turn {
    pub(super) position: i32,
    pub(super) saga_id: Uuid,
    pub(super) expected_seq: i64,
    pub(super) failures: i32,
}

/// The first one that is pending and not put off.
pub(super) async fn next_turn(
    tx: &mut PgTransaction<'_>,
    bulk_id: Uuid,
) -> Result<Option<Turn>, sqlx::Error> {
    sqlx::query_as!(
        Turn,
        "select position, saga_id, expected_seq, failures from saga.bulk_item
         where bulk_id = $1 and result is null
           and (not_before is null or not_before <= clock_timestamp())
         order by position limit 1",
        bulk_id
    )
    .fetch_optional(&mut **tx)
    .await
}

/// Writes down what became of one, and counts it.
pub(super) async fn settle(
    tx: &mut PgTransaction<'_>,
    bulk_id: Uuid,
    position: i32,
    result: ItemResult,
    detail: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with settled as (
             update saga.bulk_item set result = $3, detail = $4, done_at = clock_timestamp()
             where bulk_id = $1 and position = $2 and result is null
             returning bulk_id)
         update saga.bulk
         set done = done + case $3 when 'done' then 1 else 0 end,
             refused = refused + case $3 when 'refused' then 1 else 0 end,
             changed = changed + case $3 when 'changed' then 1 else 0 end,
             gone = gone + case $3 when 'gone' then 1 else 0 end,
             failed = failed + case $3 when 'failed' then 1 else 0 end
         from settled where bulk.id = settled.bulk_id",
        bulk_id,
        position,
        result.as_str(),
        detail
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Puts one off, each time for longer, up to a minute.
pub(super) async fn postpone(
    tx: &mut PgTransaction<'_>,
    bulk_id: Uuid,
    position: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update saga.bulk_item
         set failures = failures + 1,
             not_before = clock_timestamp() + least(power(2, failures), 60) * interval '1 second'
         where bulk_id = $1 and position = $2 and result is null",
        bulk_id,
        position
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Moves the next turn on by the share of a second that this one had. What was not used up is kept
/// for a second, so that a late loop makes up for it, and no longer, so that it does not storm.
pub(super) async fn pace(tx: &mut PgTransaction<'_>, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update saga.bulk
         set next_at = greatest(next_at, clock_timestamp() - interval '1 second')
                       + interval '1 second' / per_second
         where id = $1",
        id
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Ends it if nothing is pending; else it waits until the first that was put off. Whether it ended.
pub(super) async fn end_or_wait(tx: &mut PgTransaction<'_>, id: Uuid) -> Result<bool, sqlx::Error> {
    let status = sqlx::query_scalar!(
        "update saga.bulk
         set status = case when pending.first is null then 'done' else 'running' end,
             ended_at = case when pending.first is null then clock_timestamp() end,
             next_at = coalesce(pending.first, next_at)
         from (select min(not_before) as first from saga.bulk_item
               where bulk_id = $1 and result is null) as pending
         where id = $1
         returning status",
        id
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(status == BulkStatus::Done.as_str())
}

/// Counts once more what became of its sagas: a replica of another release may have settled some
/// without counting.
pub(super) async fn count_again(tx: &mut PgTransaction<'_>, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update saga.bulk
         set total = items.total, done = items.done, refused = items.refused,
             changed = items.changed, gone = items.gone, failed = items.failed
         from (select count(*) as total,
                      count(*) filter (where result = 'done') as done,
                      count(*) filter (where result = 'refused') as refused,
                      count(*) filter (where result = 'changed') as changed,
                      count(*) filter (where result = 'gone') as gone,
                      count(*) filter (where result = 'failed') as failed
               from saga.bulk_item where bulk_id = $1) as items
         where id = $1",
        id
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// How one stands.
pub(super) async fn show(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Option<Bulk>, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, what::text as "what!", operation, status, selection::text as "selection!",
                  actor, reason, per_second, allow_changed, created_at as "created_at: Moment",
                  ended_at as "ended_at: Moment", cancelled_by, cancel_reason, total, done, refused,
                  changed, gone, failed
           from saga.bulk where id = $1"#,
        id
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(Row::parse))
}

/// How the newest stand.
pub(super) async fn list(pool: &PgPool, limit: i64) -> Result<Vec<Bulk>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, what::text as "what!", operation, status, selection::text as "selection!",
                  actor, reason, per_second, allow_changed, created_at as "created_at: Moment",
                  ended_at as "ended_at: Moment", cancelled_by, cancel_reason, total, done, refused,
                  changed, gone, failed
           from saga.bulk order by created_at desc, id desc limit $1"#,
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Row::parse).collect())
}

/// Its sagas in order, after a position, of one result or of any.
pub(super) async fn items(
    pool: &PgPool,
    bulk_id: Uuid,
    result: Option<ItemResult>,
    after: i32,
    limit: i64,
) -> Result<Vec<Item>, Error> {
    let rows = sqlx::query!(
        r#"select position, saga_id, expected_seq, result, detail, failures,
                  done_at as "done_at: Moment"
           from saga.bulk_item
           where bulk_id = $1 and position > $2 and ($3::text is null or result = $3)
           order by position limit $4"#,
        bulk_id,
        after,
        result.map(ItemResult::as_str),
        limit
    )
    .fetch_all(pool)
    .await?;
    let items = rows.into_iter().map(|row| Item {
        position: row.position,
        saga_id: row.saga_id,
        expected_seq: row.expected_seq,
        result: row.result.map(Word::from),
        detail: row.detail,
        failures: row.failures,
        done_at: row.done_at.map(Into::into),
    });
    Ok(items.collect())
}

struct Row {
    id: Uuid,
    what: String,
    operation: String,
    status: String,
    selection: String,
    actor: String,
    reason: String,
    per_second: i32,
    allow_changed: bool,
    created_at: Moment,
    ended_at: Option<Moment>,
    cancelled_by: Option<String>,
    cancel_reason: Option<String>,
    total: i32,
    done: i32,
    refused: i32,
    changed: i32,
    gone: i32,
    failed: i32,
}

impl Row {
    fn parse(self) -> Bulk {
        let mut unreadable = Unreadable::default();
        if let Err(error) = serde_json::from_str::<What>(&self.what) {
            unreadable.note("what", error);
        }
        let selection = unreadable.json("selection", &self.selection);
        let settled = self.done + self.refused + self.changed + self.gone + self.failed;
        Bulk {
            id: self.id,
            operation: self.operation.into(),
            status: self.status.into(),
            selection,
            actor: self.actor,
            reason: self.reason,
            per_second: self.per_second,
            allow_changed: self.allow_changed,
            created_at: self.created_at.into(),
            ended_at: self.ended_at.map(Into::into),
            cancelled_by: self.cancelled_by,
            cancel_reason: self.cancel_reason,
            sagas: Counts {
                total: self.total.into(),
                pending: (self.total - settled).into(),
                done: self.done.into(),
                refused: self.refused.into(),
                changed: self.changed.into(),
                gone: self.gone.into(),
                failed: self.failed.into(),
            },
            unreadable: unreadable.reason(),
        }
    }
}
