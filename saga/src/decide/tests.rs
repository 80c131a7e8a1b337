//! Given a definition and what happened, expect what is recorded and done.

mod absorb;
mod outcomes;
mod replies;
mod shapes;
mod story;
