//! The turns of many sagas in one transaction: decided one after another, written together.
//!
//! Each kind of row takes one statement, however many sagas there are. If anything fails, the
//! caller rolls back and takes the turns one by one.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use outbox::Message;
use sqlx::PgTransaction;
use tracing::{Instrument, Span, info_span};
use uuid::Uuid;

use crate::{
    Error,
    agenda::Agenda,
    cause,
    coordinator::{Coordinator, Defined},
    decide::{self, Command, Decision, Effect},
    definition::{Ended, Hooks, Parked, StepSettled},
    event::{Event, Input, Reply, Timer},
    instance::{Instance, Status},
    intervention::Intervention,
    locks,
    origin::Origin,
    table::{self, Anomaly, History, Loaded, Moved, Rescheduled, corrupt},
    telemetry, wire,
};

/// What a command's trace goes on from: `traceparent` and `tracestate` of what caused it.
type Trace = Vec<(&'static str, String)>;

/// Sagas whose rows are locked, and what was decided about them since.
pub(crate) struct Turns<'c> {
    coordinator: &'c Coordinator,
    sagas: BTreeMap<Uuid, Taking>,
}

/// One saga, its decisions not yet written.
struct Taking {
    instance: Instance,
    agenda: Agenda,
    /// When its row says that its timers are to be looked at.
    look_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    /// The number its row has.
    written_seq: i64,
    /// How many of its events are written, though they stand here.
    recorded: usize,
    /// Whether its timers were looked at.
    looked: bool,
    claims_resources: bool,
    events: Vec<Event>,
    /// Of each event.
    origins: Vec<Option<Origin>>,
    effects: Vec<Effect>,
    /// What its hooks are run in.
    span: Span,
    trace: Trace,
}

