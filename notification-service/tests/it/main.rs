//! notification-service against a real Postgres: events through the handler, questions over HTTP.

mod asking;
mod events;
mod room;
