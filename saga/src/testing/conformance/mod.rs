//! Does a participant keep the barrier's promises? Asked over the broker alone, so it may be
//! written in any language.
//!
//! What passes here: commands as a coordinator and its relay write them, also some that no
//! coordinator would write, to a participant that runs; its replies come back. Promised: each
//! [`Case`] is tried with sagas of its own, and a [`Deviation`] says what was expected and what was
//! seen. Not promised: anything about crashes of the participant, which only its owner can cause,
//! and that a race was lost: the more [sagas](Options::sagas), the likelier. If we die here, some
//! sagas stay half tried in the participant's database: it should be one for tests.
//!
//! ```text
//! subject (who is tried, with what) → draft (a command, to be spoilt perhaps) → line (the broker)
//!    → reply → room (what was expected of it) → cases → report
//! ```
//!
//! ```no_run
//! use saga::testing::conformance::{self, Effects, Options, Request, Subject};
//! use serde_json::json;
//!
//! # async fn try_it(broker: &dyn outbox::broker::Broker) -> Result<(), saga::Error> {
//! let subject = Subject::new("seats.commands", "seats.replies")
//!     .action(|saga| Request::json("seat.book.v1", json!({"trip": saga, "class": 2})))
//!     .refused(|saga| Request::json("seat.book.v1", json!({"trip": saga, "class": 9})))
//!     .compensation(|saga| Request::json("seat.give_back.v1", json!({"trip": saga})))
//!     .effects(async |saga| count_seats_of(saga).await);
//! conformance::run(broker, &subject, &Options::default())
//!     .await?
//!     .assert_conforms();
//! # Ok(()) }
//! # async fn count_seats_of(_: uuid::Uuid) -> Result<Effects, std::io::Error> { unimplemented!() }
//! ```

mod subject;

mod draft;
mod line;
mod reply;

mod room;

mod cases;
mod report;

mod run;

pub use report::{Case, Deviation, Report, Verdict};
pub use run::run;
pub use subject::{Effects, Options, Request, Subject};
