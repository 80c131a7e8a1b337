//! One row for each act, to write and to read.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use crate::{
    Error,
    audit::{Author, table},
};

/// What somebody did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "http", schema(as = AuditEntry))]
pub struct Entry {
    /// Its number, in the order of writing.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who: the caller's name, or the one that was given where nobody was asked.
    pub actor: String,
    /// What he might do at most; none where nobody was asked who he is.
    pub role: Option<String>,
    /// What was done, as `parked.discard`.
    pub action: String,
    /// To what, as `parked/outbox-12`: a path of the API.
    pub subject: String,
    /// Why, in the actor's words.
    pub reason: Option<String>,
    /// What else there is to say.
    pub details: Value,
}

/// Which acts; a field that is `None` lets all pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// By this actor.
    pub actor: Option<String>,
    /// Of this kind.
    pub action: Option<String>,
    /// To this.
    pub subject: Option<String>,
    /// At that moment or later.
    pub since: Option<DateTime<Utc>>,
}

/// What a look for old acts came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Some were forgotten; there may be more.
    Forgotten(u32),
    /// None is old.
    All,
}

/// Writes down what `author` does in this transaction. `details` is a JSON object without payloads.
///
/// # Errors
///
/// [`Error::Database`]; the transaction must be rolled back then.
pub async fn record(
    tx: &mut PgConnection,
    author: &Author,
    action: &str,
    subject: &str,
    details: Value,
) -> Result<(), Error> {
    table::insert(tx, author, action, &[subject.to_owned()], details).await
}

/// Writes down that `author` reads what not everyone should see, in a transaction of its own. A database
/// that takes no writes keeps nobody from looking: then it is an error of the log.
pub async fn record_read(pool: &PgPool, author: Author, action: &'static str, subject: String) {
    let pool = pool.clone();
    // A task: a reader who goes away leaves no transaction half begun.
    let recorded = tokio::spawn(async move {
        let mut connection = pool.acquire().await?;
        record(&mut connection, &author, action, &subject, json!({})).await
    });
    match recorded.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, action, "a read could not be recorded"),
        Err(error) => tracing::error!(%error, action, "a read could not be recorded"),
    }
}

/// The same to several, a row for each.
pub(crate) async fn record_each(
    tx: &mut PgConnection,
    author: &Author,
    action: &str,
    subjects: &[String],
    details: Value,
) -> Result<(), Error> {
    match subjects.is_empty() {
        true => Ok(()),
        false => table::insert(tx, author, action, subjects, details).await,
    }
}

/// What was done, the newest first, from below `before`; not more than `limit`.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn list(
    pool: &PgPool,
    filter: &Filter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Entry>, Error> {
    table::list(pool, filter, before, limit).await
}

/// Forgets acts that are older than `retention`, a bounded piece at a time.
///
/// # Errors
///
/// [`Error::Database`]; also for less than a day.
pub async fn forget(pool: &PgPool, retention: Duration) -> Result<Kept, Error> {
    let forgotten = table::forget(pool, retention).await?;
    Ok(match u32::try_from(forgotten) {
        Ok(0) | Err(_) => Kept::All,
        Ok(some) => Kept::Forgotten(some),
    })
}
