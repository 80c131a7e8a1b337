//! The turns of many sagas in one transaction: decided one after another, written together.
//!
//! Each kind of row takes one statement, however many sagas there are. If anything fails, the
//! caller rolls back and takes the turns one by one.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use outbox::Message;
use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{
    Error,
    coordinator::{Coordinator, Defined},
    decide::{self, Command, Decision, Effect},
    definition::{Ended, Hooks, Parked, StepSettled},
    event::{Event, Input, Timer},
    instance::{Instance, Status},
    intervention::Intervention,
    locks,
    table::{self, Anomaly, History, Loaded, Moved, TimerChanges, TimerKey},
    telemetry, wire,
};

/// How long a participant may begin what a command asks. Shorter than it keeps its barrier rows.
const COMMAND_EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a command's trace goes on from: `traceparent` and `tracestate` of what caused it.
pub(crate) type Trace = Vec<(&'static str, String)>;

/// Sagas whose rows are locked, and what was decided about them since.
pub(crate) struct Turns<'c> {
    coordinator: &'c Coordinator,
    sagas: BTreeMap<Uuid, Taking>,
}

/// One saga, its decisions not yet written.
struct Taking {
    instance: Instance,
    now: DateTime<Utc>,
    /// The number its row has.
    written_seq: i64,
    /// The number of its last event that is written.
    last_seq: i64,
    claims_resources: bool,
    events: Vec<Event>,
    effects: Vec<Effect>,
    trace: Trace,
}

impl<'c> Turns<'c> {
    /// Of sagas that were locked and read in this transaction.
    pub(crate) fn of(coordinator: &'c Coordinator, loaded: Vec<Loaded>) -> Self {
        let taking = |loaded: Loaded| {
            let Loaded { instance, now } = loaded;
            let taking = Taking {
                now,
                written_seq: instance.seq,
                last_seq: instance.seq,
                claims_resources: !instance.locks.is_empty(),
                events: Vec::new(),
                effects: Vec::new(),
                trace: Trace::new(),
                instance,
            };
            (taking.instance.id, taking)
        };
        Self {
            coordinator,
            sagas: loaded.into_iter().map(taking).collect(),
        }
    }

    /// Of one saga whose row was inserted in this transaction, its events not yet.
    pub(crate) fn begun(
        coordinator: &'c Coordinator,
        instance: Instance,
        decision: Decision,
        now: DateTime<Utc>,
    ) -> Self {
        let taking = Taking {
            now,
            written_seq: instance.seq,
            last_seq: 0,
            claims_resources: !instance.locks.is_empty(),
            events: decision.events,
            effects: decision.effects,
            trace: Trace::new(),
            instance,
        };
        Self {
            coordinator,
            sagas: BTreeMap::from([(taking.instance.id, taking)]),
        }
    }

    /// Where a saga stands after what was decided so far.
    pub(crate) fn instance(&self, id: Uuid) -> Result<&Instance, Error> {
        let taking = self.sagas.get(&id).ok_or(Error::UnknownSaga(id))?;
        Ok(&taking.instance)
    }

    /// What causes the next decision of a saga.
    pub(crate) fn because_of(&mut self, id: Uuid, trace: Trace) {
        let taking = self.sagas.get_mut(&id);
        taking
            .into_iter()
            .for_each(|taking| taking.trace = trace.clone());
    }

    /// Decides.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSaga`], [`Error::UnknownDefinition`] where this replica lacks its version,
    /// and what [`decide`](decide::decide) says. Nothing is decided then.
    pub(crate) fn take(&mut self, id: Uuid, input: &Input) -> Result<&Instance, Error> {
        let taking = self.sagas.get_mut(&id).ok_or(Error::UnknownSaga(id))?;
        let defined = self.coordinator.pinned(&taking.instance)?;
        taking.go_on(decide::step(&defined.plan, taking.instance.clone(), input)?);
        Ok(&taking.instance)
    }

    /// Decides to go on under another version.
    ///
    /// # Errors
    ///
    /// As [`Turns::take`], and [`Error::UnknownDefinition`] where this replica lacks the target.
    pub(crate) fn migrate(
        &mut self,
        id: Uuid,
        to: i32,
        intervention: &Intervention,
    ) -> Result<&Instance, Error> {
        let taking = self.sagas.get_mut(&id).ok_or(Error::UnknownSaga(id))?;
        let from = self.coordinator.pinned(&taking.instance)?;
        let to = self.coordinator.version(&taking.instance.definition, to)?;
        let instance = taking.instance.clone();
        let decided = decide::advance_under(&from.plan, &to.plan, instance, intervention)?;
        taking.go_on(decided);
        Ok(&taking.instance)
    }

