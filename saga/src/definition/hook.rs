//! What the orchestrator changes in its own rows when a saga ends.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{Error, error::without_content};

/// A saga that has just ended, as a hook sees it.
#[derive(Debug, Clone)]
pub struct Ended<D> {
    /// The saga.
    pub id: Uuid,
    /// The key it was started with.
    pub business_key: String,
    /// Its data, every reply folded in.
    pub data: D,
    /// Why it was compensated, for a person; none when it completed.
    pub reason: Option<String>,
}

/// A hook, its type erased.
pub(crate) type Hook = Arc<
    dyn for<'a, 'c> Fn(
            &'a mut PgTransaction<'c>,
            Ended<Value>,
        ) -> BoxFuture<'a, Result<(), outbox::Error>>
        + Send
        + Sync,
>;

#[derive(Default, Clone)]
pub(crate) struct Hooks {
    pub(crate) on_completed: Option<Hook>,
    pub(crate) on_compensated: Option<Hook>,
}

/// Erases a hook's type: the data is decoded when it runs.
pub(crate) fn erase<D, F>(definition: String, hook: F) -> Hook
where
    D: DeserializeOwned + Send + 'static,
    F: for<'a, 'c> Fn(
            &'a mut PgTransaction<'c>,
            Ended<D>,
        ) -> BoxFuture<'a, Result<(), outbox::Error>>
        + Send
        + Sync
        + 'static,
{
    Arc::new(move |tx, ended| match D::deserialize(&ended.data) {
        Ok(data) => hook(
            tx,
            Ended {
                id: ended.id,
                business_key: ended.business_key,
                data,
                reason: ended.reason,
            },
        ),
        Err(error) => {
            let error = Error::Data {
                definition: definition.clone(),
                reason: without_content(&error),
            };
            Box::pin(async move { Err(error.into()) })
        }
    })
}
