//! Requests and discards, alone and beside a leader that parks, sends and deletes at the same time.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use outbox::operator::parked::{
    self, Class, Discard, Replay, Selection, discard, discard_all, request_replay,
    request_replay_of_all,
};
use sqlx::{PgConnection, PgPool};

use crate::{
    operating::{run, somebody_waits},
    world::World,
};

async fn park(connection: &mut PgConnection, seq: i64, key: &str, class: &str) {
    sqlx::query(
        "insert into outbox.parked (seq, message_id, topic, key, kind, payload, created_at, class, reason)
         values ($1, gen_random_uuid(), 't', $2, 'kind', 'secret', now(), $3, 'refused')",
    )
    .bind(seq)
    .bind(key)
    .bind(class)
    .execute(connection)
    .await
    .unwrap();
}

/// A key `k` with a head 10 and followers 11 and 12; `alone` with a head 20; `held` with 30.
async fn world(name: &str) -> World {
    let world = World::embedded(name).await;
    run(
        &world.pool,
        "insert into outbox.blocked_key values ('t', 'k', 10), ('t', 'alone', 20)",
    )
    .await;
    let mut connection = world.pool.acquire().await.unwrap();
    for (seq, key, class) in [
        (10, "k", "poison"),
        (11, "k", "blocked"),
        (12, "k", "blocked"),
        (20, "alone", "poison"),
        (30, "held", "held"),
    ] {
        park(&mut connection, seq, key, class).await;
    }
    drop(connection);
    world
}

/// `(seq, whether a replay is asked for)` of what is parked.
async fn rows(pool: &PgPool) -> Vec<(i64, bool)> {
    sqlx::query_as("select seq, replay_at is not null from outbox.parked order by seq")
        .fetch_all(pool)
        .await
        .unwrap()
}

async fn blocked(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("select key from outbox.blocked_key order by key")
        .fetch_all(pool)
        .await
        .unwrap()
}

const fn released(released: u64) -> Discard {
    Discard::Discarded {
        released,
        key_opened: false,
    }
}