    /// What was decided about a saga and not yet written.
    pub(crate) fn decided(&self, id: Uuid) -> (&[Event], &[Effect]) {
        let taking = self.sagas.get(&id);
        taking.map_or((&[], &[]), |taking| (&taking.events, &taking.effects))
    }

    /// Writes and does what was decided. Returns the sagas as they stand now, in the order of
    /// their ids.
    ///
    /// # Errors
    ///
    /// The database's, the outbox's, a hook's. The transaction must be rolled back then.
    pub(crate) async fn write(self, tx: &mut PgTransaction<'_>) -> Result<Vec<Instance>, Error> {
        let Self { coordinator, sagas } = self;
        let sagas: Vec<Taking> = sagas.into_values().collect();
        let decided: Vec<&Taking> = sagas.iter().filter(|s| !s.events.is_empty()).collect();
        if decided.is_empty() {
            return Ok(sagas.into_iter().map(|taking| taking.instance).collect());
        }
        let (quiet, loud): (Vec<_>, Vec<_>) = decided.iter().partition(|s| s.only_ignored());
        move_on(tx, &loud, &quiet).await?;
        record(tx, &decided).await?;
        let messages = messages(coordinator, &decided);
        outbox::enqueue_all(tx, &messages).await?;
        let timers = timer_changes(&decided);
        if !(timers.ended.is_empty() && timers.clear.is_empty() && timers.set.is_empty()) {
            table::change_timers(tx, &timers).await?;
        }
        for saga in &decided {
            telemetry::decided(&saga.instance, &saga.events);
            let Defined { hooks, .. } = coordinator.pinned(&saga.instance)?;
            run_hooks(tx, hooks, saga).await?;
        }
        let ended = decided
            .iter()
            .filter(|s| s.claims_resources && s.has_ended());
        let ended: Vec<Uuid> = ended.map(|saga| saga.instance.id).collect();
        if !ended.is_empty() {
            locks::release(tx, &ended).await?;
        }
        Ok(sagas.into_iter().map(|taking| taking.instance).collect())
    }
}

impl Taking {
    fn go_on(&mut self, (instance, decision): (Instance, Decision)) {
        self.instance = instance;
        self.events.extend(decision.events);
        self.effects.extend(decision.effects);
    }

    /// Whether the state is as it was: what it waits for, and until when, stays untouched.
    fn only_ignored(&self) -> bool {
        let ignored = |event: &Event| matches!(event, Event::Ignored { .. });
        self.events.iter().all(ignored)
    }

    fn has_ended(&self) -> bool {
        self.instance.status.is_terminal()
    }

    /// None if its row is as it should be: it was inserted just now.
    fn moved(&self) -> Option<Moved<'_>> {
        (self.written_seq != self.instance.seq).then(|| Moved {
            instance: &self.instance,
            expected_seq: self.written_seq,
            waits: wait_of(&self.instance, &self.effects),
        })
    }
}

async fn move_on(
    tx: &mut PgTransaction<'_>,
    loud: &[&Taking],
    quiet: &[&Taking],
) -> Result<(), Error> {
    let loud: Vec<Moved<'_>> = loud.iter().filter_map(|saga| saga.moved()).collect();
    let quiet: Vec<Moved<'_>> = quiet.iter().filter_map(|saga| saga.moved()).collect();
    if !loud.is_empty() && table::update_instances(tx, &loud).await? != loud.len() as u64 {
        return Err(Error::Conflict(loud[0].instance.id));
    }
    if !quiet.is_empty() && table::advance_seqs(tx, &quiet).await? != quiet.len() as u64 {
        return Err(Error::Conflict(quiet[0].instance.id));
    }
    Ok(())
}

