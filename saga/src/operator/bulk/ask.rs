//! Asking for a bulk operation, looking first, and stopping it.

use outbox::audit::{self, Author};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgPool, PgTransaction};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    Coordinator, Error,
    intervention::What,
    operator::{
        Request, Selection,
        bulk::{
            look::Bulk,
            table::{self, Inserted},
        },
        intervene,
        request::{check_author, check_key, check_what, hash, wrong},
    },
    table as sagas,
};

/// The most sagas of one bulk operation. More are several, each with a narrower selection.
const MOST: i64 = 100_000;
/// The highest throttle: the loop takes one saga after another.
const FASTEST: i32 = 1000;
/// Of how many sagas a dry run says what would become of them.
const SAMPLE: i64 = 20;

/// One intervention for many sagas, as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkRequest {
    /// What is to happen to each.
    pub what: What,
    /// To which. Sagas that have ended are left out.
    pub selection: Selection,
    /// Who wants it: 1 to 200 bytes.
    pub actor: String,
    /// Why, in a sentence: 1 to 2,000 bytes.
    pub reason: String,
    /// How many sagas a second at most, 1 to 1,000.
    pub per_second: i32,
    /// Intervene in a saga even if it has moved on since it was listed.
    pub allow_changed: bool,
    /// How many sagas the person saw; with another number nothing is done.
    pub expected_count: Option<i64>,
    /// As a [`Request`]'s; of one actor.
    pub idempotency_key: String,
}

/// What became of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// It is there, and begins.
    First(Bulk),
    /// It was asked for before, under the same key; this is how it stands.
    Again(Bulk),
}

/// What a bulk operation would do.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = BulkExpected)]
pub struct Expected {
    /// To how many sagas.
    pub count: i64,
    /// What would become of the oldest of them now.
    pub sample: Vec<Prospect>,
}

/// What would become of one saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BulkProspect)]
pub struct Prospect {
    /// The saga.
    pub saga_id: Uuid,
    /// Whether it would be done.
    pub allowed: bool,
    /// Why not; none if it would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

impl BulkRequest {
    fn check(&self) -> Result<(), Error> {
        check_author(&self.actor, &self.reason)?;
        check_what(&self.what)?;
        if !(1..=FASTEST).contains(&self.per_second) {
            return Err(wrong("per_second", format!("must be from 1 to {FASTEST}")));
        }
        Ok(())
    }

