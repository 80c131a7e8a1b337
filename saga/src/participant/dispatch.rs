//! From a command's kind to the one that carries it out, and from its answer to a reply.

use std::{collections::HashMap, sync::Arc};

use futures::future::BoxFuture;
use outbox::{
    BatchHandler, Batched, Consumer, Payload, Received,
    broker::{Broker, OnPoison},
    incoming,
};
use sqlx::{PgPool, PgTransaction};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, field, info_span};

use crate::{
    Error,
    operation::{Operation, Phase},
    participant::{
        action::{Action, Answer, Compensation, Context},
        answer::{Passed, decode, encode},
        barrier::{self, Act, By, Undo, payload},
        batch::{self, Answers, Asked},
        external::{External, ExternalCompensation},
        outside::{self, Externals, Limits, Outside},
        prepare::{Commands, Prepare, Prepared},
        runner::{INSIDE, Runner, table as waiting},
        table::Stored,
    },
    telemetry,
    wire::{self, Outcome},
};

/// The largest batch that [`Participant::consumer`] takes at once, see [`Participant`].
pub const MAX_BATCH: usize = 50;

/// A service that carries out commands of sagas. [`Participant::consumer`] makes the consumer of its
/// command topic.
#[derive(Clone)]
pub struct Participant {
    name: String,
    actions: HashMap<&'static str, Arc<dyn Act>>,
    externals: Externals,
    compensations: HashMap<&'static str, Arc<dyn Undo>>,
    prepared: Option<Arc<dyn Prepared>>,
    /// There is something for the runner.
    hint: Arc<Notify>,
}

