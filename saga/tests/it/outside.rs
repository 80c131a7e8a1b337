//! Something outside of the database that can be asked for effects: it counts them by key, and a
//! script says how it takes each call.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use outbox::Error;
use saga::{
    Participant,
    participant::{Admission, Called, Context, External, Probed, Refusal, Settled},
};
use sqlx::{PgPool, PgTransaction};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::support::{Do, Doer, Done, stumbles};

/// How a call goes; when the script is over, well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It does not get there.
    Fails,
    /// It is done, and the answer gets lost.
    AnswerLost,
    /// It never comes back, and is not done.
    Hangs,
    Refuses,
    Silent,
    Panics,
    /// It waits for [`Outside::let_go`], then is done.
    Waits,
    /// As that, but if nobody waits for it any more it arrives all the same.
    ArrivesLate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    Done { receipt: Uuid },
    Refused,
    Revoked,
}

#[derive(Debug)]
struct World {
    by_key: HashMap<Uuid, Record>,
    script: VecDeque<Turn>,
    /// Effects, not calls.
    effects: usize,
    calls: Vec<&'static str>,
    answers_probes: bool,
    revocable: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Outside {
    world: Arc<Mutex<World>>,
    gate: Arc<Semaphore>,
    patience: Duration,
    at_once: usize,
}

impl Outside {
    pub(crate) fn new(script: &[Turn]) -> Self {
        let world = World {
            by_key: HashMap::new(),
            script: script.iter().copied().collect(),
            effects: 0,
            calls: Vec::new(),
            answers_probes: true,
            revocable: true,
        };
        Self {
            world: Arc::new(Mutex::new(world)),
            gate: Arc::new(Semaphore::new(0)),
            patience: Duration::from_secs(15),
            at_once: 16,
        }
    }

    /// It cannot promise that an effect will never come.
    pub(crate) fn irrevocable(self) -> Self {
        self.world.lock().unwrap().revocable = false;
        self
    }

    pub(crate) fn impatient(mut self) -> Self {
        self.patience = Duration::from_millis(20);
        self
    }

    pub(crate) fn at_once(mut self, at_once: usize) -> Self {
        self.at_once = at_once;
        self
    }

    pub(crate) fn answer_probes(&self, answer: bool) {
        self.world.lock().unwrap().answers_probes = answer;
    }

    pub(crate) fn effects(&self) -> usize {
        self.world.lock().unwrap().effects
    }

    /// What it was asked, in order.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.world.lock().unwrap().calls.clone()
    }

    pub(crate) fn record(&self, key: Uuid) -> Option<Record> {
        self.world.lock().unwrap().by_key.get(&key).copied()
    }

    /// Lets a call that waits go on.
    pub(crate) fn let_go(&self) {
        self.gate.add_permits(1);
    }

    /// Waits until it was asked this many things.
    pub(crate) async fn asked(&self, times: usize) {
        testbed::until(crate::support::PATIENCE, "a call", || async {
            (self.calls().len() >= times).then_some(())
        })
        .await;
    }

    /// A participant whose action is this; built anew for each message, as after a crash.
    pub(crate) fn participant(&self) -> Participant {
        self.participant_named("traveller".to_owned())
    }

    pub(crate) fn participant_named(&self, name: String) -> Participant {
        Participant::new(name)
            .external(self.clone())
            .compensation(Doer)
    }

    /// Has the runner work at what is due, a compensation after the action that it waits for.
    pub(crate) async fn run(&self, pool: &PgPool) {
        let runner = self.participant().runner(pool.clone());
        for _ in 0..2 {
            runner.run_once().await.unwrap();
        }
    }

    /// What was called with this key is done now.
    pub(crate) fn arrives(&self, key: Uuid) {
        self.perform(key);
    }

    /// Idempotent by key, as every outside has to be.
    fn perform(&self, key: Uuid) -> Called<Uuid> {
        let mut world = self.world.lock().unwrap();
        match world.by_key.get(&key) {
            Some(Record::Done { receipt }) => Called::Done(*receipt),
            Some(Record::Refused | Record::Revoked) => Called::Refused(no()),
            None => {
                let receipt = Uuid::now_v7();
                world.by_key.insert(key, Record::Done { receipt });
                world.effects += 1;
                Called::Done(receipt)
            }
        }
    }
}

fn no() -> Refusal {
    Refusal::new("no", "no, thank you")
}

impl External for Outside {
    type Command = Do;
    type Reply = Done;
    type Receipt = Uuid;

    async fn admit(
        &self,
        _: &mut PgTransaction<'_>,
        _: &Context,
        command: &Do,
    ) -> Result<Admission, Error> {
        Ok(match command.mood.as_str() {
            "not admitted" => Admission::Refused(no()),
            _ => Admission::Begin,
        })
    }

    async fn call(&self, context: &Context, command: &Do) -> Result<Called<Uuid>, Error> {
        if command.mood == "stumble" && stumbles(context.op_key) {
            self.perform(context.op_key);
            return Err(Error::transient("the line is dead"));
        }
        let turn = {
            let mut world = self.world.lock().unwrap();
            world.calls.push("call");
            world.script.pop_front()
        };
        let key = context.op_key;
        match turn {
            None => Ok(self.perform(key)),
            Some(Turn::Fails) => Err(Error::transient("nobody there")),
            Some(Turn::AnswerLost) => {
                self.perform(key);
                Err(Error::transient("the line is dead"))
            }
            Some(Turn::Hangs) => std::future::pending().await,
            Some(Turn::Refuses) => {
                let mut world = self.world.lock().unwrap();
                world.by_key.insert(key, Record::Refused);
                Ok(Called::Refused(no()))
            }
            Some(Turn::Silent) => Ok(Called::Silent),
            Some(Turn::Panics) => panic!("no such gateway"),
            Some(Turn::Waits) => {
                self.gate.acquire().await.unwrap().forget();
                Ok(self.perform(key))
            }
            Some(Turn::ArrivesLate) => {
                let (outside, gate) = (self.clone(), self.gate.clone());
                let arriving = tokio::spawn(async move {
                    gate.acquire().await.unwrap().forget();
                    outside.perform(key)
                });
                arriving.await.map_err(Error::transient)
            }
        }
    }

    async fn probe(&self, context: &Context, _: &Do) -> Result<Probed<Uuid>, Error> {
        let mut world = self.world.lock().unwrap();
        world.calls.push("probe");
        if !world.answers_probes {
            return Ok(Probed::Unknown);
        }
        Ok(match world.by_key.get(&context.op_key) {
            Some(Record::Done { receipt }) => Probed::Found(*receipt),
            Some(Record::Refused | Record::Revoked) => Probed::Refused(no()),
            None => Probed::NotFound,
        })
    }

    async fn revoke(&self, context: &Context, _: &Do) -> Result<bool, Error> {
        let mut world = self.world.lock().unwrap();
        world.calls.push("revoke");
        if world.revocable {
            let before = world.by_key.insert(context.op_key, Record::Revoked);
            if let Some(Record::Done { .. }) = before {
                world.effects -= 1;
            }
        }
        Ok(world.revocable)
    }

    async fn settle(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: &Do,
        receipt: Uuid,
    ) -> Result<Settled<Done>, Error> {
        crate::support::effect(tx, context, "done").await?;
        match command.mood.as_str() {
            "refuse" => Ok(Settled::Refused(no())),
            "fail" => Err(Error::transient("the roof leaks")),
            _ => Ok(Settled::Done(Done {
                step: context.step.clone(),
                receipt,
            })),
        }
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn at_once(&self) -> usize {
        self.at_once
    }
}