impl<'c> Turns<'c> {
    /// Of sagas that were locked and read in this transaction.
    pub(crate) fn of(coordinator: &'c Coordinator, loaded: Vec<Loaded>) -> Self {
        let taking = |loaded: Loaded| {
            let Loaded {
                instance,
                agenda,
                look_at,
                now,
            } = loaded;
            let taking = Taking {
                agenda,
                look_at,
                now,
                written_seq: instance.seq,
                recorded: 0,
                looked: false,
                claims_resources: !instance.locks.is_empty(),
                events: Vec::new(),
                origins: Vec::new(),
                effects: Vec::new(),
                span: Span::none(),
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

    /// Of one saga whose row, events and timers were inserted in this transaction, `now`.
    pub(crate) fn begun(
        coordinator: &'c Coordinator,
        instance: Instance,
        decision: Decision,
        now: DateTime<Utc>,
    ) -> Self {
        let mut taking = Taking {
            agenda: Agenda::default(),
            look_at: None,
            now,
            written_seq: instance.seq,
            recorded: decision.events.len(),
            looked: false,
            claims_resources: !instance.locks.is_empty(),
            // They are written.
            origins: vec![None; decision.events.len()],
            events: decision.events,
            effects: Vec::new(),
            span: Span::none(),
            trace: Trace::new(),
            instance,
        };
        taking.also(decision.effects);
        taking.look_at = taking.agenda.first();
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

    /// What causes the next decision of a saga: its commands carry the trace on, its hooks run in
    /// the span. The current span, unless said.
    pub(crate) fn because_of(&mut self, id: Uuid, span: &Span, trace: Trace) {
        if let Some(taking) = self.sagas.get_mut(&id) {
            taking.span = span.clone();
            taking.trace = trace;
        }
    }

    /// Decides.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSaga`], [`Error::UnknownDefinition`] where this replica lacks its version,
    /// and what [`decide`](decide::decide) says. Nothing is decided then.
    pub(crate) fn take(&mut self, id: Uuid, input: &Input) -> Result<&Instance, Error> {
        self.take_from(id, input, None)
    }

    /// As [`Turns::take`], of an answer and where it came from.
    pub(crate) fn take_answer(&mut self, reply: Reply, from: &Origin) -> Result<&Instance, Error> {
        let id = reply.operation.saga_id;
        self.take_from(id, &Input::Reply(reply), Some(from))
    }

    fn take_from(
        &mut self,
        id: Uuid,
        input: &Input,
        answer: Option<&Origin>,
    ) -> Result<&Instance, Error> {
        let taking = self.sagas.get_mut(&id).ok_or(Error::UnknownSaga(id))?;
        let defined = self.coordinator.pinned(&taking.instance)?;
        let decided = decide::step(&defined.plan, taking.instance.clone(), input)?;
        taking.go_on(decided, answer);
        Ok(&taking.instance)
    }

    /// Decides about every timer that is due, the longest overdue of a saga first. How many there
    /// were. `traces`: the `traceparent` each saga was last on, on which it goes on.
    ///
    /// # Errors
    ///
    /// As [`Turns::take`], and [`Error::Corrupt`].
    pub(crate) fn fire(&mut self, traces: &BTreeMap<Uuid, String>) -> Result<usize, Error> {
        let mut due = Vec::new();
        for (&id, taking) in &mut self.sagas {
            taking.looked = true;
            let timers = taking.agenda.take_due(taking.now);
            let timers = timers.map_err(|error| corrupt(id, error))?;
            due.extend(timers.into_iter().map(|timer| (id, timer)));
        }
        let fired = due.len();
        for (id, timer) in due {
            let step = match &timer {
                Timer::Attempt(attempt) => attempt.step.as_str(),
                Timer::Deadline | Timer::Lock { .. } => "",
            };
            let span = info_span!("saga.timer", saga_id = %id, step);
            let trace = match traces.get(&id) {
                Some(traceparent) => outbox::resume(&span, traceparent),
                None => outbox::carry(&span),
            };
            self.because_of(id, &span, trace);
            let _inside = span.enter();
            self.take(id, &Input::Timer(timer))?;
        }
        Ok(fired)
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
        taking.go_on(decided, None);
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
        let (decided, others): (Vec<_>, Vec<_>) =
            sagas.iter().partition(|saga| !saga.events.is_empty());
        reschedule(tx, &others).await?;
        if decided.is_empty() {
            return Ok(sagas.into_iter().map(|taking| taking.instance).collect());
        }
        move_on(tx, &decided).await?;
        let messages = messages(coordinator, &decided);
        outbox::enqueue_all(tx, &messages).await?;
        for saga in &decided {
            telemetry::decided(&saga.instance, &saga.events);
            let Defined { hooks, .. } = coordinator.pinned(&saga.instance)?;
            let running = run_hooks(tx, hooks, saga);
            running.instrument(saga.span.clone()).await?;
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
    /// `answer`: where the answer that was decided about came from.
    fn go_on(&mut self, (instance, decision): (Instance, Decision), answer: Option<&Origin>) {
        self.instance = instance;
        let carried = match self.trace.is_empty() {
            true => &outbox::carry(&Span::current()),
            false => &self.trace,
        };
        let origins = Origin::of_each(&decision.events, answer, carried);
        self.origins.extend(origins);
        self.events.extend(decision.events);
        self.also(decision.effects);
    }

    /// Notes effects, and what they mean for its timers.
    fn also(&mut self, effects: Vec<Effect>) {
        for effect in &effects {
            match effect {
                Effect::SetTimer { timer, after } => self.agenda.set(timer, self.now, *after),
                Effect::ClearTimer { step, phase } => self.agenda.clear(step, *phase),
                Effect::Ended(_) => self.agenda.clear_all(),
                _ => {}
            }
        }
        self.effects.extend(effects);
    }

    /// Whether the state is as it was: what it waits for, and until when, stays untouched.
    fn only_ignored(&self) -> bool {
        let ignored = |event: &Event| matches!(event, Event::Ignored { .. });
        !self.looked && self.events.iter().all(ignored)
    }

    fn has_ended(&self) -> bool {
        self.instance.status.is_terminal()
    }

    /// None if its row is as it should be: it was inserted just now.
    fn moved(&self) -> Option<Moved<'_>> {
        (self.written_seq != self.instance.seq).then(|| Moved {
            instance: &self.instance,
            expected_seq: self.written_seq,
            agenda: &self.agenda,
            look_at: self.agenda.look_at(self.look_at, self.now),
        })
    }

    /// Its events that are not written yet.
    fn news(&self) -> History<'_> {
        let events = &self.events[self.recorded..];
        History {
            saga_id: self.instance.id,
            last_seq: self.instance.seq - events.len() as i64,
            events,
            origins: &self.origins[self.recorded..],
        }
    }
}

/// Writes the timers of those that were looked at and had nothing to decide.
async fn reschedule(tx: &mut PgTransaction<'_>, others: &[&Taking]) -> Result<(), Error> {
    let looked = others.iter().filter(|saga| saga.looked);
    let looked = looked.map(|saga| Rescheduled {
        id: saga.instance.id,
        agenda: &saga.agenda,
        look_at: saga.agenda.look_at(saga.look_at, saga.now),
    });
    let looked: Vec<_> = looked.collect();
    match looked.is_empty() {
        true => Ok(()),
        false => table::reschedule(tx, &looked).await,
    }
}

async fn move_on(tx: &mut PgTransaction<'_>, decided: &[&Taking]) -> Result<(), Error> {
    let all = decided.iter().copied();
    let (quiet, loud): (Vec<&Taking>, Vec<&Taking>) = all.partition(|saga| saga.only_ignored());
    let loud: Vec<Moved<'_>> = loud.iter().filter_map(|saga| saga.moved()).collect();
    let quiet: Vec<Moved<'_>> = quiet.iter().filter_map(|saga| saga.moved()).collect();
    let news: Vec<History<'_>> = decided.iter().map(|saga| saga.news()).collect();
    if !quiet.is_empty() && table::advance_seqs(tx, &quiet).await? != quiet.len() as i64 {
        return Err(Error::Conflict(quiet[0].instance.id));
    }
    match loud.is_empty() {
        false => {
            if table::move_on(tx, &loud, &news).await? != loud.len() as i64 {
                return Err(Error::Conflict(loud[0].instance.id));
            }
        }
        true if news.iter().all(|history| history.events.is_empty()) => {}
        true => table::append_events(tx, &news).await?,
    }
    let anomalies = news.iter().zip(decided).flat_map(|(history, saga)| {
        let numbered = (history.last_seq + 1..).zip(history.events);
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
        expires_at: saga.now + wire::COMMAND_EXPIRY,
        probe: command.probe,
    };
    let message = headers.message(&command.topic, command.kind, command.payload.clone());
    let trace = saga.trace.iter();
    trace.fold(message, |message, (name, value)| {
        message.with_header(*name, value)
    })
}

/// The timers that these effects set, each once.
pub(crate) fn timers_of(effects: &[Effect]) -> Vec<(&Timer, Duration)> {
    let timers = effects.iter().filter_map(|effect| match effect {
        Effect::SetTimer { timer, after } => Some((timer, *after)),
        _ => None,
    });
    timers.collect()
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
                    let cause = match instance.reason {
                        Some(_) => cause::of(tx, instance.id).await?,
                        None => None,
                    };
                    let ended = Ended {
                        id: instance.id,
                        business_key: instance.business_key.clone(),
                        data: instance.data.clone(),
                        reason: instance.reason.clone(),
                        cause,
                    };
                    hook(tx, ended).await?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
