//! What may happen next, by seed, and what must hold after it.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use outbox::{BatchHandler, Received};
use saga::{
    Coordinator, Participant, Status,
    instance::StepStatus,
    intervention::What,
    operator::{self, Request},
    participant::retention::{DEFAULT as REMEMBERED, forget},
    retention::Retention,
};
use sqlx::Row;
use testbed::trials::Random;
use uuid::Uuid;

use crate::{
    support,
    trials::clocked::{
        database::Clocked,
        players::{COMMANDS, REPLIES, Trip, coordinator, participant},
    },
};

/// More moves than this without a fault, and it never ends.
const ENDLESS: usize = 3_000;
/// How many sagas there are at most.
const MOST: usize = 6;
const STEPS: [&str; 5] = ["hold", "seat", "bed", "pay", "print"];

/// What became of a world.
pub(super) struct Lived {
    pub(super) journal: Vec<String>,
    pub(super) moves: usize,
    pub(super) crashes: usize,
    pub(super) endings: BTreeMap<String, usize>,
}

pub(super) struct World {
    seed: u64,
    random: Random,
    clocked: Clocked,
    coordinator: Coordinator,
    participant: Participant,
    sagas: Vec<Uuid>,
    /// Up to which number the log was read, and each saga's history.
    sent: i64,
    told: BTreeMap<Uuid, i64>,
    flying: Vec<Received>,
    relay_stands_still: bool,
    moves: usize,
    crashes: usize,
    journal: Vec<String>,
}

impl World {
    pub(super) async fn lived(seed: u64, troubled: usize) -> Lived {
        let mut world = Self {
            seed,
            random: Random::new(seed),
            clocked: Clocked::fresh().await,
            coordinator: coordinator(),
            participant: participant(),
            sagas: Vec::new(),
            sent: 0,
            told: BTreeMap::new(),
            flying: Vec::new(),
            relay_stands_still: false,
            moves: 0,
            crashes: 0,
            journal: Vec::new(),
        };
        for _ in 0..troubled {
            world.troubled().await;
            world.after_each_move().await;
        }
        world.relay_stands_still = false;
        world.say("the faults stop");
        let endings = world.reach_the_end().await;
        Lived {
            journal: world.journal,
            moves: world.moves,
            crashes: world.crashes,
            endings,
        }
    }

    // --- what happens ---

    async fn troubled(&mut self) {
        match self.draw(100) {
            0..60 => self.something_arrives().await,
            60..80 => self.time_passes().await,
            80..88 => self.somebody_intervenes().await,
            88..94 if self.sagas.len() < MOST => self.a_saga_starts().await,
            94..97 => self.retention_runs().await,
            97..99 => {
                self.relay_stands_still = !self.relay_stands_still;
                self.say(format!(
                    "the relay stands still: {}",
                    self.relay_stands_still
                ));
            }
            _ if self.sagas.is_empty() => self.a_saga_starts().await,
            _ => self.a_long_time_passes().await,
        }
    }

    async fn a_saga_starts(&mut self) {
        // As UUIDv7 by the clock of this world, and by the seed.
        let milliseconds = u128::from(self.clocked.now().await.timestamp_millis().cast_unsigned());
        let drawn = u128::from(self.random.draw()) << 16 | self.sagas.len() as u128;
        let id = milliseconds << 80 | 7 << 76 | 2 << 62 | drawn & ((1 << 60) - 1);
        let id = Uuid::from_u128(id);
        let mut trip = Trip::default();
        if self.draw(3) == 0 {
            let step = STEPS[self.one_of(STEPS.len())].to_owned();
            let in_every_round = self.draw(2) == 0;
            trip.refused.insert(step, in_every_round);
        }
        let number = self.sagas.len();
        self.sagas.push(id);
        loop {
            let what = format!("saga {number} starts, refused: {:?}", trip.refused);
            self.may_crash().await;
            let started = self.start(id, &trip).await;
            // Whoever asked does not know, and asks again.
            if !self.came_to(what, started.map(|_| ())).await {
                return;
            }
        }
    }

