//! What a saga is: its steps in order, each with its class, built once at start-up.
//!
//! Typed at the edge ([`Definition`], [`Step`]), plain JSON inside ([`Plan`]). Promised: a
//! definition that compiles has its steps in a legal order and a compensation wherever one is
//! needed; one that builds has unambiguous names and sensible budgets. Not promised: that the
//! closures are total; one that panics fails its saga's transaction, which is rolled back.

mod plan;
mod step;

mod hook;

mod builder;
mod render;
mod unsound;

pub use builder::{AfterPivot, BeforePivot, Builder, Definition};
pub(crate) use hook::Hooks;
pub use hook::{Ended, Parked, StepSettled};
pub(crate) use plan::Unreadable;
pub use plan::{Backoff, Class, Compensation, Plan, PlanStep};
pub use step::{Commanded, Compensatable, Replied, Step};
