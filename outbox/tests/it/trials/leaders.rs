//! Leaders that are killed, frozen and asked to go, with a standby beside them.

use std::{sync::Arc, time::SystemTime};

use super::{
    journal::Journal,
    load::{Load, Plan},
    reader::Reader,
    room::{HEALED, Relay, Room},
    tape::Tape,
    verdict::verdict,
};

#[tokio::test(flavor = "multi_thread")]
async fn leaders_killed_again_and_again_lose_nothing_and_keep_every_key_in_order() {
    let trials = testbed::trials();
    let mut trial = trials.begin("kill -9 of leaders");
    let room = Room::shared("killed").await;
    let journal = Arc::new(Journal::new());
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    let reader = Reader::start(&room);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let mut relays = [room.relay(), room.relay()];
    relays.iter_mut().for_each(Relay::start);
    for _ in 0..trials.pick(4, 60) {
        // At a moment that the flow of messages gives, not the clock.
        let more = trial.random.within(1..trials.pick(200, 1000));
        tape.wait_for_more(usize::try_from(more).unwrap()).await;
        let leader = leader_of(&room, &relays).await;
        relays[leader].process.kill().unwrap();
        let killed = SystemTime::now();
        relays[leader].start();
        trial.healed_after(tape.healed_after(killed).await);
    }
    load.stop(&room).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    assert!(
        verdict.duplicates > 0,
        "no leader was killed in the middle of anything"
    );
    reader.finish(&room, verdict.messages).await;
    // I9: the sessions of the dead are gone.
    let sessions = "select count(*) from pg_stat_activity
                    where datname = current_database() and application_name = 'outbox relay'";
    testbed::until(HEALED, "one session for each living relay", async || {
        (room.count(sessions).await == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_frozen_past_its_lease_writes_nothing_when_it_wakes() {
    let trials = testbed::trials();
    let mut trial = trials.begin("SIGSTOP of a leader");
    let room = Room::shared("frozen").await;
    room.audit().await;
    let journal = Arc::new(Journal::new());
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let mut relays = [room.relay(), room.relay()];
    relays.iter_mut().for_each(Relay::start);
    let mut fenced = 0;
    for _ in 0..trials.pick(3, 30) {
        let more = trial.random.within(1..trials.pick(150, 1000));
        tape.wait_for_more(usize::try_from(more).unwrap()).await;
        let zombie = leader_of(&room, &relays).await;
        relays[zombie].signal("STOP");
        relays[1 - zombie].wait_until_it_leads(&room).await;
        let more = trial.random.within(1..trials.pick(150, 1000));
        tape.wait_for_more(usize::try_from(more).unwrap()).await;
        relays[zombie].signal("CONT");
        fenced += 1;
        let said = |relay: &Relay| relay.process.output().matches("lost the lease").count();
        testbed::until(HEALED, "the zombie finds out", async || {
            (said(&relays[0]) + said(&relays[1]) >= fenced).then_some(())
        })
        .await;
    }
    load.stop(&room).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    assert_stale_leaders_were_rejected(&room, i64::try_from(fenced).unwrap() + 1).await;
}

/// I11: every write of the relay's row was its newest leader's.
async fn assert_stale_leaders_were_rejected(room: &Room, leaders: i64) {
    let epochs = room.count("select count(distinct epoch) from audit").await;
    assert!(epochs >= leaders, "the lease was taken {epochs} times only");
    let stale = room
        .count(
            "select count(*) from (
                 select epoch, max(epoch) over (order by id) as newest, owner,
                        first_value(owner) over (partition by epoch order by id) as holder
                 from audit
             ) as writes where epoch < newest or owner <> holder",
        )
        .await;
    assert_eq!(stale, 0, "I11: a stale leader wrote the relay's row");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_asked_to_stop_under_load_hands_over_at_once_and_repeats_nothing() {
    let trials = testbed::trials();
    let mut trial = trials.begin("SIGTERM under load");
    let room = Room::shared("asked").await;
    let journal = Arc::new(Journal::new());
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    for _ in 0..trials.pick(2, 20) {
        // A lease so long that only a hand-over can be this quick.
        let mut first = room.relay_with(&[("LEASE", "60s")]);
        first.start();
        first.wait_until_it_leads(&room).await;
        let mut second = room.relay();
        second.start();
        second.wait_until_ready().await;
        let more = trial.random.within(20..200);
        tape.wait_for_more(usize::try_from(more).unwrap()).await;
        let asked = SystemTime::now();
        first.stop().await;
        second.wait_until_it_leads(&room).await;
        tape.wait_for_more(20).await;
        trial.healed_after(tape.healed_after(asked).await);
        second.stop().await;
    }
    let mut last = room.relay();
    last.start();
    load.stop(&room).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    assert_eq!(verdict.duplicates, 0, "what was on its way was waited for");
    last.stop().await;
}

/// Which of two relays leads.
async fn leader_of(room: &Room, relays: &[Relay; 2]) -> usize {
    testbed::until(HEALED, "one of two leads", async || {
        for (index, relay) in relays.iter().enumerate() {
            if relay.leads(room).await {
                return Some(index);
            }
        }
        None
    })
    .await
}
