//! What the orchestrator changes in its own rows when something becomes of a saga.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{Cause, Error, error::without_content, instance::StepStatus};

/// A saga that has just ended, as a hook sees it.
#[derive(Debug, Clone)]
pub struct Ended<D> {
    /// The saga.
    pub id: Uuid,
    /// The key it was started with.
    pub business_key: String,
    /// Its data, every reply folded in.
    pub data: D,
    /// Why it turned back, for a person; none when it completed.
    pub reason: Option<String>,
    /// The same for a program; none when it completed, or when nobody here knows the cause.
    pub cause: Option<Cause>,
}

/// A step that was just settled, as a hook sees it.
#[derive(Debug, Clone)]
pub struct StepSettled<D> {
    /// The saga.
    pub id: Uuid,
    /// The key it was started with.
    pub business_key: String,
    /// Its data, every reply so far folded in.
    pub data: D,
    /// The step.
    pub step: String,
    /// What became of it: `succeeded`, `compensated` or `null_compensated`.
    pub status: StepStatus,
}

/// A saga that has come to wait for a person, as a hook sees it.
#[derive(Debug, Clone)]
pub struct Parked<D> {
    /// The saga.
    pub id: Uuid,
    /// The key it was started with.
    pub business_key: String,
    /// Its data, every reply so far folded in.
    pub data: D,
    /// Why, for a person.
    pub reason: String,
}

/// What a hook is called with, whatever the type of the data.
pub(crate) trait Occasion<D>: Sized {
    /// The same with the data untyped.
    type Untyped: Send;

    fn data(untyped: &Self::Untyped) -> &Value;
    fn typed(untyped: Self::Untyped, data: D) -> Self;
}

macro_rules! occasion {
    ($name:ident { $($field:ident),+ }) => {
        impl<D> Occasion<D> for $name<D> {
            type Untyped = $name<Value>;

            fn data(untyped: &$name<Value>) -> &Value {
                &untyped.data
            }

            fn typed(untyped: $name<Value>, data: D) -> Self {
                Self { data, $($field: untyped.$field),+ }
            }
        }
    };
}

occasion!(Ended {
    id,
    business_key,
    reason,
    cause
});
occasion!(StepSettled {
    id,
    business_key,
    step,
    status
});
occasion!(Parked {
    id,
    business_key,
    reason
});

/// A hook, its type erased.
pub(crate) type Hook<O> = Arc<
    dyn for<'a, 'c> Fn(&'a mut PgTransaction<'c>, O) -> BoxFuture<'a, Result<(), outbox::Error>>
        + Send
        + Sync,
>;

#[derive(Default, Clone)]
pub(crate) struct Hooks {
    pub(crate) on_step: Option<Hook<StepSettled<Value>>>,
    pub(crate) on_completed: Option<Hook<Ended<Value>>>,
    pub(crate) on_compensated: Option<Hook<Ended<Value>>>,
    pub(crate) on_abandoned: Option<Hook<Ended<Value>>>,
    pub(crate) on_parked: Option<Hook<Parked<Value>>>,
}

/// Erases a hook's type: the data is decoded when it runs.
pub(crate) fn erase<D, O, F>(definition: String, hook: F) -> Hook<O::Untyped>
where
    D: DeserializeOwned + Send + 'static,
    O: Occasion<D>,
    F: for<'a, 'c> Fn(&'a mut PgTransaction<'c>, O) -> BoxFuture<'a, Result<(), outbox::Error>>
        + Send
        + Sync
        + 'static,
{
    Arc::new(move |tx, untyped| match D::deserialize(O::data(&untyped)) {
        Ok(data) => hook(tx, O::typed(untyped, data)),
        Err(error) => {
            let error = Error::Data {
                definition: definition.clone(),
                reason: without_content(&error),
            };
            Box::pin(async move { Err(error.into()) })
        }
    })
}