async fn record(tx: &mut PgTransaction<'_>, decided: &[&Taking]) -> Result<(), Error> {
    let histories: Vec<_> = decided
        .iter()
        .map(|saga| History {
            saga_id: saga.instance.id,
            last_seq: saga.last_seq,
            events: &saga.events,
        })
        .collect();
    table::append_events(tx, &histories).await?;
    let anomalies = decided.iter().flat_map(|saga| {
        let numbered = (saga.last_seq + 1..).zip(&saga.events);
        numbered.filter_map(|(seq, event)| Anomaly::of(&saga.instance, seq, event))
    });
    let anomalies: Vec<_> = anomalies.collect();
    if !anomalies.is_empty() {
        table::insert_anomalies(tx, &anomalies).await?;
    }
    Ok(())
}

fn messages(coordinator: &Coordinator, decided: &[&Taking]) -> Vec<Message> {
    let messages = decided.iter().flat_map(|saga| {
        saga.effects.iter().filter_map(|effect| match effect {
            Effect::Send(command) => Some(message(coordinator, saga, command)),
            _ => None,
        })
    });
    messages.collect()
}

fn message(coordinator: &Coordinator, saga: &Taking, command: &Command) -> Message {
    let headers = wire::Command {
        operation: command.operation.clone(),
        op_key: command.operation.key(),
        definition: saga.instance.definition.clone(),
        attempt: command.attempt,
        reply_topic: coordinator.reply_topic().to_owned(),
        expires_at: saga.now + COMMAND_EXPIRY,
        probe: command.probe,
    };
    let message = headers.message(&command.topic, command.kind, command.payload.clone());
    let trace = saga.trace.iter();
    trace.fold(message, |message, (name, value)| {
        message.with_header(*name, value)
    })
}

/// Of a timer's changes the last counts; an ended saga has none.
fn timer_changes(decided: &[&Taking]) -> TimerChanges {
    let mut changes = TimerChanges::default();
    for saga in decided {
        let id = saga.instance.id;
        if saga.has_ended() {
            changes.ended.push(id);
            continue;
        }
        let mut timers: BTreeMap<TimerKey, Option<(&Timer, Duration)>> = BTreeMap::new();
        for effect in &saga.effects {
            match effect {
                Effect::SetTimer { timer, after } => {
                    timers.insert(table::timer_key(timer), Some((timer, *after)));
                }
                Effect::ClearTimer { step, phase } => {
                    timers.insert((step.clone(), phase.as_str()), None);
                }
                _ => {}
            }
        }
        for (key, set) in timers {
            match set {
                Some((timer, after)) => changes.set.push((id, timer.clone(), after)),
                None => changes.clear.push((id, key)),
            }
        }
    }
    changes
}

/// How long the saga will wait for what it waits for first, for the eyes of whoever looks at it.
pub(crate) fn wait_of(instance: &Instance, effects: &[Effect]) -> Option<Duration> {
    let waiting = instance.waiting()?;
    effects.iter().rev().find_map(|effect| match effect {
        Effect::SetTimer {
            timer: Timer::Attempt(attempt),
            after,
        } if attempt.step == waiting.step && attempt.attempt == waiting.attempt => Some(*after),
        _ => None,
    })
}

async fn run_hooks(
    tx: &mut PgTransaction<'_>,
    hooks: &Hooks,
    saga: &Taking,
) -> Result<(), outbox::Error> {
    let instance = &saga.instance;
    for effect in &saga.effects {
        match effect {
            Effect::StepSettled { step, status } => {
                if let Some(hook) = &hooks.on_step {
                    let settled = StepSettled {
                        id: instance.id,
                        business_key: instance.business_key.clone(),
                        data: instance.data.clone(),
                        step: step.clone(),
                        status: *status,
                    };
                    hook(tx, settled).await?;
                }
            }
            Effect::Parked { reason } => {
                if let Some(hook) = &hooks.on_parked {
                    let parked = Parked {
                        id: instance.id,
                        business_key: instance.business_key.clone(),
                        data: instance.data.clone(),
                        reason: reason.clone(),
                    };
                    hook(tx, parked).await?;
                }
            }
            Effect::Ended(status) => {
                let hook = match status {
                    Status::Completed => &hooks.on_completed,
                    Status::Compensated => &hooks.on_compensated,
                    Status::Abandoned => &hooks.on_abandoned,
                    _ => &None,
                };
                if let Some(hook) = hook {
                    let ended = Ended {
                        id: instance.id,
                        business_key: instance.business_key.clone(),
                        data: instance.data.clone(),
                        reason: instance.reason.clone(),
                    };
                    hook(tx, ended).await?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