impl Participant {
    /// A participant that can do nothing yet. The name stands in metrics and errors, and is the
    /// consumer's.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            actions: HashMap::new(),
            externals: Externals::new(),
            compensations: HashMap::new(),
            prepared: None,
            hint: Arc::new(Notify::new()),
        }
    }

    /// Can do this. The last one registered for a kind counts.
    #[must_use]
    pub fn action<A: Action>(mut self, action: A) -> Self {
        let kind = <A::Command as Payload>::KIND;
        self.externals.remove(kind);
        self.actions.insert(kind, Arc::new(Typed(action)));
        self
    }

    /// Can do this, outside of its database. The last one registered for a kind counts.
    #[must_use]
    pub fn external<E: External>(mut self, external: E) -> Self {
        let kind = <E::Command as Payload>::KIND;
        self.actions.remove(kind);
        self.externals
            .insert(kind, Arc::new(outside::Typed(external)));
        self
    }

    /// Can undo this. The last one registered for a kind counts.
    #[must_use]
    pub fn compensation<C: Compensation>(mut self, compensation: C) -> Self {
        let kind = <C::Command as Payload>::KIND;
        self.compensations
            .insert(kind, Arc::new(Typed(compensation)));
        self
    }

    /// Can undo this, outside of its database too. The last one registered for a kind counts.
    #[must_use]
    pub fn external_compensation<C: ExternalCompensation>(mut self, compensation: C) -> Self {
        let kind = <C::Command as Payload>::KIND;
        self.compensations
            .insert(kind, Arc::new(outside::Typed(compensation)));
        self
    }

    /// Does this once in each transaction, before the first command of its batch is carried out. The
    /// last one registered counts.
    #[must_use]
    pub fn prepare<P: Prepare>(mut self, prepare: P) -> Self {
        self.prepared = Some(Arc::new(prepare));
        self
    }

    /// The consumer of these command topics, under the participant's name, with its
    /// [`Runner`] beside it. What commands need is set whatever `settings` say: one that is refused
    /// holds up no other of its saga (it may be the compensation that is needed), and a batch has at
    /// most [`MAX_BATCH`].
    #[must_use]
    pub fn consumer(
        self,
        topics: &[&str],
        pool: PgPool,
        broker: Arc<dyn Broker>,
        settings: incoming::Config,
    ) -> Consumer<Batched<Self>> {
        let settings = incoming::Config {
            batch: settings.batch.min(MAX_BATCH),
            on_poison: OnPoison::SkipMessage,
            ..settings
        };
        let name = self.name.clone();
        Consumer::new(&name, topics, pool, broker, Batched(self)).with(settings)
    }

    /// What works at the operations that need something outside of the database. A consumer has one
    /// already: this is for tests, and for whoever feeds the participant without a consumer.
    #[must_use]
    pub fn runner(&self, pool: PgPool) -> Runner {
        Runner::new(self.clone(), pool, Arc::clone(&self.hint))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether there can be anything for a runner.
    pub(crate) fn asks_outside(&self) -> bool {
        let mut compensations = self.compensations.values();
        !self.externals.is_empty() || compensations.any(|undo| undo.limits().is_some())
    }

    /// The kinds of commands that a runner may have to bring to their answers.
    pub(crate) fn limits(&self) -> impl Iterator<Item = (&str, Limits)> {
        let externals = self.externals.iter();
        let externals = externals.map(|(kind, outside)| (*kind, outside.limits()));
        let compensations = self.compensations.iter();
        let compensations =
            compensations.map(|(kind, undo)| (*kind, undo.limits().unwrap_or(INSIDE)));
        externals.chain(compensations)
    }

    pub(crate) fn outside(&self, kind: &str) -> Result<&dyn Outside, Error> {
        let outside = self.externals.get(kind);
        outside
            .map(AsRef::as_ref)
            .ok_or_else(|| self.unknown(Phase::Action, kind))
    }

    pub(crate) fn undo(&self, kind: &str) -> Result<&dyn Undo, Error> {
        let undo = self.compensations.get(kind);
        undo.map(AsRef::as_ref)
            .ok_or_else(|| self.unknown(Phase::Compensation, kind))
    }

    /// Carries out a batch: what can be done together, then the rest one after another.
    async fn batch(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), outbox::Error> {
        let commands = batch.iter().map(wire::Command::parse);
        let commands: Vec<wire::Command> = commands.collect::<Result<_, _>>()?;
        if let Some(prepared) = &self.prepared {
            outbox::caught(prepared.prepare(tx, Commands(batch))).await?;
        }
        let spans: Vec<_> = commands.iter().map(|command| self.span(command)).collect();
        let traces: Vec<_> = spans
            .iter()
            .zip(batch)
            .map(|(span, message)| outbox::follow(span, message))
            .collect();
        let mut answers = self.together(tx, batch, &commands, &spans).await?;
        let mut replies = Vec::with_capacity(batch.len());
        for place in in_one_order(&commands) {
            let (command, message) = (&commands[place], &batch[place]);
            let (span, trace) = (&spans[place], &traces[place]);
            // Of two commands of one operation the first got the answer, the second finds it.
            let passed = match answers
                .remove(&command.operation)
                .filter(|_| !command.probe)
            {
                Some(Some(answer)) => Passed::Answered(answer),
                Some(None) => Passed::Silent,
                None => {
                    let passing = self.command(tx, command, message);
                    passing.instrument(span.clone()).await?
                }
            };
            if let Some(answer) = self.counted(command.operation.phase, passed, span) {
                let reply = command.reply(message, answer.outcome, &answer.kind, answer.payload);
                let reply = trace.iter().fold(reply, |reply, (name, value)| {
                    reply.with_header(*name, value)
                });
                replies.push(reply);
            }
        }
        outbox::enqueue_all(tx, &replies).await
    }

    /// What the database alone is asked for, each operation once.
    async fn together(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
        commands: &[wire::Command],
        spans: &[Span],
    ) -> Result<Answers, outbox::Error> {
        let first = batch::first_of_each(commands.iter());
        let (mut actions, mut compensations) = (Vec::new(), Vec::new());
        for (place, (command, message)) in commands.iter().zip(batch).enumerate() {
            if command.probe || !first.contains(&place) {
                continue;
            }
            let (kind, span) = (message.kind.as_str(), &spans[place]);
            match command.operation.phase {
                Phase::Action => actions.extend(self.actions.get(kind).map(|business| Asked {
                    command,
                    message,
                    business: business.as_ref(),
                    span,
                })),
                // The action may be running outside, and then nothing is stored.
                Phase::Compensation if self.asks_outside() => {}
                Phase::Compensation => {
                    compensations.extend(self.compensations.get(kind).map(|business| Asked {
                        command,
                        message,
                        business: business.as_ref(),
                        span,
                    }));
                }
            }
        }
        let mut answers = Answers::new();
        if !actions.is_empty() {
            answers.extend(batch::actions(tx, &actions).await?);
        }
        if !compensations.is_empty() {
            answers.extend(batch::compensations(tx, &compensations).await?);
        }
        Ok(answers)
    }

    /// Lets one command through the barrier.
    async fn command(
        &self,
        tx: &mut PgTransaction<'_>,
        command: &wire::Command,
        message: &Received,
    ) -> Result<Passed, outbox::Error> {
        let operation = &command.operation;
        let (phase, kind) = (operation.phase, message.kind.as_str());
        if command.probe {
            self.read(message)?;
        }
        let passed = match phase {
            Phase::Action if command.probe => barrier::probe(tx, command).await?,
            Phase::Action => match self.actions.get(kind) {
                Some(business) => barrier::action(tx, command, message, business.as_ref()).await?,
                None => barrier::external(tx, command, message, self.outside(kind)?).await?,
            },
            Phase::Compensation => {
                let business = self.undo(kind)?;
                barrier::compensation(tx, command, message, business, By::Consumer).await?
            }
        };
        if let Passed::Deferred(begun) = passed {
            if phase == Phase::Compensation {
                waiting::wake_running(tx, &barrier::action_of(operation)).await?;
            }
            waiting::wait(tx, operation, begun, message).await?;
            // Before the commit: the runner looks a few times more.
            self.hint.notify_one();
        }
        Ok(passed)
    }

    /// Reads a command, so far as that can be done without its database: headers, kind, payload.
    fn read(&self, message: &Received) -> Result<wire::Command, outbox::Error> {
        let command = wire::Command::parse(message)?;
        let kind = message.kind.as_str();
        match command.operation.phase {
            Phase::Action => match self.actions.get(kind) {
                _ if command.probe => {
                    let known = self.actions.contains_key(kind);
                    let known = known || self.externals.contains_key(kind);
                    known
                        .then_some(())
                        .ok_or_else(|| self.unknown(Phase::Action, kind))?;
                }
                Some(business) => business.check(message)?,
                None => self.outside(kind)?.check(message)?,
            },
            Phase::Compensation if command.probe => return Err(not_asked_about().into()),
            Phase::Compensation => self.undo(kind)?.check(message)?,
        }
        Ok(command)
    }

    fn unknown(&self, phase: Phase, kind: &str) -> Error {
        Error::UnknownCommand {
            participant: self.name.clone(),
            phase,
            kind: kind.to_owned(),
        }
    }

    /// Counts what came of a command. What is to be answered.
    pub(crate) fn counted(&self, phase: Phase, passed: Passed, span: &Span) -> Option<Stored> {
        let (outcome, answer) = match passed {
            Passed::Answered(answer) => (answer.outcome.as_str(), Some(answer)),
            Passed::Repeated(answer) => ("repeated", Some(answer)),
            Passed::Silent => ("silent", None),
            Passed::Deferred(_) => ("deferred", None),
        };
        telemetry::barrier(&self.name, phase, outcome);
        span.record("outcome", outcome);
        span.in_scope(|| debug!(outcome, "command settled"));
        answer
    }

    pub(crate) fn span(&self, command: &wire::Command) -> Span {
        let operation = &command.operation;
        info_span!(
            "saga.command",
            participant = self.name,
            saga_id = %operation.saga_id,
            step = operation.step,
            phase = operation.phase.as_str(),
            outcome = field::Empty,
        )
    }
}

