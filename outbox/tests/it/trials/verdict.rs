//! Compares what the load noted, what the database holds and what the topics hold.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    journal::{Journal, Outcome},
    room::{HEALED, Room},
    tape::Tape,
};

/// What arrived, when nothing was wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) messages: usize,
    pub(crate) duplicates: usize,
}

/// Waits for all that was committed, then holds it against the invariants I1 to I4 and I9.
pub(crate) async fn verdict(room: &Room, journal: &Journal, tape: &mut Tape) -> Verdict {
    let verdict = arrivals(room, journal, tape).await;
    keys_are_in_order(room, tape).await;
    let parked = room.count("select count(*) from outbox.parked").await;
    assert_eq!(parked, 0, "nothing is parked that should not be");
    verdict
}

/// The same, where the order of a key or what is parked is not as usual.
pub(crate) async fn arrivals(room: &Room, journal: &Journal, tape: &mut Tape) -> Verdict {
    let (key_of, aborted) = expected(room, journal).await;
    let missing = |tape: &Tape| {
        let ids = key_of.keys();
        ids.filter(|id| !tape.has(id)).copied().collect::<Vec<_>>()
    };
    let deadline = Instant::now() + HEALED;
    while !missing(tape).is_empty() && Instant::now() < deadline {
        tape.catch_up().await;
    }
    let lost = missing(tape);
    let parked = room.count("select count(*) from outbox.parked").await;
    assert!(
        lost.is_empty(),
        "I1: {} of {} committed messages never arrived ({parked} are parked), such as {:?}",
        lost.len(),
        key_of.len(),
        &lost[..lost.len().min(5)]
    );
    // Once more, for what should not come.
    tape.catch_up().await;
    for arrival in &tape.arrivals {
        let from_aborted = aborted.contains(&arrival.id);
        assert!(
            !from_aborted,
            "I2: {arrival:?} is of an aborted transaction"
        );
        assert!(
            key_of.contains_key(&arrival.id),
            "I2: {arrival:?} was never committed"
        );
    }
    no_row_of_the_log_was_changed(room).await;
    Verdict {
        messages: tape.arrivals.len(),
        duplicates: tape.duplicates,
    }
}

/// I3: the business row says what was committed. Returns its messages, with their keys, and those of the rest.
async fn expected(room: &Room, journal: &Journal) -> (HashMap<Uuid, String>, HashSet<Uuid>) {
    let business: HashSet<i64> = sqlx::query_scalar("select intent from business")
        .fetch_all(&room.pool)
        .await
        .unwrap()
        .into_iter()
        .collect();
    let (mut committed, mut aborted) = (HashMap::new(), HashSet::new());
    let intents = journal.read();
    for (number, intent) in &intents {
        let exists = business.contains(number);
        match intent.outcome {
            Outcome::Committed => assert!(exists, "the server forgot transaction {number}"),
            Outcome::Aborted => assert!(!exists, "transaction {number} was aborted and exists"),
            Outcome::Unknown => {}
        }
        for message in &intent.messages {
            if exists {
                committed.insert(message.id, message.key.clone());
            } else {
                aborted.insert(message.id);
            }
        }
    }
    assert!(!committed.is_empty(), "the load committed nothing");
    let noted = business.iter().all(|number| intents.contains_key(number));
    assert!(noted, "I3: a business row of nobody's");
    (committed, aborted)
}

/// I4: the first occurrences of a key are 1, 2, 3 …, up to what its row says.
pub(crate) async fn keys_are_in_order(room: &Room, tape: &Tape) {
    let last: BTreeMap<String, i64> = sqlx::query_as("select key, n from counter")
        .fetch_all(&room.pool)
        .await
        .unwrap()
        .into_iter()
        .collect();
    let mut arrived: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for arrival in &tape.arrivals {
        arrived.entry(&arrival.key).or_default().push(arrival.n);
    }
    for (key, numbers) in &arrived {
        let wrong = numbers.iter().zip(1..).position(|(n, wanted)| *n != wanted);
        assert_eq!(
            wrong.map(|at| &numbers[at.saturating_sub(3)..numbers.len().min(at + 4)]),
            None,
            "I4: {key} is out of order"
        );
        assert_eq!(
            numbers.len() as i64,
            last[*key],
            "I4: {key} has a gap at its end"
        );
    }
}

/// I9: rows of the log are inserted and truncated; the only dead ones are those of aborted transactions.
async fn no_row_of_the_log_was_changed(room: &Room) {
    let changed = room
        .count(
            "select coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint from pg_stat_user_tables
             where schemaname = 'outbox' and relname like 'log\\_%'",
        )
        .await;
    assert_eq!(changed, 0, "I9: rows of the log were updated or deleted");
}
