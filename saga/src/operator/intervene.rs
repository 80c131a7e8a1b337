//! One intervention in one saga.

use outbox::audit::{self, Author};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgTransaction;
use tracing::{Instrument, info, info_span};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    Error,
    coordinator::{Coordinator, Turns},
    decide::Effect,
    event::{Event, Input},
    instance::{Instance, Status},
    intervention::{OperationName, What},
    operation::Phase,
    operator::{
        request::Request,
        table::{self, Stored},
    },
    table as sagas,
};

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was carried out, in the caller's transaction.
    Done(Intervened),
    /// It was carried out before, under the same key; this is what was answered then.
    Repeated(Intervened),
    /// It would be carried out like this. Nothing was written.
    DryRun(Intervened),
}

impl Outcome {
    /// What happened, or would.
    #[must_use]
    pub fn intervened(&self) -> &Intervened {
        let (Self::Done(it) | Self::Repeated(it) | Self::DryRun(it)) = self;
        it
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Repeated(_) => "repeated",
            Self::DryRun(_) => "dry_run",
        }
    }
}

/// What followed from an intervention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Intervened {
    /// The saga.
    pub saga_id: Uuid,
    /// The number of its last event afterwards.
    pub seq: i64,
    /// Where it stood then.
    pub status: Status,
    /// Whether it was paused then.
    pub paused: bool,
    /// What was recorded.
    pub events: Vec<Event>,
    /// What was sent, without the payloads.
    pub commands: Vec<Commanded>,
}

/// A command that followed from an intervention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Commanded {
    /// The step.
    pub step: String,
    /// Forwards or back.
    pub phase: Phase,
    /// The round.
    pub round: i32,
    /// Which sending of the same operation.
    pub attempt: i32,
    /// The operation's correlation key.
    pub op_key: Uuid,
    /// Where it goes.
    pub topic: String,
    /// The payload's kind.
    pub kind: String,
    /// Not "do it" but "what became of it?".
    pub probe: bool,
}

/// Carries out what a person wants of a saga, in the caller's READ COMMITTED transaction; or says
/// what would happen, if it is a dry run. The saga's row stays locked until the transaction ends.
///
/// # Errors
///
/// [`Error::Request`], [`Error::UnknownSaga`], [`Error::KeyReused`], [`Error::Stale`],
/// [`Error::NotAllowed`], [`Error::UnknownDefinition`] where this replica lacks the saga's version:
/// nothing is written then, and the transaction may go on. Any other: it must be rolled back.
pub async fn intervene(
    tx: &mut PgTransaction<'_>,
    coordinator: &Coordinator,
    saga_id: Uuid,
    request: &Request,
) -> Result<Outcome, Error> {
    intervene_as(tx, coordinator, saga_id, request, None).await
}

/// As [`intervene`], for somebody who was asked who he is: his role is recorded too.
///
/// # Errors
///
/// As [`intervene`].
pub async fn intervene_as(
    tx: &mut PgTransaction<'_>,
    coordinator: &Coordinator,
    saga_id: Uuid,
    request: &Request,
    role: Option<&str>,
) -> Result<Outcome, Error> {
    let operation = request.what.name();
    let span = info_span!("saga.intervention", %saga_id, %operation, dry_run = request.dry_run);
    let intervening = intervene_with(tx, coordinator, saga_id, request);
    let outcome = intervening.instrument(span).await?;
    if let Outcome::Done(done) = &outcome {
        let author = Author::new(&request.actor)
            .because(&request.reason)
            .with_role(role);
        let action = format!("saga.{}", request.what.name());
        // Not the reply of a step that was completed by hand: that is payload.
        let details = json!({
            "step": request.what.step(), "seq": done.seq, "status": done.status,
            "idempotency_key": request.idempotency_key,
        });
        audit::record(tx, &author, &action, &format!("sagas/{saga_id}"), details).await?;
    }
    Ok(outcome)
}

