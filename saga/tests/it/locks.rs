//! Who gets a resource, who waits for it, and whose turn comes when it is given up.

use std::{collections::BTreeMap, time::Duration};

use saga::{
    Coordinator, Definition, Error, Instance, Status,
    intervention::What,
    locks::{self, Acquired, Claim, Exchanged, Filter, Granted, Watch},
};
use sqlx::{PgPool, PgTransaction};
use uuid::Uuid;

use crate::{operating_support::done, support::*};

pub(crate) fn claim(resource: &str, units: i64, capacity: i64) -> Claim {
    Claim {
        resource: resource.to_owned(),
        units,
        capacity,
    }
}

const NOBODY: [Uuid; 0] = [];

async fn acquire(pool: &PgPool, claims: &[(Uuid, Claim)]) -> Result<Vec<Acquired>, Error> {
    let mut tx = pool.begin().await.unwrap();
    let acquired = locks::acquire(&mut tx, claims).await?;
    tx.commit().await.unwrap();
    Ok(acquired)
}

/// One saga's claim of one resource.
async fn one(pool: &PgPool, saga: Uuid, resource: &str, units: i64, capacity: i64) -> Acquired {
    let claims = [(saga, claim(resource, units, capacity))];
    acquire(pool, &claims).await.unwrap()[0]
}

async fn release(pool: &PgPool, sagas: &[Uuid]) -> Vec<Uuid> {
    let mut tx = pool.begin().await.unwrap();
    let granted = locks::release(&mut tx, sagas).await.unwrap();
    tx.commit().await.unwrap();
    granted.into_iter().map(|granted| granted.saga_id).collect()
}

fn sagas<const N: usize>() -> [Uuid; N] {
    std::array::from_fn(|_| Uuid::now_v7())
}

