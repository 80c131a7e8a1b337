//! The spans of a message, by OpenTelemetry's semantic conventions for messaging (1.43).
//!
//! | span | kind | made | parent | links |
//! |---|---|---|---|---|
//! | `create TOPIC` | producer | by `enqueue`, for each message | the span that enqueues, or the one its `traceparent` names | |
//! | `send TOPIC` | client | by the relay, for a page's messages of one topic, or a batch of parked ones | the first linked | the `create` spans, at most 128 |
//! | `process TOPIC` | consumer | by the consumer, around the handler, for each message | the `create` span | the `create` span |
//!
//! The context of `create` travels: in the row, then in the headers `traceparent` and `tracestate`.
//! The conventions ask a consumer for a *link*, because a batch has no one parent. A message is handled
//! alone here, so `create` is its parent too: one trace from the request to the last effect, sampled
//! or not as a whole. `send` is a client's span, because it makes no context of its own; it stands in the
//! trace of the first message it carried, so that the sampler's decision for that one holds for it.
//!
//! **Promised**: no payload, key or header in any of them. What is not sampled costs a look at one
//! byte of its `traceparent`. **Not promised**: a span for what SQL enqueues (its `traceparent`
//! is kept); of parked messages that are sent later, that their `send` lasts until the last answer where the batch
//! goes to several partitions (it ends with that of the last message sent).
//!
//! `create` and `send` go to OpenTelemetry's global provider, which `chassis` sets only where spans
//! are exported; where there is none, the context of the span that enqueues travels. `process` is a
//! `tracing` span, so that whatever the handler does stands below it.

mod context;
mod create;
mod follow;
mod process;
mod send;
mod tracer;

pub(crate) use create::{Create, Creating};
pub use follow::{carry, follow, resume};
pub(crate) use process::{process, process_failed};
pub(crate) use send::Sends;
