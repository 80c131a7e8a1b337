//! HTTP: what every route of every service does the same way.
//!
//! **What passes here**: a request, in this order: listener ([`bind`], [`serve`]), the guard around
//! the router ([`guard`]: trace, limits of number, time and size, panics, 404 and 405), the door
//! ([`auth`]: who asks, and whether he may), extractors
//! ([`Json`], [`Query`], [`Path`]), the handler, and an answer or a [`Problem`].
//!
//! **Promised**: every error answer is `application/problem+json` (RFC 9457) and names the field
//! that is wrong, if one is; a panic is a 500 with no detail; an overloaded or absent database is a
//! 503 with `Retry-After`. Each kind of problem has its section in `docs/problems.md`, and each route
//! its place in the API's description ([`described`]). **Not promised**: protection from the open internet. Slow headers and
//! floods are for the proxy in front.
//!
//! **What if** the client goes away: the handler's future is dropped where it stands. A handler
//! that writes does so in [`in_task`], so that its transaction ends one way or the other.

mod serve;

mod gated;
mod guard;

pub mod auth;

mod decode;
mod extract;
mod violations;

mod page;
mod task;

mod problem;

mod reference;

pub use extract::{Json, Path, Query};
pub use gated::gated;
pub use guard::{BODY_LIMIT, CONCURRENCY, REQUEST_TIMEOUT, guard, guard_described, guard_with};
pub use page::{Cursor, Limit, Page};
pub use problem::{FieldError, Kind, Problem, ProblemBody};
pub use reference::{Described, OpenApiRouter, Section, described, sections};
pub use serve::{DRAIN_TIMEOUT, Error, bind, serve, serve_at};
pub use task::in_task;
pub use violations::Violations;
