//! A participant as somebody might write it in another language: the wire and a map for a barrier,
//! none of ours. It keeps its promises, or breaks one of them in the way it is told to.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, mpsc as signal},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use outbox::broker::{Broker, Outgoing, Producer, Record, Subscription, Topic, Tuning};
use saga::{
    Operation, Phase,
    testing::conformance::{Effects, Request, Subject},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::support::PATIENCE;

/// How a promise is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    NoBarrier,
    OnlyAnInbox,
    AnswersAnew,
    SilentOnRepetition,
    ForgetsRefusals,
    LeavesWhatItRefused,
    BlindToRounds,
    ConfirmsWithoutUndoing,
    CompensatesTwice,
    CompensatesTheRefused,
    CompensatesNothing,
    LeavesNoTombstone,
    ExecutesTheTombstoned,
    ConfirmsTheTombstoned,
    IgnoresExpiry,
    ExpiresCompensations,
    LooksThenActs,
    TakesProbesForActions,
    ProbesLeaveNothing,
    KeysRepliesByOperation,
    TrustsOpKeys,
    AnswersUnknownKinds,
    AssumesMissingHeaders,
    AssumesUnreadableHeaders,
    AnswersGarbage,
    DiesOfGarbage,
    BlocksKeys,
    /// Its row is committed, and then the business fails.
    CommitsTheRowFirst,
    /// What is outside is called before anything says so.
    CallsBeforeItNotes,
    /// It has forgotten, and does not know.
    HasNoHorizon,
}

/// Before what failed outside is tried again.
const PAUSE: Duration = Duration::from_secs(5);

const DO: &str = "toy.do.v1";
const UNDO: &str = "toy.undo.v1";

type World = Arc<Mutex<HashMap<(Uuid, String), Effects>>>;

pub(crate) struct Toy {
    commands: String,
    replies: String,
    world: World,
    _thread: JoinHandle<()>,
    _running: DropGuard,
}

impl Toy {
    /// Starts one on topics of its own; returns when it listens.
    pub(crate) async fn start(broker: &dyn Broker, flaw: Option<Flaw>) -> Self {
        let name = Uuid::now_v7().simple();
        let (commands, replies) = (format!("{name}.commands"), format!("{name}.replies"));
        let topics = [&commands, &replies].map(|name| Topic::new(name, 4));
        broker.ensure_topics(&topics).await.unwrap();
        let (report, deliveries) = mpsc::unbounded_channel();
        let producer = broker.producer(&Tuning::default(), report).unwrap();
        let group = name.to_string();
        let subscription = broker.subscribe(&group, std::slice::from_ref(&commands));
        let subscription = subscription.unwrap();
        let world = World::default();
        let machine = Machine {
            flaw,
            world: Arc::clone(&world),
            barrier: HashMap::new(),
            seen: HashSet::new(),
            blocked: HashSet::new(),
            begun: Vec::new(),
            claimed: HashSet::new(),
            called: Vec::new(),
            receipts: 0,
        };
        let stop = CancellationToken::new();
        let (joined, has_joined) = signal::channel();
        let thread = {
            let stop = stop.clone();
            std::thread::spawn(move || {
                // Reports nobody reads; without a reader the producer would complain.
                let _deliveries = deliveries;
                machine.run(&*subscription, &*producer, &joined, &stop);
                subscription.leave();
            })
        };
        let waiting = tokio::task::spawn_blocking(move || has_joined.recv_timeout(PATIENCE));
        waiting.await.unwrap().expect("the participant listens");
        Self {
            commands,
            replies,
            world,
            _thread: thread,
            _running: stop.drop_guard(),
        }
    }

    /// Without a count of effects.
    pub(crate) fn subject(&self) -> Subject {
        let asking = |kind: &'static str, mood: &'static str| {
            move |_| Request::json(kind, json!({ "mood": mood }))
        };
        Subject::new(&self.commands, &self.replies)
            .action(asking(DO, "willing"))
            .refused(asking(DO, "unwilling"))
            .stumbling(asking(DO, "stumbling"))
            .compensation(asking(UNDO, ""))
    }

    pub(crate) fn counted(&self) -> Subject {
        let world = Arc::clone(&self.world);
        self.subject().effects(move |saga| {
            let mut sum = Effects::default();
            for ((of, _), effects) in world.lock().unwrap().iter() {
                if *of == saga {
                    sum.executed += effects.executed;
                    sum.remaining += effects.remaining;
                }
            }
            std::future::ready(Ok::<_, std::io::Error>(sum))
        })
    }
}

