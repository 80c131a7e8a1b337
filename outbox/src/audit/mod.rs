//! What people did, and who they were (`outbox.audit`).
//!
//! **What passes here**: an act, on its way into the transaction that does it. **Promised**: one row for
//! each act that did something, none for one that did nothing: a dry run, a repetition, a refusal.
//! Reading what is kept from most (payloads, data) is an act too, where the caller is known.
//! **Not promised**: that the actor is who he says he is where a service asks nobody
//! (`Author::role` is `None` then), and that whoever works on the tables by hand leaves a row.
//!
//! If we die here, the act and its row are there, or neither.
//!
//! | action | subject | by |
//! |---|---|---|
//! | `relay.pause`, `relay.resume` | `outbox` | [`operator`](crate::operator) |
//! | `parked.replay`, `parked.discard` | `parked/outbox-12`, `parked/inbox-7`; `parked` for all of a selection | [`operator::parked`](crate::operator::parked), [`incoming::parked`](crate::incoming::parked) |
//! | `log.replay` | `outbox`, for each page | [`operator::replay`](crate::operator::replay) |
//! | `log.rebase`, `log.accept_same_xids` | `outbox` | [`operator::rebase`](crate::operator::rebase) |
//! | `saga.pause` and the others | `sagas/<id>` | saga's `operator` |
//! | `bulk.create`, `bulk.cancel` | `bulk-operations/<id>` | the same; what it does to each saga is in that one's history |
//! | `parked.read` | `parked/outbox-12`, whose payload was shown to a known caller | [`http`](crate::http) |
//! | `saga.read` | `sagas/<id>`, whose data were shown to a known caller; each ten minutes once | saga's `http` |
//! | `order.place` | `orders/<id>` | order-service, where it knows the caller |

mod author;
mod record;

mod table;

pub use author::Author;
pub(crate) use record::record_each;
pub use record::{Entry, Filter, Kept, forget, list, record, record_read};
