//! Sagas against a real Postgres. Messages are carried by hand from one outbox to the other side's
//! handler, so that a test decides what arrives, how often and in which order.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod barrier;
mod batches;
mod conformance;
mod coordinator;
mod costs;
mod external;
mod forgetting;
mod http;
mod lock_list;
mod lock_storm;
mod locks;
mod messages;
mod operating;
mod operating_bulk;
mod operating_http;
mod operating_support;
mod outside;
mod probing;
mod replicas;
mod retention;
mod schema;
mod sick;
mod sick_rows;
mod streams;
mod support;
mod timers;
mod trials;
mod unreadable;
mod upgrading;
mod young;