/// Every claim as stored: `resource state`, by saga.
async fn claims(pool: &PgPool) -> BTreeMap<Uuid, Vec<String>> {
    let rows: Vec<(Uuid, String)> = sqlx::query_as(
        "select saga_id, resource || ' ' || state from saga.lock_claim order by resource",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut claims = BTreeMap::<_, Vec<_>>::new();
    for (saga, claim) in rows {
        claims.entry(saga).or_default().push(claim);
    }
    claims
}

async fn capacity(pool: &PgPool, resource: &str) -> i64 {
    let capacity = sqlx::query_scalar("select capacity from saga.lock where resource = $1");
    capacity.bind(resource).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn an_exclusive_resource_is_passed_on_in_the_order_of_coming() {
    let pool = database("locks").await;
    let all @ [first, second, third, fourth] = sagas();
    let mut outcomes = Vec::new();
    for saga in all {
        outcomes.push(one(&pool, saga, "room", 1, 1).await);
    }
    use Acquired::{Granted, Waiting};
    assert_eq!(outcomes, [Granted, Waiting, Waiting, Waiting]);
    assert_eq!(release(&pool, &[first]).await, [second]);
    // Whoever leaves the line from its middle leaves the others in order.
    assert_eq!(release(&pool, &[third]).await, NOBODY);
    assert_eq!(release(&pool, &[second]).await, [fourth]);
    assert_eq!(release(&pool, &[fourth]).await, NOBODY);
    assert_eq!(count(&pool, "saga.lock").await, 0, "nobody claims it");
    assert_eq!(count(&pool, "saga.lock_claim").await, 0);
}

#[tokio::test]
async fn what_is_held_together_fits_and_nobody_passes_a_large_one_that_waits() {
    let pool = database("locks").await;
    let [a, b, large, small, late] = sagas();
    assert_eq!(one(&pool, a, "credit", 40, 100).await, Acquired::Granted);
    assert_eq!(one(&pool, b, "credit", 60, 100).await, Acquired::Granted);
    assert_eq!(
        one(&pool, large, "credit", 80, 100).await,
        Acquired::Waiting
    );
    assert_eq!(
        release(&pool, &[a]).await,
        NOBODY,
        "40 are free, 80 are needed"
    );
    assert_eq!(
        one(&pool, small, "credit", 10, 100).await,
        Acquired::Waiting,
        "it would fit, but somebody was there before"
    );
    assert_eq!(one(&pool, late, "credit", 11, 100).await, Acquired::Waiting);
    assert_eq!(release(&pool, &[b]).await, [large, small]);
    assert_eq!(release(&pool, &[large]).await, [late]);
}

#[tokio::test]
async fn a_large_one_that_leaves_the_line_lets_those_behind_it_through() {
    let pool = database("locks").await;
    let [holder, large, small, smaller] = sagas();
    one(&pool, holder, "credit", 70, 100).await;
    one(&pool, large, "credit", 80, 100).await;
    one(&pool, small, "credit", 20, 100).await;
    one(&pool, smaller, "credit", 10, 100).await;
    assert_eq!(release(&pool, &[large]).await, [small, smaller]);
}

#[tokio::test]
async fn a_release_lets_in_more_than_are_looked_at_in_one_go() {
    let pool = database("locks").await;
    let holder = Uuid::now_v7();
    one(&pool, holder, "credit", 350, 350).await;
    let waiters: Vec<_> = (0..350)
        .map(|_| (Uuid::now_v7(), claim("credit", 1, 350)))
        .collect();
    acquire(&pool, &waiters).await.unwrap();
    let in_order: Vec<_> = waiters.iter().map(|(saga, _)| *saga).collect();
    assert_eq!(release(&pool, &[holder]).await, in_order);
}

#[tokio::test]
async fn more_than_there_is_is_refused_and_leaves_nothing() {
    let pool = database("locks").await;
    let [large, small] = sagas();
    assert_eq!(
        one(&pool, large, "credit", 101, 100).await,
        Acquired::TooLarge
    );
    assert_eq!(count(&pool, "saga.lock").await, 0);
    assert_eq!(one(&pool, small, "credit", 1, 100).await, Acquired::Granted);
    assert_eq!(
        one(&pool, large, "credit", 101, 100).await,
        Acquired::TooLarge
    );
    assert_eq!(claims(&pool).await.len(), 1);
}

#[tokio::test]
async fn claiming_again_changes_nothing_and_says_how_it_stands() {
    let pool = database("locks").await;
    let [holder, waiter] = sagas();
    for _ in 0..2 {
        assert_eq!(
            one(&pool, holder, "credit", 60, 100).await,
            Acquired::Granted
        );
        assert_eq!(
            one(&pool, waiter, "credit", 50, 100).await,
            Acquired::Waiting
        );
    }
    let before = claims(&pool).await;
    // Not even the capacity: a repetition knows nothing newer.
    assert_eq!(
        one(&pool, waiter, "credit", 50, 999).await,
        Acquired::Waiting
    );
    assert_eq!(
        one(&pool, holder, "credit", 60, 10).await,
        Acquired::Granted
    );
    assert_eq!(capacity(&pool, "credit").await, 100);
    assert_eq!(claims(&pool).await, before);
    let twice = [(holder, claim("b", 1, 1)), (holder, claim("b", 1, 1))];
    assert_eq!(
        acquire(&pool, &twice).await.unwrap(),
        [Acquired::Granted; 2]
    );

    let other_units = [(holder, claim("credit", 61, 100))];
    let error = acquire(&pool, &other_units).await.unwrap_err();
    assert!(!error.is_transient(), "{error}");
    assert!(error.to_string().contains("other units"), "{error}");
}

#[tokio::test]
async fn a_larger_capacity_lets_in_who_waits_before_who_brings_it() {
    let pool = database("locks").await;
    let [holder, waiter, next, newcomer] = sagas();
    one(&pool, holder, "credit", 100, 100).await;
    one(&pool, waiter, "credit", 50, 100).await;
    one(&pool, next, "credit", 100, 100).await;
    assert_eq!(
        one(&pool, newcomer, "credit", 10, 200).await,
        Acquired::Waiting
    );
    let claims = claims(&pool).await;
    assert_eq!(claims[&waiter], ["credit granted"]);
    assert_eq!(claims[&next], ["credit waiting"]);
    assert_eq!(capacity(&pool, "credit").await, 200);
}

#[tokio::test]
async fn a_smaller_capacity_takes_nothing_away_and_lets_nobody_in_until_it_fits() {
    let pool = database("locks").await;
    let [a, b, large, newcomer, last] = sagas();
    one(&pool, a, "credit", 60, 100).await;
    one(&pool, b, "credit", 40, 100).await;
    one(&pool, large, "credit", 90, 100).await;
    assert_eq!(
        one(&pool, newcomer, "credit", 10, 50).await,
        Acquired::Waiting
    );
    assert_eq!(one(&pool, last, "credit", 51, 50).await, Acquired::TooLarge);
    assert_eq!(claims(&pool).await[&a], ["credit held"]);
    assert_eq!(release(&pool, &[a]).await, NOBODY, "the large one is first");
    // It was in the line before the capacity fell below it: it gets its turn, alone.
    assert_eq!(release(&pool, &[b]).await, [large]);
    assert_eq!(release(&pool, &[large]).await, [newcomer]);
}

#[tokio::test]
async fn a_batch_claims_in_its_order_as_if_one_by_one() {
    let pool = database("locks").await;
    let [a, b, c] = sagas();
    let batch = [
        (a, claim("x", 2, 3)),
        (b, claim("x", 2, 3)),
        (c, claim("x", 1, 3)),
        (a, claim("y", 9, 3)),
        (b, claim("w", 1, 1)),
    ];
    use Acquired::{Granted, TooLarge, Waiting};
    let expected = [Granted, Waiting, Waiting, TooLarge, Granted];
    assert_eq!(acquire(&pool, &batch).await.unwrap(), expected);
    assert_eq!(count(&pool, "saga.lock").await, 2, "nobody claims y");
    assert_eq!(release(&pool, &[a]).await, [b, c]);
}

#[tokio::test]
async fn what_is_given_up_in_one_call_goes_to_the_line_and_then_to_the_new_claims() {
    let pool = database("locks").await;
    let [old, waiter, new] = sagas();
    one(&pool, old, "x", 2, 3).await;
    one(&pool, waiter, "x", 2, 3).await;
    let mut tx = pool.begin().await.unwrap();
    let claims = [(new, claim("x", 1, 3))];
    let exchanged = locks::exchange(&mut tx, &[old], &claims).await.unwrap();
    let expected = Exchanged {
        acquired: vec![Acquired::Granted],
        granted: vec![Granted {
            saga_id: waiter,
            resource: "x".to_owned(),
        }],
    };
    assert_eq!(exchanged, expected);
}

#[tokio::test]
async fn a_claim_that_cannot_be_is_refused_before_anything_is_written() {
    let pool = database("locks").await;
    let [saga] = sagas();
    for wrong in [claim("", 1, 1), claim("x", 0, 1), claim("x", 1, -1)] {
        let claims = [(saga, claim("fine", 1, 1)), (saga, wrong)];
        let error = acquire(&pool, &claims).await.unwrap_err();
        assert!(matches!(error, Error::Claim { .. }), "{error}");
        assert!(!error.is_transient());
    }
    // The longest name that the program allows fits into the table.
    let longest = "ü".repeat(100);
    assert_eq!(
        one(&pool, saga, &longest, i64::MAX, i64::MAX).await,
        Acquired::Granted
    );
    assert_eq!(
        one(&pool, Uuid::now_v7(), &longest, i64::MAX, i64::MAX).await,
        Acquired::Waiting
    );
}

#[tokio::test]
async fn who_claims_what_is_just_being_given_up_for_good_gets_it() {
    let pool = database("locks").await;
    let [old, new] = sagas();
    one(&pool, old, "room", 1, 1).await;
    let mut giving_up = pool.begin().await.unwrap();
    locks::release(&mut giving_up, &[old]).await.unwrap();
    let claiming = {
        let pool = pool.clone();
        tokio::spawn(async move { one(&pool, new, "room", 1, 1).await })
    };
    somebody_waits(&pool).await;
    giving_up.commit().await.unwrap();
    assert_eq!(claiming.await.unwrap(), Acquired::Granted);
    assert_eq!(capacity(&pool, "room").await, 1, "the lock is there again");
}

/// Begins giving up in a transaction left open.
async fn giving_up<'a>(pool: &'a PgPool, saga: Uuid) -> (PgTransaction<'a>, Vec<Granted>) {
    let mut tx = pool.begin().await.unwrap();
    let granted = locks::release(&mut tx, &[saga]).await.unwrap();
    (tx, granted)
}

#[tokio::test]
async fn a_saga_that_gives_up_while_it_is_being_granted_passes_it_on() {
    let pool = database("locks").await;
    for cancels_first in [false, true] {
        let [holder, cancelled, next] = sagas();
        for saga in [holder, cancelled, next] {
            one(&pool, saga, "room", 1, 1).await;
        }
        let (before, after) = match cancels_first {
            true => (cancelled, holder),
            false => (holder, cancelled),
        };
        let (tx, granted) = giving_up(&pool, before).await;
        let other = {
            let pool = pool.clone();
            tokio::spawn(async move { release(&pool, &[after]).await })
        };
        somebody_waits(&pool).await;
        tx.commit().await.unwrap();
        assert_eq!(
            other.await.unwrap(),
            [next],
            "cancelled first: {cancels_first}"
        );
        assert_eq!(granted.len(), usize::from(!cancels_first));
        assert_eq!(claims(&pool).await.len(), 1);
        release(&pool, &[next]).await;
    }
}

#[tokio::test]
async fn a_granted_saga_is_noticed_once_unless_it_is_at_work() {
    let pool = database("locks").await;
    let waiter = start(&coordinator(), &pool, &Trip::default()).await.id;
    let busy = start(&coordinator(), &pool, &Trip::default()).await.id;
    let [holder] = sagas();
    one(&pool, holder, "credit", 2, 2).await;
    one(&pool, waiter, "credit", 1, 2).await;
    one(&pool, busy, "credit", 1, 2).await;
    let notice = async || {
        let mut tx = pool.begin().await.unwrap();
        let noticed = locks::notice(&mut tx, 10).await.unwrap();
        tx.commit().await.unwrap();
        noticed
    };
    let granted = |saga_id| Granted {
        saga_id,
        resource: "credit".to_owned(),
    };
    assert_eq!(notice().await, [], "nothing is granted yet");
    release(&pool, &[holder]).await;
    assert_eq!(claims(&pool).await[&waiter], ["credit granted"]);
    let mut at_work = pool.begin().await.unwrap();
    sqlx::query("select 1 from saga.instance where id = $1 for update")
        .bind(busy)
        .execute(&mut *at_work)
        .await
        .unwrap();
    assert_eq!(notice().await, [granted(waiter)]);
    assert_eq!(notice().await, []);
    at_work.rollback().await.unwrap();
    assert_eq!(notice().await, [granted(busy)]);
    assert_eq!(claims(&pool).await[&waiter], ["credit held"]);
    assert_eq!(one(&pool, waiter, "credit", 1, 2).await, Acquired::Granted);
}

#[tokio::test]
async fn whoever_takes_notice_has_the_saga_until_the_end_of_the_transaction() {
    let pool = database("locks").await;
    let waiter = start(&coordinator(), &pool, &Trip::default()).await.id;
    let [holder] = sagas();
    one(&pool, holder, "room", 1, 1).await;
    one(&pool, waiter, "room", 1, 1).await;
    release(&pool, &[holder]).await;
    let mut tx = pool.begin().await.unwrap();
    assert_eq!(locks::notice(&mut tx, 10).await.unwrap().len(), 1);
    let free: Option<Uuid> =
        sqlx::query_scalar("select id from saga.instance where id = $1 for update skip locked")
            .bind(waiter)
            .fetch_optional(&pool)
            .await
            .unwrap();
    assert_eq!(free, None);
    // Died before it wrote the timer: the next one takes notice.
    tx.rollback().await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    assert_eq!(locks::notice(&mut tx, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_list_says_who_holds_and_who_waits_in_order() {
    let pool = database("locks").await;
    let [a, b, c, d] = sagas();
    one(&pool, a, "x", 2, 3).await;
    one(&pool, b, "x", 1, 3).await;
    one(&pool, c, "x", 3, 3).await;
    one(&pool, d, "x", 1, 3).await;
    one(&pool, d, "y", 1, 1).await;
    let list = locks::list(&pool, &Filter::default()).await.unwrap();
    let [x, y] = &list[..] else {
        panic!("{list:?}")
    };
    let shown = |claimants: &[locks::Claimant]| -> Vec<(Uuid, i64, i64)> {
        let shown = claimants.iter();
        shown.map(|c| (c.saga_id, c.units, c.position)).collect()
    };
    assert_eq!((x.resource.as_str(), x.capacity, x.used), ("x", 3, 3));
    assert_eq!((x.holding, x.waiting), (2, 2));
    assert_eq!(shown(&x.holders), [(a, 2, 1), (b, 1, 2)]);
    assert_eq!(shown(&x.waiters), [(c, 3, 1), (d, 1, 2)]);
    assert_eq!((y.resource.as_str(), y.used, y.waiting), ("y", 1, 0));
    assert!(y.waiters.is_empty());
}

#[tokio::test]
async fn a_long_line_is_cut_but_counted_and_a_saga_asked_for_is_shown_with_its_place() {
    let pool = database("locks").await;
    let line: Vec<_> = (0..151)
        .map(|_| (Uuid::now_v7(), claim("x", 1, 1)))
        .collect();
    acquire(&pool, &line).await.unwrap();
    let list = locks::list(&pool, &Filter::default()).await.unwrap();
    assert_eq!((list[0].waiting, list[0].waiters.len()), (150, 100));
    let last = line[150].0;
    let filter = Filter {
        saga_id: Some(last),
        ..Filter::default()
    };
    let list = locks::list(&pool, &filter).await.unwrap();
    assert_eq!(list[0].waiters.len(), 101);
    assert_eq!(list[0].waiters[100].saga_id, last);
    assert_eq!(list[0].waiters[100].position, 150);
}

#[tokio::test]
async fn old_claims_are_told_of_once_and_again_after_a_while_and_stay() {
    let pool = database("locks").await;
    let [holder, waiter, young] = sagas();
    assert_eq!(
        Watch::new(pool.clone()).run_once().await.unwrap().waiting,
        0
    );
    one(&pool, holder, "x", 1, 1).await;
    one(&pool, waiter, "x", 1, 1).await;
    one(&pool, young, "y", 1, 1).await;
    sqlx::query(
        "update saga.lock_claim set claimed_at = claimed_at - interval '90 minutes',
                granted_at = granted_at - interval '80 minutes' where resource = 'x'",
    )
    .execute(&pool)
    .await
    .unwrap();
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let mut watch = Watch::new(pool.clone()).held_for_long(hours(1));
    let seen = watch.run_once().await.unwrap();
    assert_eq!(seen.waiting, 1);
    let minutes = |age: Duration| age.as_secs() / 60;
    assert_eq!(minutes(seen.oldest_waiting), 90);
    assert_eq!(minutes(seen.oldest_held), 80);
    let old = (holder, "x".to_owned());
    assert_eq!(seen.told, std::slice::from_ref(&old));
    assert_eq!(watch.run_once().await.unwrap().told, []);
    let mut watch = watch.told_again_after(Duration::ZERO);
    assert_eq!(watch.run_once().await.unwrap().told, [old]);
    let mut patient = Watch::new(pool.clone()).held_for_long(hours(2));
    assert_eq!(patient.run_once().await.unwrap().told, []);
    assert_eq!(claims(&pool).await[&holder], ["x held"], "never taken away");
}

/// Sagas that claim these resources and have a deadline.
fn claiming(resources: &'static [&'static str]) -> Coordinator {
    let day = Duration::from_secs(24 * 3600);
    let mut builder = Definition::<Trip>::builder("trip", 1).deadline(day);
    for resource in resources {
        builder = builder.lock(|_: &Trip| Claim::exclusive(*resource));
    }
    let hour = Duration::from_secs(3600);
    let step = |name| step(name).timeout(hour).attempts(1);
    let hold = step("hold").compensation(|_: &Trip| Undo {});
    let definition = builder.compensatable(hold).pivot(step("pay")).build();
    coordinator_of(definition.unwrap())
}

async fn status(pool: &PgPool, saga: &Instance) -> Status {
    instance(pool, saga.id).await.status
}

/// What a person, or time, does to a saga that waits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Pause,
    Resume,
    Cancel,
    Abandon,
    Deadline,
    Grant,
}

#[tokio::test]
async fn a_saga_that_waits_and_ends_in_whatever_way_claims_nothing_any_more() {
    use Way::{Abandon, Cancel, Deadline, Grant, Pause, Resume};
    let coordinator = claiming(&["room"]);
    for ways in [
        &[Cancel][..],
        &[Abandon],
        &[Deadline],
        &[Pause, Cancel, Resume],
        &[Pause, Deadline, Resume],
        &[Pause, Cancel, Abandon],
        &[Pause, Deadline, Abandon],
        &[Pause, Grant, Cancel, Resume],
        &[Pause, Grant, Deadline, Resume],
        &[Pause, Cancel, Grant, Resume],
    ] {
        let pool = database("locks").await;
        let start = async || start(&coordinator, &pool, &Trip::default()).await;
        let (holder, waiter, next) = (start().await, start().await, start().await);
        let timers = coordinator.timers(pool.clone());
        let mut is_granted = false;
        for way in ways {
            let person = async |what| done(&pool, &coordinator, waiter.id, what).await;
            match way {
                Pause => person(What::Pause {}).await,
                Resume => person(What::Resume {}).await,
                Cancel => person(What::Cancel {}).await,
                Abandon => person(What::Abandon {}).await,
                Deadline => {
                    make_due(&pool, Some(waiter.id)).await;
                    timers.run_once().await.unwrap();
                }
                Grant => {
                    is_granted = true;
                    done(&pool, &coordinator, holder.id, What::Abandon {}).await;
                }
            }
            if matches!(way, Cancel | Deadline) {
                let claims = claims(&pool).await;
                assert_eq!(claims.get(&waiter.id), None, "{ways:?}: given up at once");
            }
        }
        let ended = status(&pool, &waiter).await;
        assert!(ended.is_terminal(), "{ways:?}: {ended}");
        if !is_granted {
            done(&pool, &coordinator, holder.id, What::Abandon {}).await;
        }
        timers.run_once().await.unwrap();
        let held: Vec<_> = claims(&pool).await.into_iter().collect();
        assert_eq!(held, [(next.id, vec!["room held".to_owned()])], "{ways:?}");
        let sent = crate::operating_support::commands_of(&pool, next.id).await;
        assert_eq!(sent.len(), 1, "{ways:?}: the next one goes on");
        let seen = Watch::new(pool.clone()).run_once().await.unwrap();
        assert_eq!(seen.ended, NOBODY, "{ways:?}");
    }
}

#[tokio::test]
async fn what_an_ended_saga_claims_nevertheless_is_given_up() {
    let pool = database("locks").await;
    let coordinator = claiming(&["room"]);
    let start = async || start(&coordinator, &pool, &Trip::default()).await;
    let (ended, open, waiter) = (start().await, start().await, start().await);
    done(&pool, &coordinator, ended.id, What::Abandon {}).await;
    coordinator.timers(pool.clone()).run_once().await.unwrap();
    let mut watch = Watch::new(pool.clone());
    assert_eq!(watch.run_once().await.unwrap().ended, NOBODY);
    // As it was left by a version that forgot its claim, in front of all others.
    sqlx::query("update saga.lock_claim set saga_id = $1 where saga_id = $2")
        .bind(ended.id)
        .bind(open.id)
        .execute(&pool)
        .await
        .unwrap();
    let waits = "saga.lock_claim where state = 'waiting'";
    assert_eq!(count(&pool, waits).await, 1);
    assert_eq!(watch.run_once().await.unwrap().ended, [ended.id]);
    assert_eq!(claims(&pool).await[&waiter.id], ["room granted"]);
    assert_eq!(watch.run_once().await.unwrap().ended, NOBODY);
}

#[tokio::test]
async fn a_saga_that_claims_a_resource_twice_does_not_wait_for_itself() {
    let pool = database("locks").await;
    let coordinator = claiming(&["account/7", "fee", "account/7"]);
    let start = async || start(&coordinator, &pool, &Trip::default()).await;
    let saga = start().await;
    assert_eq!(
        claims(&pool).await[&saga.id],
        ["account/7 held", "fee held"]
    );
    assert_eq!(saga.locks.len(), 2);
    assert!(saga.locks.iter().all(|lock| lock.held), "{:?}", saga.locks);
    let sent = crate::operating_support::commands_of(&pool, saga.id).await;
    assert_eq!(sent.len(), 1, "it has begun");
    let next = start().await;
    done(&pool, &coordinator, saga.id, What::Abandon {}).await;
    coordinator.timers(pool.clone()).run_once().await.unwrap();
    let sent = crate::operating_support::commands_of(&pool, next.id).await;
    assert_eq!(sent.len(), 1, "and who waited for it begins");
}

#[tokio::test]
async fn a_moment_that_no_program_can_tell_hides_no_lock() {
    let pool = database("locks").await;
    let [a, b] = sagas();
    one(&pool, a, "x", 1, 1).await;
    one(&pool, b, "y", 1, 1).await;
    for never in ["infinity", "-infinity", "294276-12-31"] {
        sqlx::query(
            "update saga.lock_claim set granted_at = $1::text::timestamptz where saga_id = $2",
        )
        .bind(never)
        .bind(a)
        .execute(&pool)
        .await
        .unwrap();
        let list = locks::list(&pool, &Filter::default()).await.unwrap();
        assert_eq!(list.len(), 2, "{never}");
        Watch::new(pool.clone()).run_once().await.unwrap();
    }
}
