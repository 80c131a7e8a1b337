//! Who may publish: one relay per database, by a lease on the relay's row.

use sqlx::PgPool;

use crate::{Error, outgoing::table};

/// A leader's proof, written with every change it makes. The database decides whether it still
/// holds; a leader that was stopped for a while finds out with its next write
/// ([`Error::Fenced`]), and what it sent meanwhile are duplicates of what its successor sends.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    epoch: i64,
    owner: String,
    /// The server's process it was taken in. Snapshots and cursor in memory are that session's: after a
    /// crash of the server, another would take them for its own (a pooler hides that it is another).
    backend: i32,
}

impl Lease {
    pub(crate) fn new(epoch: i64, owner: &str, backend: i32) -> Self {
        let owner = owner.to_owned();
        Self {
            epoch,
            owner,
            backend,
        }
    }

    /// Refuses to go on in another session than the one it was taken in.
    pub(crate) fn check_backend(&self, answered: i32) -> Result<(), Error> {
        if answered == self.backend {
            return Ok(());
        }
        Err(Error::transient(format!(
            "another process of the server ({answered} instead of {}) answers in this session: what is \
             remembered is forgotten; connect the relay to the server itself, not to a pooler that \
             shares sessions",
            self.backend
        )))
    }

    pub(crate) fn backend(&self) -> i32 {
        self.backend
    }

    pub(crate) fn epoch(&self) -> i64 {
        self.epoch
    }

    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }
}

/// Who holds the lease of a database's relay now.
#[derive(Debug, Clone, PartialEq)]
pub struct Holder {
    /// The relay's name for itself.
    pub owner: String,
    /// How long the lease lasts if it is not renewed, in seconds.
    pub seconds_left: f64,
}

/// Asks who holds the lease; `None` when nobody does. For readiness.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn lease(pool: &PgPool) -> Result<Option<Holder>, Error> {
    let holder = table::holder(pool).await?;
    Ok(holder.map(|(owner, seconds_left)| Holder {
        owner,
        seconds_left,
    }))
}