    async fn start(&self, id: Uuid, trip: &Trip) -> Result<(), saga::Error> {
        let mut tx = self.clocked.pool.begin().await?;
        let key = id.to_string();
        self.coordinator
            .start(&mut tx, id, "trip", &key, trip)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Some of what is in flight arrives, together or alone, once or again; or never.
    async fn something_arrives(&mut self) {
        if self.flying.is_empty() {
            return self.time_passes().await;
        }
        let any = self.one_of(self.flying.len());
        let topic = self.flying[any].topic.clone();
        let mut batch = Vec::new();
        for _ in 0..1 + self.draw(4) {
            let flying = self.flying.iter().enumerate();
            let mine: Vec<usize> = flying
                .filter(|(_, m)| m.topic == topic)
                .map(|(at, _)| at)
                .collect();
            if !mine.is_empty() {
                let one = self.one_of(mine.len());
                batch.push(self.flying.remove(mine[one]));
            }
        }
        let fate = self.draw(20);
        if fate == 0 {
            let message = batch.swap_remove(0);
            self.say(format!("{} is lost", self.line(&message)));
        }
        if (1..4).contains(&fate) {
            self.flying.push(batch[0].clone());
            self.say(format!("{} will come again", self.line(&batch[0])));
        }
        self.arrive(batch, true).await;
    }

    async fn arrive(&mut self, batch: Vec<Received>, may_crash: bool) {
        if batch.is_empty() {
            return;
        }
        let lines: Vec<_> = batch.iter().map(|message| self.line(message)).collect();
        if may_crash {
            self.may_crash().await;
        }
        let handled = self.handle(&batch).await;
        let crashed = self.came_to(lines.join(", "), handled).await;
        if crashed {
            self.flying.extend(batch);
        }
    }

    /// A batch, and where it fails each by itself, as a consumer does.
    async fn handle(&mut self, batch: &[Received]) -> Result<(), outbox::Error> {
        let Err(error) = self.handle_together(batch).await else {
            return Ok(());
        };
        if error.is_transient() {
            return Err(error);
        }
        for message in batch {
            match self.handle_together(std::slice::from_ref(message)).await {
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => self.say(format!("{} is parked: {error}", self.line(message))),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn handle_together(&self, batch: &[Received]) -> Result<(), outbox::Error> {
        let mut tx = self.clocked.pool.begin().await?;
        match batch[0].topic.as_str() {
            COMMANDS => self.participant.handle_batch(&mut tx, batch).await?,
            _ => {
                self.coordinator
                    .replies()
                    .handle_batch(&mut tx, batch)
                    .await?
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// To the next moment that some saga waits for, or for a while; and what is due fires.
    async fn time_passes(&mut self) {
        let next = self.next_moment().await;
        // Patience mostly outlasts what is in flight, or no saga would come far.
        let impatient = self.flying.is_empty() || self.draw(4) == 0;
        let time = match next.filter(|_| impatient) {
            Some(next) => next,
            None => Duration::from_millis(self.draw(1_000)),
        };
        self.clocked.pass(time).await;
        self.may_crash().await;
        self.timers_fire(format!("{time:?} pass")).await;
    }

    /// Longer than commands live, or longer than participants remember.
    async fn a_long_time_passes(&mut self) {
        let days = if self.draw(2) == 0 { 2 } else { 16 };
        self.clocked
            .pass(Duration::from_secs(days * 24 * 60 * 60))
            .await;
        self.timers_fire(format!("{days} days pass")).await;
    }

    async fn timers_fire(&mut self, what: String) -> bool {
        let timers = self.coordinator.timers(self.clocked.pool.clone());
        let fired = timers.run_once().await;
        self.came_to(what, fired.map(|_| ())).await
    }

    async fn next_moment(&self) -> Option<Duration> {
        let next = "select extract(epoch from min(look_at) - clock_timestamp())::float8
                    from saga.instance";
        let next = sqlx::query_scalar::<_, Option<f64>>(next);
        let next = next.fetch_one(&self.clocked.outside).await.unwrap();
        next.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)))
    }

    async fn somebody_intervenes(&mut self) {
        if self.sagas.is_empty() {
            return;
        }
        let number = self.one_of(self.sagas.len());
        let step = STEPS[self.one_of(STEPS.len())].to_owned();
        let wishes = [
            What::Pause {},
            What::Resume {},
            What::Resume {},
            What::Cancel {},
            What::Retry { step: None },
            What::SkipCompensation { step },
        ];
        let one = self.one_of(wishes.len());
        let what = wishes[one].clone();
        self.may_crash().await;
        self.intervene(number, what).await;
    }

    async fn intervene(&mut self, number: usize, what: What) {
        let line = format!("a person: {} saga {number}", what.name());
        let request = Request {
            what,
            actor: "trial".to_owned(),
            reason: "to see what follows".to_owned(),
            expected_seq: None,
            idempotency_key: format!("move-{}", self.moves),
            dry_run: false,
        };
        let done = self.intervened(self.sagas[number], &request).await;
        let done = match done {
            Err(saga::Error::NotAllowed { reason, .. }) => {
                self.say(format!("refused: {reason}"));
                Ok(())
            }
            Err(saga::Error::UnknownSaga(_)) => Ok(()),
            done => done,
        };
        let _crashed = self.came_to(line, done).await;
    }

    async fn intervened(&self, id: Uuid, request: &Request) -> Result<(), saga::Error> {
        let mut tx = self.clocked.pool.begin().await?;
        operator::intervene(&mut tx, &self.coordinator, id, request).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn retention_runs(&mut self) {
        let forgotten = forget(&self.clocked.pool, REMEMBERED).await.map(|_| ());
        self.came_to("the barrier forgets", forgotten).await;
    }

    // --- inside ---

    fn draw(&mut self, below: u64) -> u64 {
        self.random.within(0..below)
    }

    fn one_of(&mut self, many: usize) -> usize {
        self.draw(many as u64) as usize
    }

    async fn may_crash(&mut self) {
        if self.draw(5) == 0 {
            let statements = 1 + self.draw(8) as i64;
            self.clocked.crash_after(statements).await;
            self.say(format!(
                "the server ends the session that makes write {statements} from here"
            ));
        }
    }

    /// Notes what a move came to. Whether somebody died in it; every other failure fails the trial.
    async fn came_to<E: Display>(&mut self, what: impl Display, came: Result<(), E>) -> bool {
        let crashed = self.clocked.crashed().await;
        self.crashes += usize::from(crashed);
        let died = if crashed { ", and dies" } else { "" };
        self.say(format!("{what}{died}"));
        match came {
            Err(error) if !crashed => self.fail(format!("{what}: {error}")),
            Err(_) => true,
            // Whoever looks after timers goes on by itself.
            Ok(()) => false,
        }
    }

    /// The relay sends what was committed; each event is noted; every promise is checked.
    async fn after_each_move(&mut self) {
        self.moves += 1;
        if !self.relay_stands_still {
            self.relay_sends().await;
        }
        self.note_events().await;
        self.promises().await;
    }

    async fn relay_sends(&mut self) {
        let outside = &self.clocked.outside;
        let settled = "update outbox.relay set settled = pg_current_snapshot(),
                              settled_floor = (select coalesce(max(seq), 0) from outbox.log),
                              last_seq = (select coalesce(max(seq), 0) from outbox.log)";
        sqlx::query(settled).execute(outside).await.unwrap();
        for topic in [COMMANDS, REPLIES] {
            let new = support::sent(outside, topic).await.into_iter();
            self.flying
                .extend(new.filter(|message| message.offset > self.sent));
        }
        let sent = "select coalesce(max(seq), 0) from outbox.log";
        let sent = sqlx::query_scalar(sent).fetch_one(outside);
        self.sent = sent.await.unwrap();
    }

    async fn note_events(&mut self) {
        for number in 0..self.sagas.len() {
            let id = self.sagas[number];
            let told = self.told.entry(id).or_default();
            let news = sqlx::query(
                "select seq, body::text as body from saga.event where saga_id = $1 and seq > $2
                 order by seq",
            );
            let news = news.bind(id).bind(*told).fetch_all(&self.clocked.outside);
            for row in news.await.unwrap() {
                *told = row.get("seq");
                let body: String = row.get("body");
                self.journal.push(format!("    saga {number}: {body}"));
            }
        }
    }

    async fn promises(&self) {
        let outside = &self.clocked.outside;
        let rows = sqlx::query(
            "select saga_id, step, round, count(*) filter (where what = 'done') as done,
                    count(*) filter (where what = 'undone') as undone
             from testclock.deed group by saga_id, step, round order by saga_id, step, round",
        );
        let mut left: BTreeMap<(Uuid, String), i64> = BTreeMap::new();
        for row in rows.fetch_all(outside).await.unwrap() {
            let (id, step): (Uuid, String) = (row.get("saga_id"), row.get("step"));
            let (done, undone): (i64, i64) = (row.get("done"), row.get("undone"));
            let round: i32 = row.get("round");
            if done > 1 || undone > done {
                self.fail(format!(
                    "{step} of saga {} took effect {done} times and was undone {undone} times in \
                     round {round}",
                    self.number(id)
                ));
            }
            *left.entry((id, step)).or_default() += done - undone;
        }
        for (number, id) in self.sagas.iter().enumerate() {
            let instance = support::instance(outside, *id).await;
            let by_hand =
                |step: &saga::instance::StepState| step.status == StepStatus::CompensationSkipped;
            for step in instance.steps.iter().filter(|step| !by_hand(step)) {
                let left = left
                    .get(&(*id, step.name.clone()))
                    .copied()
                    .unwrap_or_default();
                let wanted = match instance.status {
                    Status::Completed => 1,
                    Status::Compensated => 0,
                    _ => continue,
                };
                if left != wanted {
                    self.fail(format!(
                        "saga {number} is {}, and {} ({}) has {left} effects",
                        instance.status, step.name, step.status
                    ));
                }
            }
        }
        let kept: Option<String> = sqlx::query_scalar(
            "select i.status || ' saga claims ' || c.resource || ', ' || c.state
             from saga.lock_claim c join saga.instance i on i.id = c.saga_id
             where i.status in ('completed', 'compensated', 'abandoned') limit 1",
        )
        .fetch_optional(outside)
        .await
        .unwrap();
        if let Some(kept) = kept {
            self.fail(format!("a {kept}, for ever"));
        }
        let held: i64 = sqlx::query_scalar(
            "select coalesce(sum(units), 0)::bigint from saga.lock_claim where state <> 'waiting'",
        )
        .fetch_one(outside)
        .await
        .unwrap();
        if held > 2 {
            self.fail(format!("{held} of 2 are held"));
        }
    }

    /// Without a fault: everything arrives, what is due fires, and a person looks after what stands.
    async fn reach_the_end(&mut self) -> BTreeMap<String, usize> {
        for _ in 0..ENDLESS {
            self.after_each_move().await;
            if !self.flying.is_empty() {
                let message = self.flying.remove(0);
                self.arrive(vec![message], false).await;
                continue;
            }
            if let Some(time) = self.next_moment().await {
                self.clocked.pass(time).await;
                self.timers_fire(format!("{time:?} pass")).await;
                continue;
            }
            let Some((number, what)) = self.what_stands().await else {
                return self.ended().await;
            };
            self.intervene(number, what).await;
        }
        self.fail(format!(
            "it goes on and on: {ENDLESS} moves without a fault"
        ))
    }

    /// A saga that stands, and what a person does about it.
    async fn what_stands(&mut self) -> Option<(usize, What)> {
        for number in 0..self.sagas.len() {
            let instance = support::instance(&self.clocked.outside, self.sagas[number]).await;
            match instance.status {
                status if status.is_terminal() => {}
                _ if instance.paused => return Some((number, What::Resume {})),
                Status::Parked if self.moves.is_multiple_of(7) => {
                    return Some((number, What::Abandon {}));
                }
                Status::Parked => return Some((number, What::Retry { step: None })),
                status => self.fail(format!(
                    "saga {number} is {status}, nothing is in flight, no timer is set, and nobody sees it"
                )),
            }
        }
        None
    }

    async fn ended(&mut self) -> BTreeMap<String, usize> {
        let mut endings = BTreeMap::new();
        for id in &self.sagas {
            let instance = support::instance(&self.clocked.outside, *id).await;
            *endings.entry(instance.status.to_string()).or_default() += 1;
        }
        let claims = support::count(&self.clocked.outside, "saga.lock_claim").await;
        if claims > 0 {
            self.fail(format!(
                "every saga has ended, and there are {claims} claims"
            ));
        }
        // And all of it is forgotten.
        self.clocked.pass(2 * REMEMBERED).await;
        let retention = Retention::new(self.clocked.pool.clone(), REMEMBERED).unwrap();
        while retention.run_once().await.unwrap() > 0 {}
        // The barrier forgets a day at once, however far the clock has gone.
        for _ in 0..300 {
            if support::count(&self.clocked.outside, "saga.barrier").await == 0 {
                break;
            }
            self.clocked.pass(Duration::from_secs(13 * 60 * 60)).await;
            forget(&self.clocked.pool, REMEMBERED).await.unwrap();
        }
        for table in ["saga.instance", "saga.event", "saga.barrier"] {
            let left = support::count(&self.clocked.outside, table).await;
            if left > 0 {
                self.fail(format!(
                    "all is long over, and {left} rows of {table} are left"
                ));
            }
        }
        endings
    }

    fn number(&self, id: Uuid) -> usize {
        let known = self.sagas.iter().position(|known| *known == id);
        known.unwrap_or(usize::MAX)
    }

    fn line(&self, message: &Received) -> String {
        let header = |name| message.header(name).unwrap_or_default();
        format!(
            "{} {} of saga {} ({})",
            message.kind,
            header(saga::wire::STEP),
            self.number(message.key.parse().unwrap_or_default()),
            message.offset
        )
    }

    fn say(&mut self, what: impl Display) {
        self.journal.push(format!("> {what}"));
    }

    fn fail(&self, what: impl Display) -> ! {
        let last = self.journal.len().saturating_sub(80);
        panic!(
            "seed {}: {what}\n\nthe story's end:\n{}",
            self.seed,
            self.journal[last..].join("\n")
        )
    }
}
