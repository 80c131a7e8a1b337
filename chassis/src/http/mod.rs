//! HTTP: what every route of every service does the same way.
//!
//! **What passes here**: a request, in this order: listener ([`bind`], [`serve`]), the guard around
//! the router ([`guard`]: trace, time limit, panics, size limit, 404 and 405), extractors
//! ([`Json`], [`Query`], [`Path`]), the handler, and an answer or a [`Problem`].
//!
//! **Promised**: every error answer is `application/problem+json` (RFC 9457) and names the field
//! that is wrong, if one is; a panic is a 500 with no detail; an overloaded or absent database is a
//! 503 with `Retry-After`. **Not promised**: protection from the open internet. Slow headers and
//! floods are for the proxy in front.
//!
//! **What if** the client goes away: the handler's future is dropped where it stands. A handler
//! that writes does so in [`in_task`], so that its transaction ends one way or the other.

mod serve;

mod guard;

mod decode;
mod extract;
mod violations;

mod page;
mod task;

mod problem;

pub use extract::{Json, Path, Query};
pub use guard::{BODY_LIMIT, REQUEST_TIMEOUT, guard};
pub use page::{Cursor, Limit, Page};
pub use problem::{FieldError, Problem};
pub use serve::{DRAIN_TIMEOUT, Error, bind, serve, serve_at};
pub use task::in_task;
pub use violations::Violations;
