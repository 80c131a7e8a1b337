//! The form: given what has happened, when one more thing does, then this is recorded and done.
//!
//! After each step a story checks by itself what holds at every step: the state folds from every
//! prefix of the history and survives JSON; each command recorded is sent and timed; exactly the
//! moments waited for have a timer; what has ended is at rest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::definition::{Definition, Step};
// What every story speaks of.
pub(super) use crate::{
    Error,
    decide::{Command, Decision, Effect, decide, start},
    definition::Plan,
    event::{Answer, Attempt, Event, IgnoredBecause, Input, Reply, Timer},
    instance::{Instance, Status, StepStatus, WaitingFor},
    operation::{Operation, Phase},
    wire::Refusal,
};
pub(super) use std::time::Duration;
pub(super) use uuid::Uuid;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Data {
    pub(super) done: Vec<String>,
}

macro_rules! payload {
    ($name:ident, $kind:literal) => {
        #[derive(Serialize, Deserialize)]
        pub(super) struct $name {
            pub(super) step: String,
        }
        impl outbox::Payload for $name {
            const KIND: &'static str = $kind;
        }
    };
}
payload!(Do, "do.v1");
payload!(Done, "done.v1");
payload!(Undo, "undo.v1");

/// a and b can be undone, p is the pivot, r comes after it.
pub(super) fn plan() -> Plan {
    let step = |name: &'static str| {
        Step::new(name)
            .command(format!("{name}.commands"), |_: &Data| Do {
                step: name.to_owned(),
            })
            .reply(|data: &mut Data, done: Done| data.done.push(done.step))
            .timeout(Duration::from_secs(1))
            .backoff(Duration::from_secs(2), Duration::from_secs(60))
            .attempts(2)
    };
    let undoable = |name| {
        step(name)
            .compensation(move |_: &Data| Undo {
                step: String::from(name),
            })
            .compensation_attempts(3)
    };
    let definition = Definition::<Data>::builder("letters", 1)
        .compensatable(undoable("a"))
        .compensatable(undoable("b"))
        .pivot(step("p").probes(0))
        .retriable(step("r").rounds(2))
        .build();
    definition.unwrap().plan
}

/// What there is at most one timer for.
fn key(timer: &Timer) -> (String, &'static str) {
    match timer {
        Timer::Attempt(attempt) => (attempt.step.clone(), attempt.phase.as_str()),
        Timer::Deadline => (String::new(), "deadline"),
    }
}

pub(super) struct Story {
    pub(super) plan: Plan,
    pub(super) instance: Instance,
    pub(super) history: Vec<Event>,
    pub(super) timers: BTreeMap<(String, &'static str), (Timer, Duration)>,
    last: Decision,
}

impl Story {
    /// A saga that has just started.
    pub(super) fn started() -> Self {
        Self::of(plan())
    }

    /// A saga of another shape.
    pub(super) fn of(plan: Plan) -> Self {
        let id = Uuid::from_u128(7);
        let data = json!({"done": []});
        let (instance, last) = start(&plan, id, "key", &data).unwrap();
        let mut story = Self {
            plan,
            instance: instance.clone(),
            history: Vec::new(),
            timers: BTreeMap::new(),
            last: Decision::default(),
        };
        story.take(last);
        assert_eq!(
            story.instance, instance,
            "start returns what folds from its events"
        );
        story
    }

    pub(super) fn input(mut self, input: &Input) -> Self {
        let fired = match input {
            Input::Timer(timer) => Some(key(timer)),
            _ => None,
        };
        let decision = decide(&self.plan, &self.instance, input).unwrap();
        if let Some(fired) = fired.filter(|f| {
            self.timers
                .get(f)
                .is_some_and(|t| Input::Timer(t.0.clone()) == *input)
        }) {
            self.timers.remove(&fired);
        }
        self.instance = decision
            .events
            .iter()
            .fold(self.instance.clone(), |mut now, event| {
                now.apply(event);
                now
            });
        self.take(decision);
        self
    }

    fn take(&mut self, decision: Decision) {
        self.history.extend(decision.events.clone());
        for effect in &decision.effects {
            match effect {
                Effect::SetTimer { timer, after } => {
                    self.timers.insert(key(timer), (timer.clone(), *after));
                }
                Effect::ClearTimer { step, phase } => {
                    self.timers.remove(&(step.clone(), phase.as_str()));
                }
                Effect::Ended(_) => self.timers.clear(),
                Effect::Send(_)
                | Effect::Acquire(_)
                | Effect::StepSettled { .. }
                | Effect::Parked { .. } => {}
            }
        }
        self.last = decision;
        self.holds();
    }