    fn hash(&self) -> Result<String, Error> {
        hash(&(
            &self.what,
            &self.selection,
            &self.actor,
            &self.reason,
            self.per_second,
            self.allow_changed,
            self.expected_count,
        ))
    }
}

/// Asks for a bulk operation, in the caller's READ COMMITTED transaction: lists the sagas it is
/// for. [`Bulks`](crate::operator::bulk::Bulks) carries it out.
///
/// # Errors
///
/// [`Error::Request`], [`Error::KeyReused`], [`Error::CountChanged`], or the database's. The transaction must be rolled back
/// then.
pub async fn create(tx: &mut PgTransaction<'_>, request: &BulkRequest) -> Result<Created, Error> {
    create_as(tx, request, None).await
}

/// As [`create`], for somebody who was asked who he is: his role is recorded too.
///
/// # Errors
///
/// As [`create`].
pub async fn create_as(
    tx: &mut PgTransaction<'_>,
    request: &BulkRequest,
    role: Option<&str>,
) -> Result<Created, Error> {
    request.check()?;
    check_key(&request.idempotency_key)?;
    let hash = request.hash()?;
    let id = Uuid::now_v7();
    match table::insert(tx, id, request, role, &hash).await? {
        Inserted::Here => {}
        Inserted::Before { id, request_hash } if request_hash == hash => {
            let bulk = table::show(&mut **tx, id).await?;
            return Ok(Created::Again(bulk.ok_or(Error::UnknownBulk(id))?));
        }
        Inserted::Before { .. } => return Err(Error::KeyReused),
    }
    // One more than there may be: so that too many are noticed.
    let count = table::list_sagas(tx, id, &request.selection, MOST + 1).await?;
    if count > MOST {
        return Err(too_many());
    }
    table::set_total(tx, id, count).await?;
    if let Some(expected) = request.expected_count.filter(|expected| *expected != count) {
        return Err(Error::CountChanged {
            expected,
            present: count,
        });
    }
    let author = Author::new(&request.actor)
        .because(&request.reason)
        .with_role(role);
    let details = json!({
        "operation": request.what.name(), "selection": request.selection, "sagas": count,
    });
    audit::record(tx, &author, "bulk.create", &subject(id), details).await?;
    let bulk = table::show(&mut **tx, id).await?;
    Ok(Created::First(bulk.ok_or(Error::UnknownBulk(id))?))
}

/// Whether nobody else is at a request of this actor under this key. Then it is the caller's until the transaction
/// ends; if not, the same request should come again later. Without asking, [`create`] waits for
/// whoever is at it.
///
/// # Errors
///
/// The database's.
pub async fn claim_key(
    tx: &mut PgTransaction<'_>,
    actor: &str,
    idempotency_key: &str,
) -> Result<bool, Error> {
    table::claim_key(tx, actor, idempotency_key).await
}

/// What a bulk operation would do now: nothing is written.
///
/// # Errors
///
/// [`Error::Request`], or the database's.
pub async fn expect(
    pool: &PgPool,
    coordinator: &Coordinator,
    request: &BulkRequest,
) -> Result<Expected, Error> {
    request.check()?;
    let count = table::count_sagas(pool, &request.selection, MOST + 1).await?;
    if count > MOST {
        return Err(too_many());
    }
    let mut sample = Vec::new();
    for saga_id in table::oldest_sagas(pool, &request.selection, SAMPLE).await? {
        let one = Request {
            what: request.what.clone(),
            actor: request.actor.clone(),
            reason: request.reason.clone(),
            expected_seq: None,
            idempotency_key: String::new(),
            dry_run: true,
        };
        // A transaction each: nobody waits for twenty sagas because of somebody's look.
        let mut tx = pool.begin_with(sagas::BEGIN).await?;
        let because = match intervene(&mut tx, coordinator, saga_id, &one).await {
            Ok(_) => None,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => Some(because(error)),
        };
        tx.rollback().await?;
        sample.push(Prospect {
            saga_id,
            allowed: because.is_none(),
            because,
        });
    }
    Ok(Expected { count, sample })
}

/// Stops a bulk operation: who had no turn yet is left alone. Once it has ended nothing changes.
/// Returns how it stands.
///
/// # Errors
///
/// [`Error::Request`], [`Error::UnknownBulk`], or the database's.
pub async fn cancel(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    actor: &str,
    reason: &str,
) -> Result<Bulk, Error> {
    cancel_as(tx, id, actor, reason, None).await
}

/// As [`cancel`], for somebody who was asked who he is: his role is recorded too.
///
/// # Errors
///
/// As [`cancel`].
pub async fn cancel_as(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    actor: &str,
    reason: &str,
    role: Option<&str>,
) -> Result<Bulk, Error> {
    check_author(actor, reason)?;
    if table::cancel(tx, id, actor, reason).await? {
        let author = Author::new(actor).because(reason).with_role(role);
        audit::record(tx, &author, "bulk.cancel", &subject(id), json!({})).await?;
    }
    table::show(&mut **tx, id)
        .await?
        .ok_or(Error::UnknownBulk(id))
}

fn too_many() -> Error {
    let reason = format!("more than {MOST} sagas; select fewer");
    wrong("selection", reason)
}

fn subject(id: Uuid) -> String {
    format!("bulk-operations/{id}")
}

fn because(error: Error) -> String {
    match error {
        Error::NotAllowed { reason, .. } => reason,
        error => error.to_string(),
    }
}
