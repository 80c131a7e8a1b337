//! Sagas over HTTP: for whoever asks where an order got stuck, and for whoever helps it on.
//!
//! What passes here: reads, and what people do ([`operator`](crate::operator)). Promised: a bad
//! request is a problem (RFC 9457) that names the field; a page of a list costs the same however
//! far down it is; a write runs to its end whether or not the client waits. Not promised: a frozen
//! list; a saga that starts meanwhile is on no later page. **Nobody is asked who he is here**:
//! the actor is the [`Actor`] whom the service in front has put into the request, and else whoever the body
//! says; then keep these routes where only operators come. If we die here, a
//! write is there as a whole or not at all, and the same request under the same key tells.
//!
//! | path | answers |
//! |---|---|
//! | `GET /sagas` | newest first; the filters below, `limit` (1–200, 50 unless said), `cursor` |
//! | `GET /sagas/count` | the filters below; `group_by` `status` (unless said), `definition` or `waiting_for`; of each definition, version and status at most 10,000, and `exact` says whether that is all |
//! | `GET /sagas/{id}` | status, reason, each step and until when it waits, `allowed_operations` with why not; `ETag` |
//! | `GET /sagas/stream` | what changes in the list, as server-sent events: see below |
//! | `GET /sagas/{id}/events` | the history in order; `after`, `limit` (1–1000, 200 unless said). With `Accept: text/event-stream` it goes on live |
//! | `GET /sagas/{id}/messages` | each command and reply with topic, attempt and op_key, as the history tells; `after`, `limit` as above |
//! | `GET /sagas/{id}/graph` | the definition with the way the saga has taken; `format` `mermaid` (unless said) or `svg` |
//! | `POST /sagas/{id}/operations` | 200, what followed. `operation`, `reason`, `expected_seq`, and `actor` where nobody is known; `Idempotency-Key`, `If-Match`; `?dry_run=true` |
//! | `GET /anomalies` | newest first; `kind`, `definition`, `saga_id`, `limit`, `cursor` |
//! | `GET /definitions` | every version with its open and ended sagas, counted as above |
//! | `GET /locks` | claimed resources by name, who holds and who waits; `resource`, `saga_id`, `waiting` (true or false), `limit` (1–200, 50 unless said), `cursor` |
//! | `GET /bulk-operations` | the newest hundred |
//! | `POST /bulk-operations` | 202, `Location`. As an operation, with `selection` (the filters below, or `{"all": true}`), `per_second` (10 unless said), `allow_changed`, `expected_count`; `?dry_run=true` counts and says what would become of the oldest twenty |
//! | `GET /bulk-operations/{id}`, `…/items` | how far it is; each saga with its result: `result`, `after`, `limit` |
//! | `POST /bulk-operations/{id}/cancel` | `reason`, `actor` as above; who had no turn yet is left alone |
//!
//! Filters: `definition`, `version`, `status`, `business_key`, `business_key_prefix`,
//! `tag=name:value`, `waiting_for`, `stuck_for` (`90s`, `10m`, `2h`, `7d`), `created_after`,
//! `created_before`.
//!
//! A row that this replica cannot read (a word of a later release, say) is shown as far as it can be,
//! with `unreadable`, the column and the reason; it hides no other.
//!
//! **Live.** A stream ends with the process; a client comes back with `Last-Event-ID`. Of one saga:
//! `recorded`, each with an event of the history, whose number is the id. Of the list: first
//! `reload`, whereupon the client loads the list; then `saga`, each with a saga as the list shows it; and `reload`
//! again whenever something may have been missed. A saga that is further (`seq`) than the one told is newer. The
//! list is filtered by what never changes: `definition`, `version`, `business_key`,
//! `business_key_prefix`, `tag`, `created_after`, `created_before`. A replica serves a thousand
//! clients unless told otherwise ([`Streams`]), and answers one more with 503.
//!
//! An operation is refused with 409 and the reason where the saga's state does not allow it; with
//! 412 where `If-Match` is not the saga's `ETag` any more, and 409 where `expected_seq` in the body
//! is not; with 422 where its key was used with another request.

mod problem;
mod query;
mod table;
mod view;

mod actor;
mod body;
mod house;
mod params;
mod reads;

mod stream;

mod bulk;
mod graph;
mod locks;
mod messages;
mod operations;
mod routes;

pub use actor::Actor;
pub use locks::Locks;
pub use problem::Kind;
pub use query::{AnomalyKind, GraphFormat, GroupBy};
pub use routes::router;
pub use stream::Streams;
pub use view::{
    After, AnomalyView, Count, DefinitionView, Definitions, Direction, Events, Group,
    IntervenedView, List, MessageView, Messages, Page, Recorded, Saga, StepView, Summary,
    UnreadableEvent, WaitingView,
};