    /// What holds after every step.
    fn holds(&self) {
        let now = &self.instance;
        let known = self.history.len() - self.last.events.len();
        for prefix in known + 1..=self.history.len() {
            let folded = Instance::from_history(now.id, &self.history[..prefix]).unwrap();
            let text = serde_json::to_string(&folded).unwrap();
            assert_eq!(folded, serde_json::from_str::<Instance>(&text).unwrap());
            assert_eq!(folded.seq, prefix as i64);
        }
        assert_eq!(
            Instance::from_history(now.id, &self.history).as_ref(),
            Some(now)
        );
        for event in &self.last.events {
            let value = serde_json::to_value(event).unwrap();
            assert_eq!(value["type"], event.kind());
            assert_eq!(&serde_json::from_value::<Event>(value).unwrap(), event);
        }
        let recorded = self.last.events.iter().filter_map(|event| match event {
            Event::CommandSent {
                op_key, attempt, ..
            }
            | Event::ProbeSent {
                op_key, attempt, ..
            } => Some((*op_key, *attempt)),
            _ => None,
        });
        let sent = self.last.effects.iter().filter_map(|effect| match effect {
            Effect::Send(command) => Some((command.operation.key(), command.attempt)),
            _ => None,
        });
        assert!(
            recorded.eq(sent),
            "what is recorded as sent is what is sent"
        );
        let timers = self.timers.values().map(|(timer, _)| timer.clone());
        let timers: Vec<_> = timers.filter(|t| *t != Timer::Deadline).collect();
        let moments = |what: &WaitingFor| {
            matches!(
                what,
                WaitingFor::Reply | WaitingFor::Backoff | WaitingFor::Round | WaitingFor::Probe
            )
        };
        let awaited = now
            .steps
            .iter()
            .filter(|s| s.waiting.as_ref().is_some_and(moments));
        let mut awaited: Vec<_> = awaited
            .map(|step| {
                Timer::Attempt(Attempt {
                    step: step.name.clone(),
                    phase: step.phase(),
                    round: step.awaited_round(),
                    attempt: step.attempt,
                })
            })
            .collect();
        awaited.sort_by_key(key);
        assert!(
            timers == awaited || now.paused,
            "exactly the moments waited for have a timer: {timers:?}, {awaited:?}"
        );
        assert_eq!(now.waiting().is_none(), now.status.is_terminal(), "{now:?}");
        let parked = now.has_stuck_step();
        assert_eq!(parked, now.status == Status::Parked, "{now:?}");
        assert_eq!(parked, now.parked_reason.is_some(), "{now:?}");
        self.nothing_half_done();
    }

    fn nothing_half_done(&self) {
        let all = |legal: &[StepStatus]| {
            self.instance
                .steps
                .iter()
                .all(|s| legal.contains(&s.status))
        };
        match self.instance.status {
            Status::Completed => assert!(all(&[StepStatus::Succeeded, StepStatus::Skipped])),
            Status::Compensated => assert!(all(&[
                StepStatus::Pending,
                StepStatus::Skipped,
                StepStatus::Failed,
                StepStatus::CompensationSkipped,
                StepStatus::Compensated,
                StepStatus::NullCompensated,
            ])),
            _ => {}
        }
    }

    /// The answer to an operation arrives.
    pub(super) fn reply(self, step: &str, phase: Phase, round: i32, answer: Answer) -> Self {
        let operation = self.instance.operation(step, phase, round);
        self.input(&Input::Reply(Reply { operation, answer }))
    }

    pub(super) fn succeeds(self, step: &str) -> Self {
        self.reply(step, Phase::Action, 1, done(step))
    }

    pub(super) fn refuses(self, step: &str, round: i32) -> Self {
        self.reply(step, Phase::Action, round, no())
    }

    pub(super) fn compensates(self, step: &str) -> Self {
        self.reply(step, Phase::Compensation, 1, Answer::Compensated)
    }

    pub(super) fn finds_nothing(self, step: &str) -> Self {
        self.reply(step, Phase::Compensation, 1, Answer::NullCompensated)
    }

    /// The timer that is set fires.
    pub(super) fn time_passes(self) -> Self {
        let timers = self.timers.values().cloned();
        let timers: Vec<_> = timers.filter(|(t, _)| *t != Timer::Deadline).collect();
        let [(timer, _)] = &timers[..] else {
            panic!("one timer is set, not {timers:?}")
        };
        let timer = Input::Timer(timer.clone());
        self.input(&timer)
    }

    /// The timer of this step fires.
    pub(super) fn fires(self, step: &str) -> Self {
        let mut timers = self.timers.values();
        let found = timers.find_map(|(timer, _)| match timer {
            Timer::Attempt(attempt) if attempt.step == step => Some(timer.clone()),
            _ => None,
        });
        let timer = found.unwrap_or_else(|| panic!("{step} has a timer"));
        self.input(&Input::Timer(timer))
    }