/// A command as this participant reads it.
#[derive(Debug, Clone)]
struct Asked {
    operation: Operation,
    kind: String,
    reply_topic: String,
    expires_at: DateTime<Utc>,
    begun_at: DateTime<Utc>,
    is_probe: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Answer {
    outcome: &'static str,
    kind: &'static str,
    payload: String,
}

struct Machine {
    flaw: Option<Flaw>,
    world: World,
    barrier: HashMap<Operation, Answer>,
    seen: HashSet<String>,
    blocked: HashSet<Vec<u8>>,
    /// Actions that found nothing in the barrier and are not carried out yet; see
    /// [`Flaw::LooksThenActs`].
    begun: Vec<Asked>,
    /// Rows without an answer; see [`Flaw::CommitsTheRowFirst`].
    claimed: HashSet<Operation>,
    /// Done outside, and not noted; see [`Flaw::CallsBeforeItNotes`].
    called: Vec<(Instant, Asked)>,
    receipts: u64,
}

/// What becomes of a record.
enum Taken {
    Answered(Asked, Answer),
    Ignored,
    Died,
}

impl Machine {
    fn run(
        mut self,
        subscription: &dyn Subscription,
        producer: &dyn Producer,
        joined: &signal::Sender<()>,
        stop: &CancellationToken,
    ) {
        while !stop.is_cancelled() {
            if subscription.has_joined() {
                let _ = joined.send(());
            }
            let Some(record) = subscription.poll(Duration::from_millis(20)).unwrap() else {
                let tried_again = self.try_again();
                for (asked, answer) in self.finish(|_| true).into_iter().chain(tried_again) {
                    self.reply(producer, &asked, &answer);
                }
                continue;
            };
            let saga = text(&record, "saga-id").unwrap_or_default();
            let is_undo = text(&record, "saga-phase").as_deref() == Some("compensation");
            let same = |asked: &Asked| asked.operation.saga_id.to_string() == saga && !is_undo;
            for (asked, answer) in self.finish(same) {
                self.reply(producer, &asked, &answer);
            }
            match self.take(&record) {
                Taken::Answered(asked, answer) => self.reply(producer, &asked, &answer),
                Taken::Ignored => {}
                Taken::Died => return,
            }
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn take(&mut self, record: &Record) -> Taken {
        let key = record.key.clone().unwrap_or_default();
        if self.blocked.contains(&key) {
            return Taken::Ignored;
        }
        let Some(asked) = self.read(record) else {
            return self.pass_over(key);
        };
        let id = text(record, "ce_id").unwrap();
        if self.has(Flaw::OnlyAnInbox) && !self.seen.insert(id) {
            return Taken::Ignored;
        }
        let expected = match asked.operation.phase {
            Phase::Action => DO,
            Phase::Compensation => UNDO,
        };
        if asked.kind != expected {
            return match self.has(Flaw::AnswersUnknownKinds) {
                true => Taken::Answered(asked, refused("unknown_kind")),
                false => self.pass_over(key),
            };
        }
        let horizon = Utc::now() - chrono::TimeDelta::days(365);
        if asked.begun_at < horizon && !self.has(Flaw::HasNoHorizon) {
            return self.pass_over(key);
        }
        let payload = record.payload.as_deref().unwrap_or_default();
        let body: Option<Value> = serde_json::from_slice(payload).ok();
        let mood = body.as_ref().and_then(|body| body.get("mood")?.as_str());
        let Some(mood) = mood else {
            return match self.flaw {
                Some(Flaw::AnswersGarbage) => Taken::Answered(asked, refused("garbage")),
                Some(Flaw::DiesOfGarbage) => Taken::Died,
                _ => self.pass_over(key),
            };
        };
        let answer = match asked.operation.phase {
            Phase::Action => self.action(&asked, mood),
            Phase::Compensation => self.compensation(&asked),
        };
        match answer {
            Some(answer) => Taken::Answered(asked, answer),
            None => Taken::Ignored,
        }
    }

    fn pass_over(&mut self, key: Vec<u8>) -> Taken {
        if self.has(Flaw::BlocksKeys) {
            self.blocked.insert(key);
        }
        Taken::Ignored
    }

    fn read(&self, record: &Record) -> Option<Asked> {
        text(record, "ce_id")?;
        let header = |name: &str, assumed: Option<&str>| {
            let assumed = assumed.map(str::to_owned);
            match text(record, name) {
                None if self.has(Flaw::AssumesMissingHeaders) => assumed,
                value => value,
            }
        };
        let round = header("saga-round", Some("1"))?.parse().ok();
        let round = match self.has(Flaw::AssumesUnreadableHeaders) {
            true => round.unwrap_or(1),
            false => round?,
        };
        let operation = Operation {
            saga_id: header("saga-id", None)?.parse().ok()?,
            step: header("saga-step", None)?,
            phase: header("saga-phase", Some("action"))?.parse().ok()?,
            round,
        };
        let op_key: Uuid = header("saga-op-key", None)?.parse().ok()?;
        if op_key != operation.key() && !self.has(Flaw::TrustsOpKeys) {
            return None;
        }
        let asked = Asked {
            operation,
            kind: header("ce_type", None)?,
            reply_topic: header("saga-reply-topic", None)?,
            expires_at: header("saga-expires-at", None)?.parse().ok()?,
            begun_at: header("saga-begun-at", None)?.parse().ok()?,
            is_probe: text(record, "saga-probe").as_deref() == Some("true"),
        };
        Some(asked)
    }

    fn row(&self, operation: &Operation) -> Operation {
        let round = match self.has(Flaw::BlindToRounds) {
            true => 1,
            false => operation.round,
        };
        Operation {
            round,
            ..operation.clone()
        }
    }

    fn action(&mut self, asked: &Asked, mood: &str) -> Option<Answer> {
        let row = self.row(&asked.operation);
        if let Some(stored) = self.stored(&row) {
            return self.repeated(asked, stored);
        }
        if self.claimed.contains(&row) {
            return None;
        }
        if asked.is_probe && !self.has(Flaw::TakesProbesForActions) {
            if !self.has(Flaw::ProbesLeaveNothing) {
                self.barrier.insert(row, tombstoned());
            }
            return Some(tombstoned());
        }
        let is_expired = asked.expires_at < Utc::now() && !self.has(Flaw::IgnoresExpiry);
        if is_expired || mood == "unwilling" {
            if self.has(Flaw::LeavesWhatItRefused) && !is_expired {
                self.execute(asked);
            }
            let answer = refused(if is_expired { "expired" } else { "unwilling" });
            if !self.has(Flaw::ForgetsRefusals) {
                self.barrier.insert(row, answer.clone());
            }
            return Some(answer);
        }
        if mood == "stumbling" && self.has(Flaw::CommitsTheRowFirst) {
            // Whoever comes again finds it, and no answer.
            self.claimed.insert(row);
            return None;
        }
        if mood == "stumbling" && self.has(Flaw::CallsBeforeItNotes) {
            self.execute(asked);
            self.called.push((Instant::now(), asked.clone()));
            return None;
        }
        if self.has(Flaw::LooksThenActs) {
            self.begun.push(asked.clone());
            return None;
        }
        Some(self.carry_out(asked))
    }

    /// What was called and failed: the outside knows it by its key. Its pause lasts until its
    /// compensation has been here, or some seconds.
    fn try_again(&mut self) -> Vec<(Asked, Answer)> {
        let called = std::mem::take(&mut self.called);
        let (now, later) = called.into_iter().partition(|(at, asked)| {
            at.elapsed() > PAUSE || self.stored(&self.row(&asked.operation)).is_some()
        });
        self.called = later;
        let tried = Vec::into_iter(now).map(|(_, asked)| {
            let row = self.row(&asked.operation);
            let answer = self.stored(&row).unwrap_or_else(|| self.receipt());
            self.barrier.insert(row, answer.clone());
            (asked, answer)
        });
        tried.collect()
    }

    /// Carries out what was begun.
    fn finish(&mut self, which: impl Fn(&Asked) -> bool) -> Vec<(Asked, Answer)> {
        let begun = std::mem::take(&mut self.begun);
        let (now, later) = begun.into_iter().partition(which);
        self.begun = later;
        let finish = |asked: Asked| (asked.clone(), self.carry_out(&asked));
        Vec::into_iter(now).map(finish).collect()
    }

    fn carry_out(&mut self, asked: &Asked) -> Answer {
        self.execute(asked);
        let answer = self.receipt();
        let row = self.row(&asked.operation);
        self.barrier.insert(row, answer.clone());
        answer
    }

    fn repeated(&mut self, asked: &Asked, stored: Answer) -> Option<Answer> {
        let was_tombstoned = stored == tombstoned();
        match self.flaw {
            Some(Flaw::SilentOnRepetition) if !was_tombstoned => None,
            Some(Flaw::AnswersAnew) if stored.outcome == "succeeded" => Some(self.receipt()),
            Some(Flaw::ExecutesTheTombstoned) if was_tombstoned && !asked.is_probe => {
                self.execute(asked);
                Some(stored)
            }
            Some(Flaw::ConfirmsTheTombstoned) if was_tombstoned => Some(Answer {
                outcome: "succeeded",
                ..stored
            }),
            _ => Some(stored),
        }
    }

    fn compensation(&mut self, asked: &Asked) -> Option<Answer> {
        if self.has(Flaw::ExpiresCompensations) && asked.expires_at < Utc::now() {
            return Some(refused("expired"));
        }
        let row = self.row(&asked.operation);
        let action = Operation {
            phase: Phase::Action,
            ..row.clone()
        };
        if let Some(stored) = self.stored(&row) {
            if self.has(Flaw::CompensatesTwice) && stored.outcome == "compensated" {
                self.undo(asked);
            }
            return (!self.has(Flaw::SilentOnRepetition)).then_some(stored);
        }
        let done = self.stored(&action);
        if done.is_none() && !self.has(Flaw::LeavesNoTombstone) {
            self.barrier.insert(action, tombstoned());
        }
        let answer = match (done.map(|done| done.outcome), self.flaw) {
            (Some("succeeded"), Some(Flaw::ConfirmsWithoutUndoing)) => empty("compensated"),
            (Some("succeeded"), _) => self.undo(asked),
            (Some("failed"), Some(Flaw::CompensatesTheRefused)) => self.undo(asked),
            (None, Some(Flaw::CompensatesNothing)) => empty("compensated"),
            // As an `update … where` does that finds nothing.
            (_, Some(Flaw::NoBarrier | Flaw::OnlyAnInbox)) if self.remaining(asked) <= 0 => {
                empty("compensated")
            }
            (_, Some(Flaw::NoBarrier | Flaw::OnlyAnInbox)) => self.undo(asked),
            _ => empty("null_compensated"),
        };
        self.barrier.insert(row, answer.clone());
        Some(answer)
    }

    fn stored(&self, row: &Operation) -> Option<Answer> {
        match self.flaw {
            Some(Flaw::NoBarrier | Flaw::OnlyAnInbox) => None,
            _ => self.barrier.get(row).cloned(),
        }
    }

    fn execute(&self, asked: &Asked) {
        self.change(asked, |effects| {
            effects.executed += 1;
            effects.remaining += 1;
        });
    }

    fn undo(&self, asked: &Asked) -> Answer {
        self.change(asked, |effects| effects.remaining -= 1);
        empty("compensated")
    }

    fn remaining(&self, asked: &Asked) -> i64 {
        let mut remaining = 0;
        self.change(asked, |effects| remaining = effects.remaining);
        remaining
    }

    fn change(&self, asked: &Asked, change: impl FnOnce(&mut Effects)) {
        let Operation { saga_id, step, .. } = asked.operation.clone();
        change(
            self.world
                .lock()
                .unwrap()
                .entry((saga_id, step))
                .or_default(),
        );
    }

    /// Another one each time: equal ones are one execution.
    fn receipt(&mut self) -> Answer {
        self.receipts += 1;
        Answer {
            outcome: "succeeded",
            kind: "toy.done.v1",
            payload: json!({ "receipt": self.receipts }).to_string(),
        }
    }

    fn reply(&self, producer: &dyn Producer, asked: &Asked, answer: &Answer) {
        let operation = &asked.operation;
        let (id, op_key) = (Uuid::now_v7().to_string(), operation.key().to_string());
        let (saga_id, round) = (operation.saga_id.to_string(), operation.round.to_string());
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", &id),
            ("ce_source", "/toy"),
            ("ce_type", answer.kind),
            ("saga-id", &saga_id),
            ("saga-step", &operation.step),
            ("saga-phase", operation.phase.as_str()),
            ("saga-round", &round),
            ("saga-op-key", &op_key),
            ("saga-outcome", answer.outcome),
        ];
        let key = match self.has(Flaw::KeysRepliesByOperation) {
            true => &op_key,
            false => &saga_id,
        };
        let record = Outgoing {
            topic: &asked.reply_topic,
            key,
            payload: Some(answer.payload.as_bytes()),
            headers: &headers,
        };
        producer.send(0, record).unwrap();
    }
}

fn refused(code: &str) -> Answer {
    Answer {
        outcome: "failed",
        kind: "saga.refused.v1",
        payload: json!({ "code": code, "message": "no, thank you" }).to_string(),
    }
}

fn empty(outcome: &'static str) -> Answer {
    Answer {
        outcome,
        kind: "toy.empty.v1",
        payload: "{}".to_owned(),
    }
}

fn tombstoned() -> Answer {
    empty("tombstoned")
}

fn text(record: &Record, name: &str) -> Option<String> {
    let value = record.headers.iter().find(|(header, _)| header == name)?;
    String::from_utf8(value.1.clone()?).ok()
}
