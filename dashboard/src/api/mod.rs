//! Asking REST APIs, in this process or elsewhere.

mod door;
mod model;

pub(crate) use door::{Api, Refused, Visitor};
pub(crate) use model::{
    Act, Allowed, Anomalies, Asked, Audit, Bulk, BulkItem, BulkItems, Bulks, Commanded, Count,
    Counted, Definition, Definitions, Events, Expected, Intervened, Locks, Message, Messages,
    Order, Outbox, OutboxStatus, ParkedList, Recorded, Saga, Sagas, Shown, Step, Summary,
    UnreadableEvent, Waiting,
};
