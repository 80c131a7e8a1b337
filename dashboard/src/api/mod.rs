//! Asking REST APIs, in this process or elsewhere.

mod door;
mod model;

pub(crate) use door::{Api, Refused, Visitor};
pub(crate) use model::{
    Allowed, Anomalies, Asked, Commanded, Count, Definition, Definitions, Events, Intervened,
    Locks, Message, Messages, Order, Outbox, OutboxStatus, ParkedList, Recorded, Saga, Sagas,
    Shown, Step, Summary, Waiting,
};
