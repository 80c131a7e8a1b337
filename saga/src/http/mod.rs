//! Sagas over HTTP: for whoever asks where an order got stuck.
//!
//! What passes here: reads only. Promised: a bad request is a problem (RFC 9457) that names the
//! field; a page of the list costs the same however far down it is. Not promised: a frozen list;
//! a saga that starts meanwhile is on no later page. If we die here, nobody's state changes.
//!
//! | path | answers |
//! |---|---|
//! | `GET /sagas` | newest first; `definition`, `status`, `business_key`, `limit` (1–200, 50 unless said), `cursor` |
//! | `GET /sagas/{id}` | status, reason, what it waits for and until when, each step |
//! | `GET /sagas/{id}/events` | the history in order; `after`, `limit` (1–1000, 200 unless said) |
//! | `GET /locks` | claimed resources by name, who holds and who waits; `resource`, `saga_id`, `waiting` (true or false), `limit` (1–200, 50 unless said), `cursor` |

mod problem;
mod query;
mod table;
mod view;

mod locks;
mod routes;

pub use locks::Locks;
pub use routes::router;
pub use view::{Events, List, Recorded, Saga, Summary, WaitingView};
