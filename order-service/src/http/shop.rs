//! What handlers work with.

use saga::Coordinator;
use sqlx::PgPool;

/// What every handler has.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) pool: PgPool,
    pub(crate) coordinator: Coordinator,
}
