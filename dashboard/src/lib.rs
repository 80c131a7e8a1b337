//! The pages: what the REST API tells, for eyes.
//!
//! **What passes here**: a browser's request, into questions to the REST API of this service (in the
//! process) and of its neighbours (over HTTP), into a page. There is no other way from here to
//! data: whatever a page shows or does, `curl` can, with the same rights.
//!
//! **Promised**: a page works without a script but for what is live; nothing comes from another
//! host; nothing in a payload, a key or an error runs ([`POLICY`]).
//! **Not promised**: the small time series of the overview are this process's own and begin
//! when it starts.
//!
//! **What if** a neighbour is away: its part of the page says so, and the rest is there. If we die
//! here, nothing is lost: nothing is kept.
//!
//! | path | shows |
//! |---|---|
//! | `/` | how it is now, and was in the last quarter of an hour; orders to try |
//! | `/sagas` | the list, filtered by its URL, live |
//! | `/sagas/{id}` | one saga: what it waits for, its timeline, graph, history and messages, live; what a person may do |
//! | `/parked` | messages that could not be sent or handled, of all services; replay and discard |
//! | `/bulk-operations` | what was asked of many sagas and how far it is, live; from the list of sagas: to count, and then to start |
//! | `/audit` | what people did, in all services; for admins |
//! | `/definitions`, `/anomalies`, `/locks` | the rest |
//! | `/login` | where a person says who he is, if callers are asked |

mod api;

mod words;

mod series;
mod timeline;

mod house;

mod pages;

mod assets;
mod guard;

pub use guard::POLICY;
pub use house::{Dashboard, Neighbour, Sample};
