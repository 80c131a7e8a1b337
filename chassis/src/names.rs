//! The names of everything this crate measures and traces.
//!
//! | metric | kind | labels | meaning |
//! |---|---|---|---|
//! | `http_requests_total` | counter | `method`, `route`, `status` | requests answered |
//! | `http_request_duration_seconds` | histogram | `method`, `route`, `status` | from the first byte handed to us to the answer's head |
//! | `http_panics_total` | counter | `route` | handlers that panicked and were answered with 500 |
//! | `http_unauthenticated_total` | counter | `reason` | requests whose sender could not be told |
//! | `database_connections_discarded_total` | counter | `pool` | connections given back unfit for use and closed |
//! | `database_connections_used` | gauge | `pool` | connections of the pool that are in use now |
//! | `database_connections_limit` | gauge | `pool` | how many it may have |
//! | `trace_spans_exported_total` | counter | | spans the collector took |
//! | `trace_spans_lost_total` | counter | | spans it did not take: away, too slow, or refused |
//!
//! `reason` is one of [`Rejection`](crate::http::auth::Rejection)'s words.
//! `route` is the route's pattern (`/v1/orders/{id}`) or `unmatched`, never a raw path; `method`
//! is a standard one or `other`: the number of series is bounded by the code.
//!
//! | span | fields | meaning |
//! |---|---|---|
//! | `http.request` | `http.request.method`, `http.route`, `http.response.status_code` | one request; continues the caller's `traceparent` |

/// Counter: requests answered.
pub const HTTP_REQUESTS: &str = "http_requests_total";
/// Histogram, seconds: time until the answer's head is ready.
pub const HTTP_REQUEST_DURATION: &str = "http_request_duration_seconds";
/// Counter: handlers that panicked.
pub const HTTP_PANICS: &str = "http_panics_total";
/// Counter: requests whose sender could not be told.
pub const HTTP_UNAUTHENTICATED: &str = "http_unauthenticated_total";
/// Counter: connections closed instead of being given back to their pool.
pub const CONNECTIONS_DISCARDED: &str = "database_connections_discarded_total";
/// Gauge: connections of a pool that are in use now.
pub const CONNECTIONS_USED: &str = "database_connections_used";
/// Gauge: how many connections a pool may have.
pub const CONNECTIONS_LIMIT: &str = "database_connections_limit";
/// Counter: spans the collector took.
pub const SPANS_EXPORTED: &str = "trace_spans_exported_total";
/// Counter: spans the collector did not take.
pub const SPANS_LOST: &str = "trace_spans_lost_total";

/// Gives each metric its help text in the recorder installed.
pub(crate) fn describe() {
    metrics::describe_counter!(HTTP_REQUESTS, "Requests answered.");
    metrics::describe_histogram!(
        HTTP_REQUEST_DURATION,
        metrics::Unit::Seconds,
        "Time until the answer's head is ready."
    );
    metrics::describe_counter!(HTTP_PANICS, "Handlers that panicked.");
    metrics::describe_counter!(
        HTTP_UNAUTHENTICATED,
        "Requests whose sender could not be told."
    );
    metrics::describe_counter!(
        CONNECTIONS_DISCARDED,
        "Connections closed instead of being given back to their pool."
    );
    metrics::describe_gauge!(
        CONNECTIONS_USED,
        "Connections of a pool that are in use now."
    );
    metrics::describe_gauge!(CONNECTIONS_LIMIT, "How many connections a pool may have.");
    metrics::describe_counter!(SPANS_EXPORTED, "Spans the collector took.");
    metrics::describe_counter!(
        SPANS_LOST,
        "Spans the collector did not take: away, too slow, or refused."
    );
}
