//! `observe/`: alerts, dashboards and what compose starts beside them, held against what the processes really say.

// What there is to measure, and what an expression asks for.
mod measured;
mod promql;

mod alerts;

mod dashboards;

mod live;
