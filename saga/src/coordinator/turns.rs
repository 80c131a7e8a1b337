//! The turns of many sagas in one transaction: decided one after another, written together.
//!
//! Each kind of row takes one statement, however many sagas there are. If anything fails, the
//! caller rolls back and takes the turns one by one.

use std::{collections::BTreeMap, fmt, time::Duration};

use chrono::{DateTime, Utc};
use outbox::{Message, fault::Fault};
use sqlx::PgTransaction;
use tracing::{Instrument, Span, info_span};
use uuid::Uuid;

use crate::{
    Error,
    agenda::Agenda,
    cause,
    coordinator::{Coordinator, Defined},
    decide::{self, Command, Decision, Effect},
    definition::{Ended, Hooks, Parked, Plan, StepSettled},
    event::{Attempt, Event, Input, Reply, Timer},
    instance::{Instance, Status, WaitingFor},
    intervention::Intervention,
    locks,
    operation::{Operation, Phase},
    origin::Origin,
    pending::table as kept,
    table::{self, Anomaly, Begun, History, Loaded, Moved, Rescheduled},
    telemetry, wire,
};

/// What a command's trace goes on from: `traceparent` and `tracestate` of what caused it.
type Trace = Vec<(&'static str, String)>;

/// How soon it is asked again whether a command has been sent, at least and at most.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// A hook has caught an error of the database and said nothing.
const SWALLOWED: &str =
    "a hook swallowed an error of the database: its transaction cannot be committed";

/// What could not be decided about a saga, and why.
pub(crate) struct Failed {
    /// For a person: `the deadline could not be decided`.
    pub(crate) what: &'static str,
    /// Of which step, with its phase and numbers; empty where it is the whole saga's.
    pub(crate) of: String,
    pub(crate) error: Error,
}

impl Failed {
    pub(crate) fn new(what: &'static str, error: impl Into<Error>) -> Self {
        Self {
            what,
            of: String::new(),
            error: error.into(),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}: {}", self.what, self.of, self.error)
    }
}

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
    /// Whether it waited for the relay.
    was_put_off: bool,
    /// Whether it does.
    put_off: bool,
    now: DateTime<Utc>,
    /// The number its row has.
    written_seq: i64,
    /// How many of its events are written, though they stand here.
    recorded: usize,
    /// Whether its timers were looked at.
    looked: bool,
    /// Whether it was parked as a whole.
    stopped: bool,
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
                put_off,
                now,
            } = loaded;
            let taking = Taking {
                agenda,
                look_at,
                was_put_off: put_off,
                put_off: false,
                now,
                written_seq: instance.seq,
                recorded: 0,
                looked: false,
                stopped: instance.stopped,
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
            was_put_off: false,
            put_off: false,
            now,
            written_seq: instance.seq,
            recorded: decision.events.len(),
            looked: false,
            stopped: false,
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
    ///
    /// # Errors
    ///
    /// [`Failed`], as [`Turns::fire`].
    pub(crate) fn take_answer(&mut self, reply: Reply, from: &Origin) -> Result<&Instance, Failed> {
        let Operation {
            saga_id,
            step,
            phase,
            round,
        } = reply.operation.clone();
        let outcome = reply.answer.outcome();
        let taken = self.take_from(saga_id, &Input::Reply(reply), Some(from));
        taken.map_err(|error| Failed {
            what: "cannot decide about the answer",
            of: format!(" `{outcome}` to the {phase} of {step}, round {round}"),
            error,
        })
    }

    fn take_from(
        &mut self,
        id: Uuid,
        input: &Input,
        answer: Option<&Origin>,
    ) -> Result<&Instance, Error> {
        let taking = self.sagas.get_mut(&id).ok_or(Error::UnknownSaga(id))?;
        let plan = &self.coordinator.pinned(&taking.instance)?.plan;
        let decided = outbox::caught_in(|| decide::step(plan, taking.instance.clone(), input))?;
        can_be_stored(plan, &decided)?;
        if matches!(input, Input::Reply(_)) && decided.1.events.is_empty() {
            telemetry::reply_unrecorded();
        }
        taking.go_on(decided, answer);
        Ok(&taking.instance)
    }

    /// The attempts of these sagas whose answers are overdue, with the topics of their commands.
    pub(crate) fn overdue(&self) -> Vec<(Uuid, Attempt, &'c str)> {
        let overdue = self.sagas.iter().flat_map(|(&id, taking)| {
            let plan = self.coordinator.pinned(&taking.instance).ok();
            let due = taking.agenda.due_attempts(taking.now).into_iter();
            due.filter_map(move |due| {
                let awaited = taking.instance.step(&due.step)?.waiting?;
                let sent = matches!(awaited, WaitingFor::Reply | WaitingFor::Probe);
                let step = plan?.plan.step(&due.step).ok().filter(|_| sent)?;
                Some((id, due, step.topic.as_str()))
            })
        });
        overdue.collect()
    }

    /// An attempt is overdue whose command has not been sent, or was sent while its timer was put off:
    /// nobody has ignored it yet. It costs nothing, and has its whole time once more.
    pub(crate) fn put_off(&mut self, id: Uuid, due: &Attempt, unsent: bool) {
        let Some(taking) = self.sagas.get_mut(&id) else {
            return;
        };
        if !unsent && !taking.was_put_off {
            return;
        }
        let plan = self.coordinator.pinned(&taking.instance);
        let step = plan.and_then(|defined| defined.plan.step(&due.step));
        let Ok(step) = step else {
            return;
        };
        taking.put_off |= unsent;
        taking.looked = true;
        let after = step.timeout_of(due.phase);
        let after = if unsent {
            after.min(LONGEST_LOOK).max(SHORTEST_LOOK)
        } else {
            after
        };
        let timer = Timer::Attempt(due.clone());
        taking.agenda.set(&timer, taking.now, after);
    }

    /// Decides about every timer of a saga that is due, the longest overdue first. How many there
    /// were. `trace`: the `traceparent` it was last on, on which it goes on.
    ///
    /// # Errors
    ///
    /// [`Failed`] at the first timer that cannot be decided. Nothing of the saga may be written then,
    /// see [`Turns::forget`].
    pub(crate) fn fire(&mut self, id: Uuid, trace: Option<&String>) -> Result<usize, Failed> {
        let Some(taking) = self.sagas.get_mut(&id) else {
            return Ok(0);
        };
        taking.looked = true;
        let due = taking.agenda.take_due(taking.now);
        let fired = due.len();
        for timer in due {
            let (step, of) = match &timer {
                Timer::Attempt(Attempt {
                    step,
                    phase,
                    round,
                    attempt,
                }) => {
                    let of = format!(" of the {phase} of {step}, round {round}, attempt {attempt}");
                    (step.clone(), of)
                }
                Timer::Deadline => (String::new(), " of its deadline".to_owned()),
                Timer::Lock { resource } => (String::new(), format!(" of the grant of {resource}")),
            };
            let span = info_span!("saga.timer", saga_id = %id, step);
            let trace = match trace {
                Some(traceparent) => outbox::resume(&span, traceparent),
                None => outbox::carry(&span),
            };
            self.because_of(id, &span, trace);
            let _inside = span.enter();
            let taken = self.take(id, &Input::Timer(timer));
            let what = "cannot decide about the timer";
            taken.map_err(|error| Failed { what, of, error })?;
        }
        Ok(fired)
    }

    /// Nothing that was decided about this saga is written; its row stays locked.
    pub(crate) fn forget(&mut self, id: Uuid) {
        self.sagas.remove(&id);
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
        let decide = || decide::advance_under(&from.plan, &to.plan, instance, intervention);
        let decided = outbox::caught_in(decide)?;
        can_be_stored(&to.plan, &decided)?;
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
    /// The database's, the outbox's, a hook's. The transaction must be rolled back then; whose fault
    /// it was is known where there was only one saga.
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
        let begun = begun(tx, &decided).await?;
        let messages = messages(coordinator, &decided, &begun);
        outbox::enqueue_all(tx, &messages).await?;
        let mut hooked = false;
        for saga in &decided {
            telemetry::decided(&saga.instance, &saga.events);
            let Defined { hooks, .. } = coordinator.pinned(&saga.instance)?;
            let running = run_hooks(tx, hooks, saga);
            hooked |= running.instrument(saga.span.clone()).await?;
        }
        if hooked {
            let alive = table::must_be_alive(tx).await.map_err(outbox::Error::from);
            alive.map_err(|error| match error.fault() {
                Some(Fault::Item) => outbox::Error::permanent(SWALLOWED),
                _ => error,
            })?;
        }
        let resumed = sagas.iter().filter(|s| s.stopped && !s.instance.stopped);
        let resumed: Vec<Uuid> = resumed.map(|saga| saga.instance.id).collect();
        if !resumed.is_empty() {
            kept::release(tx, &resumed).await?;
        }
        let kept: Vec<_> = decided
            .iter()
            .filter_map(|saga| saga.kept_claims())
            .collect();
        locks::keep_only(tx, &kept).await?;
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
        let ignored = |event: &Event| matches!(event, Event::Ignored { answer: None, .. });
        !self.looked && self.events.iter().all(ignored)
    }

    /// Which resources it goes on to claim, if what was decided makes it give some up.
    fn kept_claims(&self) -> Option<(Uuid, Vec<&str>)> {
        let gives_up = self.events.iter().any(Event::gives_up_claims);
        let kept = self
            .instance
            .locks
            .iter()
            .map(|lock| lock.resource.as_str());
        gives_up.then(|| (self.instance.id, kept.collect()))
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
        instance: &saga.instance,
        agenda: &saga.agenda,
        look_at: saga.agenda.look_at(saga.look_at, saga.now),
        put_off: saga.put_off,
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
    let retagged = |event: &Event| matches!(event, Event::Migrated { tags: Some(_), .. });
    for saga in decided
        .iter()
        .filter(|saga| saga.events.iter().any(retagged))
    {
        table::set_tags(tx, &saga.instance).await?;
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

/// When the actions that are sent again, or asked about, were first sent. What is sent for the first
/// time costs no look.
async fn begun(tx: &mut PgTransaction<'_>, decided: &[&Taking]) -> Result<Begun, Error> {
    let again = decided.iter().filter(|saga| {
        let is_again = |effect: &Effect| match effect {
            Effect::Send(command) => {
                command.operation.phase == Phase::Action && (command.probe || command.attempt > 1)
            }
            _ => false,
        };
        // A person has it sent again with its attempts counted anew.
        let by_hand = |event: &Event| matches!(event, Event::Intervened { .. });
        saga.effects.iter().any(is_again) || saga.events.iter().any(by_hand)
    });
    let again: Vec<Uuid> = again.map(|saga| saga.instance.id).collect();
    match again.is_empty() {
        true => Ok(Begun::new()),
        false => Ok(table::first_sendings(tx, &again).await?),
    }
}

fn messages(coordinator: &Coordinator, decided: &[&Taking], begun: &Begun) -> Vec<Message> {
    let messages = decided.iter().flat_map(|saga| {
        saga.effects.iter().filter_map(|effect| match effect {
            Effect::Send(command) => Some(message(coordinator, saga, command, begun)),
            _ => None,
        })
    });
    messages.collect()
}

fn message(coordinator: &Coordinator, saga: &Taking, command: &Command, begun: &Begun) -> Message {
    let begun_at = match command.operation.phase {
        Phase::Action => begun.get(&command.operation).copied().or(Some(saga.now)),
        // The saga's own age will do: nothing is carried out by it that was not begun before.
        Phase::Compensation => None,
    };
    let headers = wire::Command {
        operation: command.operation.clone(),
        op_key: command.operation.key(),
        definition: saga.instance.definition.clone(),
        attempt: command.attempt,
        reply_topic: coordinator.reply_topic().to_owned(),
        expires_at: saga.now + wire::COMMAND_EXPIRY,
        begun_at,
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

/// Whether there was one to run.
async fn run_hooks(
    tx: &mut PgTransaction<'_>,
    hooks: &Hooks,
    saga: &Taking,
) -> Result<bool, Error> {
    let instance = &saga.instance;
    let mut ran = false;
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
                    let hook = outbox::caught(async { hook(tx, settled).await });
                    hook.await.map_err(|error| of_hook("on_step", error))?;
                    ran = true;
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
                    let hook = outbox::caught(async { hook(tx, parked).await });
                    hook.await.map_err(|error| of_hook("on_parked", error))?;
                    ran = true;
                }
            }
            Effect::Ended(status) => {
                let (name, hook) = match status {
                    Status::Completed => ("on_completed", &hooks.on_completed),
                    Status::Compensated => ("on_compensated", &hooks.on_compensated),
                    Status::Abandoned => ("on_abandoned", &hooks.on_abandoned),
                    _ => ("", &None),
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
                    let hook = outbox::caught(async { hook(tx, ended).await });
                    hook.await.map_err(|error| of_hook(name, error))?;
                    ran = true;
                }
            }
            _ => {}
        }
    }
    Ok(ran)
}

/// Says which hook it was, of what will be shown for the saga's own fault.
fn of_hook(name: &str, error: outbox::Error) -> outbox::Error {
    match error.is_transient() {
        true => error,
        false => outbox::Error::permanent(format!("the hook {name}: {error}")),
    }
}

/// What PostgreSQL would refuse without saying where it is.
fn can_be_stored(plan: &Plan, (instance, decision): &(Instance, Decision)) -> Result<(), Error> {
    let changes_data = |event: &Event| {
        matches!(
            event,
            Event::ActionSucceeded { .. } | Event::Migrated { .. }
        )
    };
    let changed = decision.events.iter().any(changes_data);
    match changed && table::has_nul(&instance.data) {
        true => {
            Err(plan.unreadable("a NUL character (\\u0000), which cannot be stored".to_owned()))
        }
        false => Ok(()),
    }
}
