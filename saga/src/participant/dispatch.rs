//! From a command's kind to the one that carries it out, and from its answer to a reply.

use std::collections::HashMap;

use futures::future::BoxFuture;
use outbox::{BatchHandler, Payload, Received};
use sqlx::{PgPool, PgTransaction};
use tracing::{Instrument, Span, debug, field, info_span};

use crate::{
    Error,
    operation::Phase,
    participant::{
        action::{Action, Answer, Compensation, Context},
        answer::{Passed, encode},
        barrier::{self, Act, Undo},
        batch::{self, Answers, Asked},
        external::External,
        outside::{self, Externals},
        running,
        table::Stored,
    },
    telemetry,
    wire::{self, Outcome},
};

/// The largest batch the consumer of a command topic may be given, see [`Participant`].
pub const MAX_BATCH: usize = 50;

/// A service that carries out commands of sagas: an [`outbox::BatchHandler`] for the consumer of
/// its command topic (`Consumer::new(…, Batched(participant))`), whose batches hold at most
/// [`MAX_BATCH`] messages.
pub struct Participant {
    name: String,
    actions: HashMap<&'static str, Box<dyn Act>>,
    externals: Externals,
    compensations: HashMap<&'static str, Box<dyn Undo>>,
}

impl Participant {
    /// A participant that can do nothing yet. The name stands in metrics and errors.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            actions: HashMap::new(),
            externals: Externals::new(),
            compensations: HashMap::new(),
        }
    }

    /// Can do this. The last one registered for a kind counts.
    #[must_use]
    pub fn action<A: Action>(mut self, action: A) -> Self {
        let kind = <A::Command as Payload>::KIND;
        self.externals.remove(kind);
        self.actions.insert(kind, Box::new(Typed(action)));
        self
    }

    /// Can do this, outside of its database. Intents are committed on `intents`: a pool of its own
    /// on the participant's database, of a few connections, and not the consumer's pool. The last
    /// one registered for a kind counts.
    #[must_use]
    pub fn external<E: External>(mut self, external: E, intents: PgPool) -> Self {
        let kind = <E::Command as Payload>::KIND;
        self.actions.remove(kind);
        let external = outside::Typed { external, intents };
        self.externals.insert(kind, Box::new(external));
        self
    }

    /// Can undo this. The last one registered for a kind counts.
    #[must_use]
    pub fn compensation<C: Compensation>(mut self, compensation: C) -> Self {
        let kind = <C::Command as Payload>::KIND;
        self.compensations
            .insert(kind, Box::new(Typed(compensation)));
        self
    }

    /// Carries out a batch: what can be done together, then the rest one after another.
    async fn batch(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), outbox::Error> {
        let commands = batch.iter().map(wire::Command::parse);
        let commands: Vec<wire::Command> = commands.collect::<Result<_, _>>()?;
        let spans: Vec<_> = commands.iter().map(|command| self.span(command)).collect();
        let traces: Vec<_> = spans
            .iter()
            .zip(batch)
            .map(|(span, message)| outbox::follow(span, message))
            .collect();
        let mut answers = self.together(tx, batch, &commands, &spans).await?;
        let mut replies = Vec::with_capacity(batch.len());
        for (((command, message), span), trace) in commands.iter().zip(batch).zip(spans).zip(traces)
        {
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
            if let Some(answer) = self.counted(command.operation.phase, passed, &span) {
                let reply = command.reply(message, answer.outcome, &answer.kind, answer.payload);
                let reply = trace
                    .into_iter()
                    .fold(reply, |reply, (name, value)| reply.with_header(name, value));
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
                Phase::Compensation if !self.externals.is_empty() => {}
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
        let phase = command.operation.phase;
        let kind = message.kind.as_str();
        let unknown = || Error::UnknownCommand {
            participant: self.name.clone(),
            phase,
            kind: kind.to_owned(),
        };
        match phase {
            Phase::Action if command.probe => {
                let known = self.actions.contains_key(kind) || self.externals.contains_key(kind);
                known.then_some(()).ok_or_else(unknown)?;
                barrier::probe(tx, command, &self.externals).await
            }
            Phase::Action => match self.externals.get(kind) {
                Some(outside) => running::action(tx, command, message, outside.as_ref()).await,
                None => {
                    let business = self.actions.get(kind).ok_or_else(unknown)?;
                    barrier::action(tx, command, message, business.as_ref()).await
                }
            },
            Phase::Compensation if command.probe => Err(not_asked_about().into()),
            Phase::Compensation => {
                let business = self.compensations.get(kind).ok_or_else(unknown)?;
                let business = business.as_ref();
                barrier::compensation(tx, command, message, business, &self.externals).await
            }
        }
    }

    /// Counts what came of a command. What is to be answered.
    fn counted(&self, phase: Phase, passed: Passed, span: &Span) -> Option<Stored> {
        let (outcome, answer) = match passed {
            Passed::Answered(answer) => (answer.outcome.as_str(), Some(answer)),
            Passed::Repeated(answer) => ("repeated", Some(answer)),
            Passed::Silent => ("silent", None),
        };
        telemetry::barrier(&self.name, phase, outcome);
        span.record("outcome", outcome);
        span.in_scope(|| debug!(outcome, "command settled"));
        answer
    }

    fn span(&self, command: &wire::Command) -> Span {
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

impl BatchHandler for Participant {
    async fn handle_batch(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), outbox::Error> {
        self.batch(tx, batch).await
    }
}

/// Generic at the edge, plain inside.
struct Typed<T>(T);

impl<A: Action> Act for Typed<A> {
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
