//! Who asks, and whether he may.
//!
//! **What passes here**: a request before its body is read. Its credential (a bearer token, or a
//! browser's cookie) becomes a [`Caller`]; the route's requirement, which stands in its
//! `#[utoipa::path(security(…))]`, says which [`Role`] is enough.
//!
//! | credential | known by |
//! |---|---|
//! | a token of the file `--auth-tokens` | its SHA-256: the file holds no token |
//! | a JWT | `--jwt-jwks`, `--jwt-issuer`, `--jwt-audience` |
//!
//! **Promised**: a route that the API's description does not know is refused, and one that says
//! nothing needs a viewer to look and an operator to change. Nothing is compared by a time that
//! depends on how much of it is right. No token reaches a log, an answer or a metric.
//! A file that changes is read again within seconds; one that cannot be read leaves what was known. A stream
//! that has begun ends within seven seconds when its token is not known any more. A token and a JWT never
//! have the same name: the JWT's begins with `jwt:`.
//! **Not promised**: that somebody who guesses is slowed down: tokens have 256 bits.
//!
//! **What if** the keys of a JWT's issuer cannot be fetched: those known go on counting for a day; after
//! that, and before the first, JWTs are answered 503, and tokens of the file as ever.

mod role;

mod caller;
mod rejection;

mod file;
mod machine;
mod tokens;

mod jwks;
mod jwt;

mod settings;

mod authenticator;

mod credential;
mod origin;
mod policy;

mod door;

pub use authenticator::Auth;
pub use caller::Caller;
pub use credential::{COOKIE, presented};
pub use policy::{Access, Policy};
pub use rejection::Rejection;
pub use role::{Role, UnknownRole};
pub use settings::{Algorithms, JwksSource, Settings, is_this_machine};
pub use tokens::{Minted, mint};

pub(in crate::http) use door::{Door, admit};
pub(in crate::http) use policy::{SCHEME, unless_said};