    /// What the last step recorded and did, in one line each.
    #[track_caller]
    pub(super) fn then(self, events: &[&str], effects: &[&str]) -> Self {
        let recorded: Vec<_> = self.last.events.iter().map(event_line).collect();
        assert_eq!(recorded, events);
        let effects_done = self.last.effects.iter();
        let effects_done = effects_done.filter(|e| !matches!(e, Effect::StepSettled { .. }));
        let done: Vec<_> = effects_done.map(effect_line).collect();
        assert_eq!(done, effects);
        self
    }

    #[track_caller]
    pub(super) fn stands(self, status: Status) -> Self {
        assert_eq!(self.instance.status, status, "{:?}", self.instance);
        self
    }

    /// The last step changed nothing, for this reason.
    #[track_caller]
    pub(super) fn ignored(self, because: IgnoredBecause) -> Self {
        match &self.last.events[..] {
            [Event::Ignored { reason, .. }] => assert_eq!(*reason, because),
            other => panic!("ignored as {because}, not {other:?}"),
        }
        assert_eq!(self.last.effects, []);
        self
    }

    #[track_caller]
    pub(super) fn nothing_happens(self) -> Self {
        assert_eq!(self.last, Decision::default());
        self
    }
}

pub(super) fn done(step: &str) -> Answer {
    Answer::Succeeded {
        kind: "done.v1".to_owned(),
        payload: serde_json::to_vec(&json!({ "step": step })).unwrap(),
    }
}

pub(super) fn no() -> Answer {
    Answer::Failed(Refusal::new("no", "no, thank you"))
}

fn event_line(event: &Event) -> String {
    match event {
        Event::Started { .. } => "started".to_owned(),
        Event::LockRequested(claim) => format!("asked for {} of {}", claim.units, claim.resource),
        Event::LockGranted { resource } => format!("holds {resource}"),
        Event::LockRefused { resource } => format!("too much of {resource}"),
        Event::StepSkipped { step } => format!("skipped {step}"),
        Event::ProbeSent {
            step,
            round,
            attempt,
            ..
        } => format!("probed {step} {round}.{attempt}"),
        Event::CompensationSkipped { step, round } => format!("left undone {step} {round}"),
        Event::Intervened {
            operation, actor, ..
        } => format!("{operation} by {actor}"),
        Event::Migrated { from, to, .. } => format!("migrated {from} to {to}"),
        Event::AnomalyFound { step, outcome, .. } => format!("anomaly {step} {outcome}"),
        Event::CommandSent {
            step,
            phase,
            round,
            attempt,
            ..
        } => {
            format!("sent {step} {phase} {round}.{attempt}")
        }
        Event::AttemptTimedOut {
            step,
            phase,
            round,
            attempt,
        } => {
            format!("timed out {step} {phase} {round}.{attempt}")
        }
        Event::RetryPlanned {
            step,
            phase,
            round,
            attempt,
        } => {
            format!("retry {step} {phase} {round}.{attempt}")
        }
        Event::ActionSucceeded { step, round, .. } => format!("succeeded {step} {round}"),
        Event::ActionFailed { step, round, .. } => format!("failed {step} {round}"),
        Event::ActionUnknown { step, round } => format!("unknown {step} {round}"),
        Event::RoundPlanned { step, round } => format!("round {step} {round}"),
        Event::CompensationStarted { reason } => format!("turned back: {reason}"),
        Event::StepCompensated { step, round } => format!("compensated {step} {round}"),
        Event::StepNullCompensated { step, round } => format!("nothing to undo {step} {round}"),
        Event::Parked { reason, .. } => format!("parked: {reason}"),
        Event::Resumed
        | Event::Completed
        | Event::Compensated
        | Event::Abandoned
        | Event::DeadlinePassed => event.kind().to_owned(),
        Event::Ignored { reason, .. } => format!("ignored {reason}"),
    }
}

fn effect_line(effect: &Effect) -> String {
    match effect {
        Effect::Send(Command {
            operation,
            topic,
            kind,
            probe,
            ..
        }) => {
            let what = if *probe { "ask" } else { "send" };
            format!(
                "{what} {kind} to {topic}, {} {}",
                operation.phase, operation.round
            )
        }
        Effect::SetTimer {
            timer: Timer::Attempt(timer),
            ..
        } => {
            format!(
                "timer {} {} {}.{}",
                timer.step, timer.phase, timer.round, timer.attempt
            )
        }
        Effect::SetTimer {
            timer: Timer::Deadline,
            ..
        } => "timer deadline".to_owned(),
        Effect::ClearTimer { step, phase } => format!("no timer {step} {phase}"),
        Effect::Acquire(claims) => format!("acquire {}", claims.len()),
        Effect::StepSettled { step, status } => format!("settled {step} {status}"),
        Effect::Parked { .. } => "parked".to_owned(),
        Effect::Ended(status) => format!("ended {status}"),
    }
}
