//! The real coordinator, participant, barrier, locks and timers on PostgreSQL, under one clock that the
//! test owns: what the pure kit cannot see, because there its own participants keep their barrier.
//!
//! What passes here: sagas of one definition that share a resource. By seed a message arrives, arrives
//! twice, in a batch with others, late or never; time passes, up to beyond what commands live and what
//! participants remember; the relay stands still; a person intervenes; retention runs; and the server
//! ends the session between any two writing statements of a transaction. After each move the promises
//! are checked by what the participants wrote themselves. Then the faults stop, and every saga has to
//! come to an end. Promised: the same seed tells the same story, event by event.
//!
//! The clock: functions `clock_timestamp()`, `now()` and the like in a schema that stands before
//! `pg_catalog` in the `search_path` of every session, the defaults of the tables included.

mod database;
mod players;
mod world;

use world::World;

/// Moves with faults among them.
const TROUBLED: usize = 120;

#[tokio::test]
async fn no_order_of_faults_and_crashes_breaks_a_promise_on_a_real_server() {
    let trials = testbed::trials();
    let mut trial = trials.begin("one clock");
    let worlds: u64 = trials.pick(3, 60);
    let (mut moves, mut crashes) = (0, 0);
    for number in 0..worlds {
        let seed = trial.random.draw().wrapping_add(number);
        let lived = World::lived(seed, TROUBLED).await;
        println!(
            "seed {seed}: {} moves, {} crashes, {:?}",
            lived.moves, lived.crashes, lived.endings
        );
        moves += lived.moves;
        crashes += lived.crashes;
    }
    assert!(crashes > 0, "nobody died in {moves} moves");
    trial.counted(moves, crashes);
}

#[tokio::test]
async fn the_same_seed_tells_the_same_story() {
    let seed = 2_026;
    let first = World::lived(seed, TROUBLED).await;
    let again = World::lived(seed, TROUBLED).await;
    let differs = first
        .journal
        .iter()
        .zip(&again.journal)
        .position(|(a, b)| a != b);
    if let Some(at) = differs {
        panic!("line {at}:\n{}\n{}", first.journal[at], again.journal[at]);
    }
    assert_eq!(first.journal.len(), again.journal.len());
    assert!(
        first.crashes > 0 && first.journal.len() > TROUBLED,
        "{} lines",
        first.journal.len()
    );
    let other = World::lived(seed + 1, TROUBLED).await;
    assert_ne!(first.journal, other.journal);
}
