//! Every statement about locks. One function per statement, named as the sentence.
//!
//! Promised: whoever changes a claim of a resource holds the resource's row, except that a saga's
//! own turn takes note of what it was granted. The clock is the database's.

use std::collections::HashMap;

use sqlx::{PgPool, PgTransaction, QueryBuilder};
use uuid::Uuid;

use crate::{
    Error,
    locks::{
        claim::{Claim, Granted},
        line::{Found, Own},
        list::Filter,
    },
    stored::Moment,
};

/// How many of a line are looked at in one go. Only whoever is granted more at once needs another.
const AT_ONCE: i64 = 100;

/// What these sagas claim. Only a saga's own turn adds to it or takes from it, and the caller has
/// it.
pub(crate) async fn claimed_by(
    tx: &mut PgTransaction<'_>,
    sagas: &[Uuid],
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        "select saga_id, resource from saga.lock_claim where saga_id = any($1)",
        sagas
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.saga_id, row.resource))
        .collect())
}

/// Locks the resources in the order of their names, those that are not there by making them.
/// Conflicting rows are locked though nothing is updated (`where false`): no dead row is left. One
/// that is deleted while we wait for it is made anew.
pub(crate) async fn lock_in_order(
    tx: &mut PgTransaction<'_>,
    resources: &[String],
    capacities: &[i64],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"insert into saga.lock as l (resource, capacity)
           select resource, capacity from unnest($1::text[], $2::bigint[]) as t (resource, capacity)
           order by resource collate "C"
           on conflict on constraint lock_pkey do update set capacity = l.capacity where false"#,
        resources,
        capacities
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Removes claims.
pub(crate) async fn delete_claims(
    tx: &mut PgTransaction<'_>,
    claims: &[(Uuid, String)],
) -> Result<(), sqlx::Error> {
    let (sagas, resources): (Vec<Uuid>, Vec<String>) = claims.iter().cloned().unzip();
    // The first condition is the index's.
    sqlx::query!(
        "delete from saga.lock_claim c
         where c.saga_id = any($1)
           and exists (select from unnest($1::uuid[], $2::text[]) as gone (saga_id, resource)
                       where gone.saga_id = c.saga_id and gone.resource = c.resource)",
        &sagas,
        &resources
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// How each claim finds its resource. A statement of its own after the locks, so that it sees what
/// those before have committed.
pub(crate) async fn find(
    tx: &mut PgTransaction<'_>,
    claims: &[(Uuid, Claim)],
) -> Result<Vec<Found>, sqlx::Error> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let sagas: Vec<Uuid> = claims.iter().map(|(saga_id, _)| *saga_id).collect();
    let resources: Vec<String> = resources_of(claims.iter().map(|(_, claim)| claim));
    let rows = sqlx::query!(
        r#"select l.capacity,
                  (select coalesce(sum(h.units), 0)::bigint from saga.lock_claim h
                   where h.resource = l.resource and h.state in ('held', 'granted')) as "used!",
                  exists (select from saga.lock_claim w
                          where w.resource = l.resource and w.state = 'waiting') as "line!",
                  own.units as "own_units?", own.state = 'waiting' as own_waits
           from unnest($1::uuid[], $2::text[]) with ordinality as t (saga_id, resource, place)
           join saga.lock l on l.resource = t.resource
           left join saga.lock_claim own
             on own.saga_id = t.saga_id and own.resource = t.resource
           order by t.place"#,
        &sagas,
        &resources
    )
    .fetch_all(&mut **tx)
    .await?;
    let found = rows.into_iter().map(|row| Found {
        capacity: row.capacity,
        used: row.used,
        line: row.line,
        own: row
            .own_units
            .zip(row.own_waits)
            .map(|(units, waits)| Own { units, waits }),
    });
    Ok(found.collect())
}

/// Sets capacities.
pub(crate) async fn set_capacities(
    tx: &mut PgTransaction<'_>,
    capacities: &HashMap<&str, i64>,
) -> Result<(), sqlx::Error> {
    let (resources, capacities): (Vec<String>, Vec<i64>) = capacities
        .iter()
        .map(|(resource, capacity)| ((*resource).to_owned(), *capacity))
        .unzip();
    sqlx::query!(
        "update saga.lock l set capacity = t.capacity
         from unnest($1::text[], $2::bigint[]) as t (resource, capacity)
         where l.resource = t.resource",
        &resources,
        &capacities
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Grants to the line of each resource as many from its head as fit; to the first in any case when
/// nobody holds anything, or one that is larger than a lowered capacity would block it for ever.
pub(crate) async fn grant(
    tx: &mut PgTransaction<'_>,
    resources: &[String],
) -> Result<Vec<Granted>, sqlx::Error> {
    let mut granted = Vec::new();
    loop {
        let mut some = sqlx::query!(
            r#"with room as (
                 select l.resource, l.capacity,
                        (select coalesce(sum(h.units), 0) from saga.lock_claim h
                         where h.resource = l.resource and h.state in ('held', 'granted')) as used
                 from saga.lock l where l.resource = any($1)
               ), line as (
                 select head.saga_id, room.resource, room.capacity, room.used, head.position,
                        sum(head.units) over in_order as up_to_here,
                        row_number() over in_order as place
                 from room
                 cross join lateral (
                   select w.saga_id, w.units, w.position from saga.lock_claim w
                   where w.resource = room.resource and w.state = 'waiting'
                   order by w.position limit $2
                 ) as head
                 window in_order as (partition by room.resource order by head.position)
               )
               update saga.lock_claim c set state = 'granted', granted_at = clock_timestamp()
               from line
               where c.saga_id = line.saga_id and c.resource = line.resource
                 and (line.used + line.up_to_here <= line.capacity
                      or (line.used = 0 and line.place = 1))
               returning c.saga_id, c.resource, c.position"#,
            resources,
            AT_ONCE
        )
        .fetch_all(&mut **tx)
        .await?;
        // With fewer than that no line can have been cut short.
        let done = i64::try_from(some.len()).is_ok_and(|granted| granted < AT_ONCE);
        some.sort_by_key(|row| row.position);
        granted.extend(some.into_iter().map(|row| Granted {
            saga_id: row.saga_id,
            resource: row.resource,
        }));
        if done {
            return Ok(granted);
        }
    }
}

/// Writes new claims down, in the order given.
pub(crate) async fn insert_claims(
    tx: &mut PgTransaction<'_>,
    claims: &[(Uuid, &Claim, bool)],
) -> Result<(), sqlx::Error> {
    if claims.is_empty() {
        return Ok(());
    }
    let sagas: Vec<Uuid> = claims.iter().map(|(saga_id, ..)| *saga_id).collect();
    let resources = resources_of(claims.iter().map(|(_, claim, _)| *claim));
    let units: Vec<i64> = claims.iter().map(|(_, claim, _)| claim.units).collect();
    let waits: Vec<bool> = claims.iter().map(|(.., waits)| *waits).collect();
    sqlx::query!(
        "insert into saga.lock_claim (saga_id, resource, units, state, granted_at)
         select t.saga_id, t.resource, t.units,
                case when t.waits then 'waiting' else 'held' end,
                case when t.waits then null else clock_timestamp() end
         from unnest($1::uuid[], $2::text[], $3::bigint[], $4::boolean[])
              with ordinality as t (saga_id, resource, units, waits, place)
         order by t.place",
        &sagas,
        &resources,
        &units,
        &waits
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Removes those of the resources, all locked, that nobody claims any more.
pub(crate) async fn delete_unclaimed(
    tx: &mut PgTransaction<'_>,
    resources: &[String],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from saga.lock l where l.resource = any($1)
           and not exists (select from saga.lock_claim c where c.resource = l.resource)",
        resources
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Locks sagas that were granted something and have not noticed; whoever is locked is at work.
pub(crate) async fn lock_granted_instances(
    tx: &mut PgTransaction<'_>,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from saga.instance
         where id = any (array(select saga_id from saga.lock_claim where state = 'granted'
                               order by granted_at limit $1))
         order by id limit $1 for update skip locked",
        limit
    )
    .fetch_all(&mut **tx)
    .await
}

/// The sagas, all locked, hold what they were granted. Their turns alone touch what is no longer
/// waiting, so the resources need no locks here.
pub(crate) async fn hold_granted(
    tx: &mut PgTransaction<'_>,
    sagas: &[Uuid],
) -> Result<Vec<Granted>, Error> {
    let granted = sqlx::query_as!(
        Granted,
        "update saga.lock_claim set state = 'held'
         where saga_id = any($1) and state = 'granted'
         returning saga_id, resource",
        sagas
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(granted)
}

/// Sagas that claim something, in the order of their ids, at most `limit` after that one.
pub(crate) async fn claimants_after(
    pool: &PgPool,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select distinct saga_id from saga.lock_claim where saga_id > $1 order by saga_id limit $2",
        after,
        limit
    )
    .fetch_all(pool)
    .await
}

/// Locks those of these sagas that have ended, unless somebody is at work on them.
pub(crate) async fn lock_ended(
    tx: &mut PgTransaction<'_>,
    sagas: &[Uuid],
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from saga.instance
         where id = any($1) and status in ('completed', 'compensated', 'abandoned')
         order by id for update skip locked",
        sagas
    )
    .fetch_all(&mut **tx)
    .await
}

/// How old claims are and how many wait, all together.
pub(crate) struct Ages {
    pub(crate) waiting: i64,
    pub(crate) unnoticed: i64,
    pub(crate) oldest_waiting_seconds: f64,
    pub(crate) oldest_held_seconds: f64,
}

/// Reads how old claims are; one of no moment that there is does not count.
pub(crate) async fn ages(pool: &PgPool) -> Result<Ages, sqlx::Error> {
    sqlx::query_as!(
        Ages,
        r#"select count(*) filter (where state = 'waiting') as "waiting!",
                  count(*) filter (where state = 'granted') as "unnoticed!",
                  coalesce(extract(epoch from clock_timestamp()
                    - min(claimed_at) filter (where state = 'waiting'
                                              and isfinite(claimed_at))), 0)::float8
                    as "oldest_waiting_seconds!",
                  coalesce(extract(epoch from clock_timestamp()
                    - min(granted_at) filter (where isfinite(granted_at))), 0)::float8
                    as "oldest_held_seconds!"
           from saga.lock_claim"#
    )
    .fetch_one(pool)
    .await
}

/// A claim held for long.
pub(crate) struct LongHeld {
    pub(crate) saga_id: Uuid,
    pub(crate) resource: String,
    pub(crate) seconds: f64,
    pub(crate) waiters: i64,
}

/// The claims held for longer than that, oldest first.
pub(crate) async fn held_longer_than(
    pool: &PgPool,
    seconds: f64,
    limit: i64,
) -> Result<Vec<LongHeld>, sqlx::Error> {
    sqlx::query_as!(
        LongHeld,
        r#"select saga_id, resource,
                  extract(epoch from clock_timestamp() - granted_at)::float8 as "seconds!",
                  (select count(*) from saga.lock_claim w
                   where w.resource = h.resource and w.state = 'waiting') as "waiters!"
           from saga.lock_claim h
           where granted_at < clock_timestamp() - make_interval(secs => $1) and isfinite(granted_at)
           order by granted_at limit $2"#,
        seconds,
        limit
    )
    .fetch_all(pool)
    .await
}

/// A page of resources with their capacities, by name. Built from the filters that are given, not
/// a checked macro with `$1 is null or …`: a plan for all of those at once could use no index.
pub(crate) async fn page(
    pool: &PgPool,
    filter: &Filter,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let mut sql = QueryBuilder::new("select l.resource, l.capacity from saga.lock l where true");
    if let Some(resource) = &filter.resource {
        sql.push(" and l.resource = ").push_bind(resource);
    }
    if let Some(saga_id) = filter.saga_id {
        sql.push(" and l.resource in (select c.resource from saga.lock_claim c where c.saga_id = ")
            .push_bind(saga_id)
            .push(")");
    }
    if let Some(waiting) = filter.waiting {
        sql.push(if waiting {
            " and exists"
        } else {
            " and not exists"
        })
        .push(
            " (select from saga.lock_claim w \
                 where w.resource = l.resource and w.state = 'waiting')",
        );
    }
    if let Some(after) = &filter.after {
        sql.push(" and l.resource > ").push_bind(after);
    }
    sql.push(" order by l.resource limit ")
        .push_bind(filter.limit);
    sql.build_query_as().fetch_all(pool).await
}

/// One claim of a resource that is shown.
pub(crate) struct Shown {
    pub(crate) resource: String,
    pub(crate) saga_id: Uuid,
    pub(crate) units: i64,
    pub(crate) waits: bool,
    pub(crate) since: Moment,
    /// Among those who wait, or those who hold.
    pub(crate) place: i64,
    /// How many wait, or hold.
    pub(crate) count: i64,
    /// Held of the resource, by whomever.
    pub(crate) used: i64,
}

/// Of each resource the first holders and the first of the line, and in any case that saga's.
pub(crate) async fn claims_of(
    pool: &PgPool,
    resources: &[String],
    limit: i64,
    saga_id: Option<Uuid>,
) -> Result<Vec<Shown>, sqlx::Error> {
    sqlx::query_as!(
        Shown,
        r#"select resource as "resource!", saga_id as "saga_id!", units as "units!",
                  waits as "waits!", since as "since!: Moment", place as "place!", count as "count!",
                  used as "used!"
           from (
             select resource, saga_id, units, state = 'waiting' as waits,
                    -- No moment that a program cannot tell.
                    greatest(timestamptz '0001-01-01', least(timestamptz '9999-12-31',
                        coalesce(granted_at, claimed_at))) as since,
                    row_number() over (partition by resource, state = 'waiting'
                                       order by position) as place,
                    count(*) over (partition by resource, state = 'waiting') as count,
                    least(coalesce(sum(units) filter (where state in ('held', 'granted'))
                                   over (partition by resource), 0),
                          9223372036854775807)::bigint as used
             from saga.lock_claim where resource = any($1)
           ) as c
           where place <= $2 or saga_id = $3
           order by resource, waits, place"#,
        resources,
        limit,
        saga_id
    )
    .fetch_all(pool)
    .await
}

fn resources_of<'a>(claims: impl Iterator<Item = &'a Claim>) -> Vec<String> {
    claims.map(|claim| claim.resource.clone()).collect()
}
