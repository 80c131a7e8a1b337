//! Many at once, over the same few resources, with what must hold looked at all the while.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use saga::locks::{self, Acquired, Claim};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::*;

/// Numbers that look random and come again with the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// What is wrong in one snapshot: more held than there is, one who waits while a later one holds,
/// a claim whose resource is not there, a resource nobody claims.
const WRONG: &str = "
    select 'too much of ' || l.resource from saga.lock l
      where (select sum(units) from saga.lock_claim c
             where c.resource = l.resource and c.state <> 'waiting') > l.capacity
    union all
    select 'passed by at ' || w.resource from saga.lock_claim w join saga.lock_claim h
      on h.resource = w.resource and h.position > w.position
      where w.state = 'waiting' and h.state <> 'waiting'
    union all
    select 'no lock for ' || c.resource from saga.lock_claim c
      where not exists (select from saga.lock l where l.resource = c.resource)
    union all
    select 'nobody claims ' || l.resource from saga.lock l
      where not exists (select from saga.lock_claim c where c.resource = l.resource)";

const RESOURCES: u64 = 5;

fn capacity(resource: u64) -> i64 {
    [1, 1, 2, 3, 10][usize::try_from(resource).unwrap()]
}

/// Claims of up to three resources, in any order of names.
fn some_claims(saga: Uuid, dice: &mut Dice) -> Vec<(Uuid, Claim)> {
    let resources: BTreeSet<u64> = (0..=dice.roll(3)).map(|_| dice.roll(RESOURCES)).collect();
    let claims = resources.into_iter().map(|resource| {
        let capacity = capacity(resource);
        let units = 1 + i64::try_from(dice.roll(capacity.unsigned_abs())).unwrap();
        let resource = format!("r{resource}");
        let claim = Claim {
            resource,
            units,
            capacity,
        };
        (saga, claim)
    });
    let mut claims: Vec<_> = claims.collect();
    if dice.roll(2) == 0 {
        claims.reverse();
    }
    claims
}

/// Some sagas one after the other, two at a time; what one pair gives up and the next claims is
/// one transaction.
async fn worker(pool: PgPool, mut dice: Dice, waited: Arc<AtomicU64>) {
    let mut held: Vec<Uuid> = Vec::new();
    for round in 0..=4 {
        let sagas = [Uuid::now_v7(), Uuid::now_v7()];
        let claims: Vec<_> = match round {
            4 => Vec::new(),
            _ => sagas
                .iter()
                .flat_map(|saga| some_claims(*saga, &mut dice))
                .collect(),
        };
        let mut tx = pool.begin().await.unwrap();
        let exchanged = locks::exchange(&mut tx, &held, &claims).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(exchanged.acquired.len(), claims.len());
        assert!(!exchanged.acquired.contains(&Acquired::TooLarge));
        held = sagas.to_vec();
        // Now and then one gives up where it stands, in the line or not.
        if dice.roll(5) == 0 {
            let mut tx = pool.begin().await.unwrap();
            locks::release(&mut tx, &sagas[..1]).await.unwrap();
            tx.commit().await.unwrap();
            held.remove(0);
        }
        if exchanged.acquired.contains(&Acquired::Waiting) {
            waited.fetch_add(1, Ordering::Relaxed);
        }
        // One of the pair may wait for the other: it gets its turn when that one gives up.
        while let Some(done) = everything_granted(&pool, &held).await {
            let mut tx = pool.begin().await.unwrap();
            locks::release(&mut tx, &[done]).await.unwrap();
            tx.commit().await.unwrap();
            held.retain(|saga| *saga != done);
        }
    }
}

/// Waits until one of the sagas holds all it claims. None if there are no sagas.
async fn everything_granted(pool: &PgPool, sagas: &[Uuid]) -> Option<Uuid> {
    if sagas.is_empty() {
        return None;
    }
    let granted = testbed::until(PATIENCE, "a turn of one that waits", || async {
        sqlx::query_scalar(
            "select id from unnest($1::uuid[]) as id
             where not exists (select from saga.lock_claim c
                               where c.saga_id = id and c.state = 'waiting') limit 1",
        )
        .bind(sagas)
        .fetch_optional(pool)
        .await
        .unwrap()
    });
    Some(granted.await)
}

async fn watcher(pool: PgPool, stop: CancellationToken) -> u64 {
    let mut looks = 0;
    while !stop.is_cancelled() {
        let wrong: Vec<String> = sqlx::query_scalar(WRONG).fetch_all(&pool).await.unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
        looks += 1;
    }
    looks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_a_storm_the_capacity_holds_everybody_gets_a_turn_and_nothing_is_left() {
    let pool = database("storm").await;
    let seed = u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap();
    println!("seed {seed}");
    let waited = Arc::new(AtomicU64::new(0));
    let stop = CancellationToken::new();
    let watcher = tokio::spawn(watcher(pool.clone(), stop.clone()));
    for run in 0..50 {
        let workers: Vec<_> = (0..8)
            .map(|worker| Dice(seed ^ (run << 32) ^ (worker << 16)))
            .map(|dice| tokio::spawn(worker(pool.clone(), dice, waited.clone())))
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        assert_eq!(count(&pool, "saga.lock").await, 0, "run {run}");
        assert_eq!(count(&pool, "saga.lock_claim").await, 0, "run {run}");
    }
    stop.cancel();
    let looks = watcher.await.unwrap();
    let waited = waited.load(Ordering::Relaxed);
    println!("{looks} snapshots, {waited} of 1600 exchanges had to wait");
    assert!(
        looks > 50 && waited > 100,
        "it was no storm: {looks} {waited}"
    );
}
