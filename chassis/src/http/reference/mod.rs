//! What a service says of itself: its API as a document for programs and as a page for people, and
//! what its problems mean.
//!
//! **What passes here**: a router that knows its own description ([`OpenApiRouter`]), into a plain
//! one with these routes beside its own:
//!
//! | path | answers |
//! |---|---|
//! | `/openapi.json` | OpenAPI 3.1, generated from the code of the routes |
//! | `/docs` | the same for eyes; no script, nothing from elsewhere |
//! | `/problems`, `/problems/{slug}` | what the `type` of a problem means: `docs/problems.md` |
//!
//! **Promised**: a route that is served is described, these and the probes among them; each
//! description names the problems that its kind of request can meet, and who may call: what it says of
//! that is what is enforced ([`auth`](crate::http::auth)). **Not promised**: that a
//! schema says all that is checked; some rules only a problem tells.

mod document;
mod page;
mod problems;
mod routes;

pub use problems::{Section, sections};
pub use routes::{Described, described};
pub use utoipa_axum::router::OpenApiRouter;
