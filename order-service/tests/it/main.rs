//! order-service against a real Postgres: orders over HTTP, their sagas by the replies of
//! participants that are played here.

mod asking;
mod auditing;
mod bad_input;
mod callers;
mod credit;
mod finishing;
mod pages;
mod placing;
mod room;
mod saga_alone;
mod starting;
