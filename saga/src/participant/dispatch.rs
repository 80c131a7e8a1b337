//! From a command's kind to the one that carries it out, and from its answer to a reply.

use std::collections::HashMap;

use futures::future::BoxFuture;
use outbox::{Handler, Payload, Received};
use sqlx::{PgPool, PgTransaction};
use tracing::{Instrument, debug, info_span};

use crate::{
    Error,
    operation::Phase,
    participant::{
        action::{Action, Answer, Compensation, Context},
        answer::{Passed, encode},
        barrier::{self, Act, Undo},
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

/// A service that carries out commands of sagas: an [`outbox::Handler`] for the consumer of its
/// command topic, whose batches hold at most [`MAX_BATCH`] messages.
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

    async fn command(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Received,
    ) -> Result<(), outbox::Error> {
        let command = wire::Command::parse(message)?;
        let phase = command.operation.phase;
        let kind = message.kind.as_str();
        let unknown = || Error::UnknownCommand {
            participant: self.name.clone(),
            phase,
            kind: kind.to_owned(),
        };
        let passed = match phase {
            Phase::Action if command.probe => {
                let known = self.actions.contains_key(kind) || self.externals.contains_key(kind);
                known.then_some(()).ok_or_else(unknown)?;
                barrier::probe(tx, &command, &self.externals).await?
            }
            Phase::Action => match self.externals.get(kind) {
                Some(outside) => running::action(tx, &command, message, outside.as_ref()).await?,
                None => {
                    let business = self.actions.get(kind).ok_or_else(unknown)?;
                    barrier::action(tx, &command, message, business.as_ref()).await?
                }
            },
            Phase::Compensation if command.probe => return Err(not_asked_about().into()),
            Phase::Compensation => {
                let business = self.compensations.get(kind).ok_or_else(unknown)?;
                let business = business.as_ref();
                barrier::compensation(tx, &command, message, business, &self.externals).await?
            }
        };
        let (outcome, reply) = match passed {
            Passed::Answered(reply) => (reply.outcome.as_str(), reply),
            Passed::Repeated(reply) => ("repeated", reply),
            Passed::Silent => {
                telemetry::barrier(&self.name, phase, "silent");
                return Ok(());
            }
        };
        telemetry::barrier(&self.name, phase, outcome);
        debug!(outcome, "command answered");
        let reply = command.reply(reply.outcome, &reply.kind, reply.payload);
        outbox::enqueue(tx, &reply).await?;
        Ok(())
    }
}

impl Handler for Participant {
    async fn handle(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Received,
    ) -> Result<(), outbox::Error> {
        let step = message.header(wire::STEP).unwrap_or_default();
        let participant = self.name.as_str();
        let span = info_span!("saga.command", participant, saga_id = %message.key, step);
        self.command(tx, message).instrument(span).await
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
