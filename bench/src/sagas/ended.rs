//! Who waits for the end of a saga hears of it from the transaction that ends it.
//!
//! That is a moment before its commit, and again if the transaction is redone: good enough to start
//! the next saga, while every figure is taken from what the database has committed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use uuid::Uuid;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Endings {
    waiting: Arc<Mutex<HashMap<Uuid, oneshot::Sender<()>>>>,
}

impl Endings {
    /// To be asked for before the saga starts.
    pub(crate) fn of(&self, saga: Uuid) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(saga, sender);
        receiver
    }

    pub(crate) fn note(&self, saga: Uuid) {
        if let Some(waiting) = self.waiting().remove(&saga) {
            // Who waited may have given up.
            let _ = waiting.send(());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, oneshot::Sender<()>>> {
        // The map is whole after every statement; a panic elsewhere does not spoil it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