/// Each saga's steps in one order, whatever order the batch is in, so that two batches cannot wait for
/// each other; what is about one step stays in the batch's order.
fn in_one_order(commands: &[wire::Command]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..commands.len()).collect();
    places.sort_by_key(|place| {
        let Operation {
            saga_id,
            step,
            round,
            ..
        } = &commands[*place].operation;
        (*saga_id, step, *round)
    });
    places
}

impl BatchHandler for Participant {
    fn check(&self, message: &Received) -> Result<(), outbox::Error> {
        self.read(message).map(drop)
    }

    async fn handle_batch(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), outbox::Error> {
        self.batch(tx, batch).await
    }

    async fn beside(&self, pool: PgPool, shutdown: CancellationToken) {
        self.runner(pool).run(shutdown).await;
    }
}

/// Generic at the edge, plain inside.
struct Typed<T>(T);

impl<A: Action> Act for Typed<A> {
    fn check(&self, message: &Received) -> Result<(), outbox::Error> {
        decode::<A::Command>(payload(message)?).map(drop)
    }

    fn act<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<Answer<Stored>, outbox::Error>> {
        Box::pin(async move {
            let command = message.decode::<A::Command>()?;
            Ok(match self.0.execute(tx, context, command).await? {
                Answer::Done(reply) => Answer::Done(encode(Outcome::Succeeded, &reply)?),
                Answer::Refused(refusal) => Answer::Refused(refusal),
                Answer::Silent => Answer::Silent,
            })
        })
    }
}

impl<C: Compensation> Undo for Typed<C> {
    fn check(&self, message: &Received) -> Result<(), outbox::Error> {
        decode::<C::Command>(payload(message)?).map(drop)
    }

    fn limits(&self) -> Option<Limits> {
        None
    }

    fn admit<'a>(
        &'a self,
        _: &'a mut PgTransaction<'_>,
        _: &'a Context,
        _: &'a Received,
    ) -> BoxFuture<'a, Result<(), outbox::Error>> {
        Box::pin(async { Ok(()) })
    }

    fn call<'a>(
        &'a self,
        _: &'a Context,
        _: &'a Received,
    ) -> BoxFuture<'a, Result<(), outbox::Error>> {
        Box::pin(async { Ok(()) })
    }

    fn undo<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<(), outbox::Error>> {
        Box::pin(async move {
            let command = message.decode::<C::Command>()?;
            self.0.compensate(tx, context, command).await
        })
    }
}

fn not_asked_about() -> Error {
    Error::Header {
        name: wire::PROBE,
        reason: "a compensation is not asked about: sending it again is safe".to_owned(),
    }
}