const OPENED: Discard = Discard::Discarded {
    released: 0,
    key_opened: true,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_is_listed_and_shown_without_its_payload() {
    let World { pool, .. } = &world("parked_list").await;
    let seqs = async |selection: Selection, after| {
        let items = parked::list(pool, &selection, after, 3).await.unwrap();
        items.iter().map(|item| item.seq).collect::<Vec<_>>()
    };
    assert_eq!(seqs(Selection::default(), None).await, [10, 11, 12]);
    assert_eq!(seqs(Selection::default(), Some(12)).await, [20, 30]);
    let blocked = Selection {
        class: Some(Class::Blocked),
        ..Selection::default()
    };
    assert_eq!(seqs(blocked.clone(), None).await, [11, 12]);
    assert_eq!(parked::count(pool, &blocked).await.unwrap(), 2);
    let key = Selection {
        key: Some("held".into()),
        topic: Some("t".into()),
        class: None,
    };
    assert_eq!(seqs(key, None).await, [30]);

    let shown = parked::show(pool, 11, false).await.unwrap().unwrap();
    assert_eq!(
        (shown.head, shown.bytes, shown.payload),
        (Some(10), Some(6), None)
    );
    let shown = parked::show(pool, 11, true).await.unwrap().unwrap();
    let json = serde_json::to_value(shown).unwrap();
    assert_eq!(
        (&json["payload"]["text"], &json["class"]),
        (&"secret".into(), &"blocked".into())
    );
    assert!(parked::show(pool, 99, true).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_only_requested_and_never_before_the_head() {
    let World { pool, .. } = &world("parked_replay").await;
    let answers = request_replay(pool, &[30, 99, 11, 10, 10], "ann")
        .await
        .unwrap();
    let expected = [
        (10, Replay::Requested),
        (11, Replay::BehindHead { head: 10 }),
        (30, Replay::Requested),
        (99, Replay::NotParked),
    ];
    assert_eq!(answers, expected);
    let asked = [
        (10, true),
        (11, false),
        (12, false),
        (20, false),
        (30, true),
    ];
    assert_eq!(rows(pool).await, asked);
    let (_, again) = request_replay(pool, &[10], "bob").await.unwrap().remove(0);
    let Replay::AlreadyRequested(request) = again else {
        panic!("{again:?}");
    };
    assert_eq!(request.by, "ann", "the first one stays");
    // Of all the rest only what can be replayed and nobody asked for.
    let all = request_replay_of_all(pool, &Selection::default(), "bob")
        .await
        .unwrap();
    assert_eq!(all, 1);
    let asked = [(10, true), (11, false), (12, false), (20, true), (30, true)];
    assert_eq!(rows(pool).await, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_a_head_releases_what_waits_behind_it_and_the_last_opens_the_key() {
    let World { pool, .. } = &world("parked_discard").await;
    assert_eq!(
        discard(pool, &[11], "ann").await.unwrap(),
        [(11, released(0))]
    );
    assert_eq!(blocked(pool).await, ["alone", "k"]);
    assert_eq!(
        discard(pool, &[10], "ann").await.unwrap(),
        [(10, released(1))]
    );
    assert_eq!(blocked(pool).await, ["alone", "k"], "the leader opens it");
    assert_eq!(rows(pool).await, [(12, false), (20, false), (30, false)]);
    let shown = parked::show(pool, 12, false).await.unwrap().unwrap();
    assert_eq!(shown.head, None, "it waits for nobody but the leader");
    assert_eq!(
        discard(pool, &[12], "ann").await.unwrap(),
        [(12, OPENED)],
        "the last"
    );
    assert_eq!(
        discard(pool, &[20], "ann").await.unwrap(),
        [(20, OPENED)],
        "a head alone"
    );
    assert_eq!(
        discard(pool, &[30], "ann").await.unwrap(),
        [(30, released(0))]
    );
    assert_eq!(
        discard(pool, &[10], "ann").await.unwrap(),
        [(10, Discard::NotParked)]
    );
    assert_eq!((rows(pool).await, blocked(pool).await), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_refused_message_of_the_key_holds_nobody_up() {
    // Two refused ones from a time when the topic's policy let others flow on.
    let World { pool, .. } = &world("parked_two_heads").await;
    park(&mut pool.acquire().await.unwrap(), 9, "k", "poison").await;
    assert_eq!(
        discard(pool, &[10], "ann").await.unwrap(),
        [(10, released(2))]
    );
    assert_eq!(
        discard(pool, &[9], "ann").await.unwrap(),
        [(9, released(0))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_discarded_whole_releases_nothing_in_between() {
    let World { pool, .. } = &world("parked_discard_all").await;
    let key = Selection {
        key: Some("k".into()),
        ..Selection::default()
    };
    assert_eq!(discard_all(pool, &key, "ann").await.unwrap(), 3);
    assert_eq!(blocked(pool).await, ["alone"]);
    let answers = discard(pool, &[20, 30], "ann").await.unwrap();
    assert_eq!(
        answers,
        [(30, released(0)), (20, OPENED)],
        "the youngest first"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_many_pages_is_discarded_from_its_end() {
    let World { pool, .. } = &world("parked_discard_pages").await;
    run(
        pool,
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         select n, gen_random_uuid(), 't', 'k', 'kind', now(), 'blocked', 'r' from generate_series(101, 2100) as n;
         create function refuse() returns trigger language plpgsql as $$ begin
             if exists (select from outbox.parked where key = new.key and class = 'blocked') then
                 raise exception 'released before the last was gone';
             end if;
             return new; end $$;
         create trigger refuse before update on outbox.blocked_key
             for each row when (new.head is null) execute function refuse()",
    )
    .await;
    let key = Selection {
        key: Some("k".into()),
        ..Selection::default()
    };
    assert_eq!(discard_all(pool, &key, "ann").await.unwrap(), 2_003);
    assert_eq!(blocked(pool).await, ["alone"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_parked_while_its_head_is_discarded_is_released_with_the_others() {
    let World { pool, .. } = &world("parked_race_follower").await;
    // The leader holds the key and parks one more.
    let mut leader = pool.begin().await.unwrap();
    sqlx::query("select from outbox.blocked_key where key = 'k' for update")
        .execute(&mut *leader)
        .await
        .unwrap();
    park(&mut leader, 13, "k", "blocked").await;
    let mine = pool.clone();
    let discarding = tokio::spawn(async move { discard(&mine, &[10], "ann").await.unwrap() });
    somebody_waits(pool).await;
    leader.commit().await.unwrap();
    assert_eq!(discarding.await.unwrap(), [(10, released(3))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_message_that_turns_out_to_be_poison_meanwhile_is_discarded_as_a_head() {
    let World { pool, .. } = &world("parked_race_condemned").await;
    let mut leader = pool.begin().await.unwrap();
    run_in(
        &mut leader,
        "update outbox.parked set class = 'poison' where seq = 30;
         insert into outbox.blocked_key values ('t', 'held', 30)",
    )
    .await;
    park(&mut leader, 31, "held", "blocked").await;
    let mine = pool.clone();
    let discarding = tokio::spawn(async move { discard(&mine, &[30], "ann").await.unwrap() });
    somebody_waits(pool).await;
    leader.commit().await.unwrap();
    assert_eq!(discarding.await.unwrap(), [(30, released(1))]);
    assert_eq!(blocked(pool).await, ["alone", "held", "k"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_leader_has_just_sent_is_not_parked_any_more() {
    let World { pool, .. } = &world("parked_race_sent").await;
    let mut leader = pool.begin().await.unwrap();
    run_in(
        &mut leader,
        "select from outbox.blocked_key where key = 'alone' for update;
         delete from outbox.parked where seq = 20;
         delete from outbox.blocked_key where key = 'alone'",
    )
    .await;
    let mine = pool.clone();
    let asking = tokio::spawn(async move { request_replay(&mine, &[20], "ann").await.unwrap() });
    somebody_waits(pool).await;
    let mine = pool.clone();
    let discarding = tokio::spawn(async move { discard(&mine, &[20], "bob").await.unwrap() });
    leader.commit().await.unwrap();
    assert_eq!(asking.await.unwrap(), [(20, Replay::NotParked)]);
    assert_eq!(discarding.await.unwrap(), [(20, Discard::NotParked)]);
}

/// A leader parks and sends as the protocol says, two operators discard and ask; nothing is stranded:
/// what has no head before it is released, and a key is blocked if and only if something of it is parked.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_stranded_when_a_leader_and_operators_work_on_the_same_key() {
    let World { pool, .. } = &World::embedded("parked_hammer").await;
    let (seq, done) = (&AtomicI64::new(0), &AtomicBool::new(false));
    let counted = &[const { AtomicI64::new(0) }; 2];
    let leader = async {
        for turn in 0..400_i64 {
            let mut tx = pool.begin().await.unwrap();
            let key = ["a", "b", "c"][(turn % 3) as usize];
            let is_blocked = sqlx::query(
                "select from outbox.blocked_key where topic = 't' and key = $1 for update",
            )
            .bind(key)
            .fetch_optional(&mut *tx)
            .await
            .unwrap()
            .is_some();
            let next = seq.fetch_add(1, Ordering::SeqCst);
            if is_blocked {
                park(&mut tx, next, key, "blocked").await;
            } else if turn % 5 < 2 {
                sqlx::query("insert into outbox.blocked_key values ('t', $1, $2)")
                    .bind(key)
                    .bind(next)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                park(&mut tx, next, key, "poison").await;
            }
            // Sends what is asked for or released, and opens the key behind the last.
            if turn % 7 == 0 && is_blocked {
                let sent = sqlx::query(
                    "with asked as (select p.seq from outbox.parked as p
                                    join outbox.blocked_key as b using (topic, key)
                                    where topic = 't' and key = $1
                                      and (replay_at is not null or (class = 'blocked' and b.head is null))
                                    order by p.seq for update of p)
                     delete from outbox.parked where seq in (select seq from asked)",
                )
                .bind(key)
                .execute(&mut *tx)
                .await
                .unwrap();
                let sent = i64::try_from(sent.rows_affected()).unwrap();
                counted[0].fetch_add(sent, Ordering::SeqCst);
                release_or_open(&mut tx, key).await;
            }
            tx.commit().await.unwrap();
        }
        done.store(true, Ordering::SeqCst);
    };
    let operator = async |which: i64| {
        while !done.load(Ordering::SeqCst) {
            let newest = seq.load(Ordering::SeqCst);
            let some: Vec<_> = (newest - 12..newest)
                .filter(|n| (n + which) % 3 == 0)
                .collect();
            if which == 0 {
                request_replay(pool, &some, "ann").await.unwrap();
            } else {
                let answers = discard(pool, &some, "bob").await.unwrap();
                let gone = answers
                    .iter()
                    .filter(|answer| answer.1 != Discard::NotParked);
                counted[1].fetch_add(gone.count() as i64, Ordering::SeqCst);
            }
        }
    };
    tokio::join!(leader, operator(0), operator(1), operator(2));

    let (sent, discarded) = (&counted[0], &counted[1]);
    assert!(sent.load(Ordering::SeqCst) > 0 && discarded.load(Ordering::SeqCst) > 0);
    let stranded: Vec<i64> = sqlx::query_scalar(
        "select seq from outbox.parked as p
         where class = 'blocked'
           and not exists (select from outbox.blocked_key as b
                           where b.key = p.key
                             and (b.head is null
                                  or exists (select from outbox.parked as h where h.seq = b.head)))",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(stranded, Vec::<i64>::new(), "nobody would ever send these");
    let keys: Vec<String> =
        sqlx::query_scalar("select distinct key from outbox.parked order by key")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(blocked(pool).await, keys);
}

/// What the leader does after it has sent a head: its followers are released, or the key opens.
async fn release_or_open(tx: &mut PgConnection, key: &str) {
    for statement in [
        "update outbox.blocked_key as b set head = null
         where topic = 't' and key = $1
           and not exists (select from outbox.parked as p where p.seq = b.head)",
        "delete from outbox.blocked_key where topic = 't' and key = $1
           and not exists (select from outbox.parked where topic = 't' and key = $1)",
    ] {
        sqlx::query(statement)
            .bind(key)
            .execute(&mut *tx)
            .await
            .unwrap();
    }
}

async fn run_in(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

/// A leader that dies after it parked a message, and before its cursor has passed it, leaves a cursor
/// from which the next one meets the message again: what was discarded would come back.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_cursor_has_not_passed_is_not_discarded() {
    let world = World::embedded("notpassed").await;
    world
        .send(&[world.message("k", 1), world.message("k", 2)])
        .await;
    let seqs: Vec<i64> = sqlx::query_scalar("select seq from outbox.log order by seq")
        .fetch_all(&world.pool)
        .await
        .unwrap();
    let mut connection = world.pool.acquire().await.unwrap();
    for seq in &seqs {
        park(&mut connection, *seq, "k", "held").await;
    }
    let discarded = async || discard(&world.pool, &seqs, "me").await.unwrap();
    let stays = |seq: i64| (seq, Discard::NotPassed);
    assert_eq!(discarded().await, [stays(seqs[1]), stays(seqs[0])]);
    assert_eq!(rows(&world.pool).await.len(), 2);

    // The cursor stands between the two.
    run(
        &world.pool,
        "update outbox.relay set target = pg_current_snapshot(), last_seq = (select min(seq) from outbox.log)",
    )
    .await;
    let gone = Discard::Discarded {
        released: 0,
        key_opened: false,
    };
    assert_eq!(discarded().await, [stays(seqs[1]), (seqs[0], gone)]);
    run(
        &world.pool,
        "update outbox.relay set settled = pg_current_snapshot()",
    )
    .await;
    assert_eq!(
        discarded().await,
        [(seqs[1], gone), (seqs[0], Discard::NotParked)]
    );
}