/// Whether nobody else is at a request for this saga under this key. Then it is the caller's until
/// the transaction ends; if not, the same request should come again later. Without asking,
/// [`intervene`] waits for whoever is at it.
///
/// # Errors
///
/// The database's.
pub async fn claim_key(
    tx: &mut PgTransaction<'_>,
    saga_id: Uuid,
    idempotency_key: &str,
) -> Result<bool, Error> {
    table::claim_key(tx, saga_id, idempotency_key).await
}

async fn intervene_with(
    tx: &mut PgTransaction<'_>,
    coordinator: &Coordinator,
    saga_id: Uuid,
    request: &Request,
) -> Result<Outcome, Error> {
    request.check()?;
    let mut loaded = sagas::load_for_update(tx, &[saga_id]).await?;
    let loaded = loaded.pop().ok_or(Error::UnknownSaga(saga_id))?.loaded?;
    // Under the saga's lock, so that of two at once the second sees what the first has written.
    if !request.dry_run
        && let Some(stored) = table::find(tx, saga_id, &request.idempotency_key).await?
    {
        return repeated(stored, request);
    }
    let present = loaded.instance.seq;
    if let Some(expected) = request.expected_seq.filter(|expected| *expected != present) {
        return Err(Error::Stale {
            saga_id,
            expected,
            present,
        });
    }
    let mut turns = Turns::of(coordinator, vec![loaded]);
    decide(&mut turns, coordinator, saga_id, request)?;
    let intervened = intervened(&turns, saga_id)?;
    if request.dry_run {
        return Ok(Outcome::DryRun(intervened));
    }
    turns.write(tx).await?;
    table::insert(tx, request, &intervened).await?;
    info!(seq = intervened.seq, status = %intervened.status, "a person intervened");
    Ok(Outcome::Done(intervened))
}

fn decide(
    turns: &mut Turns<'_>,
    coordinator: &Coordinator,
    saga_id: Uuid,
    request: &Request,
) -> Result<(), Error> {
    let intervention = request.intervention();
    let What::Migrate { to } = request.what else {
        turns.take(saga_id, &Input::Intervention(intervention))?;
        return Ok(());
    };
    // An ended saga is refused for that, whatever version was asked for.
    let instance = turns.instance(saga_id)?;
    let missing = coordinator.version(&instance.definition, to).is_err();
    if missing && !instance.status.is_terminal() {
        return Err(Error::NotAllowed {
            operation: OperationName::Migrate,
            reason: format!("there is no version {to} of {} here", instance.definition),
        });
    }
    match missing {
        true => ended(instance),
        false => turns.migrate(saga_id, to, &intervention).map(drop),
    }
}

fn ended(instance: &Instance) -> Result<(), Error> {
    Err(Error::NotAllowed {
        operation: OperationName::Migrate,
        reason: format!("the saga is {} already", instance.status),
    })
}

fn intervened(turns: &Turns<'_>, saga_id: Uuid) -> Result<Intervened, Error> {
    let instance = turns.instance(saga_id)?;
    let (events, effects) = turns.decided(saga_id);
    let commands = effects.iter().filter_map(|effect| match effect {
        Effect::Send(command) => Some(Commanded {
            step: command.operation.step.clone(),
            phase: command.operation.phase,
            round: command.operation.round,
            attempt: command.attempt,
            op_key: command.operation.key(),
            topic: command.topic.clone(),
            kind: command.kind.to_owned(),
            probe: command.probe,
        }),
        _ => None,
    });
    Ok(Intervened {
        saga_id,
        seq: instance.seq,
        status: instance.status,
        paused: instance.paused,
        events: events.to_vec(),
        commands: commands.collect(),
    })
}

fn repeated(stored: Stored, request: &Request) -> Result<Outcome, Error> {
    match stored.request_hash == request.hash()? {
        true => Ok(Outcome::Repeated(stored.intervened)),
        false => Err(Error::KeyReused),
    }
}
