//! The trials that every saga passes (after omicron's `sagas/test_helpers.rs`): each a function that
//! a `#[test]` calls in one line.
//!
//! Each plays the saga many times, one thing going wrong in each, and checks after every move all that
//! a [`scene`](crate::testing::scene) checks, and at the end what the step's class promises. Messages
//! arrive in order and time passes only when nothing is in flight, except for what the trial is about:
//! every order is [`explore`](crate::testing::explore)'s.

mod dies;
mod fails;
mod play;
mod repeats;
mod times_out;

use std::{collections::BTreeMap, fmt};

pub use dies::dies_after_each_commit;
pub use fails::fails_at_each_step;
pub use repeats::repeats_each_step;
pub use times_out::times_out_at_each_step;

use play::Played;
pub(crate) use play::usual;

/// What a trial tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried {
    /// How often the saga was played.
    pub runs: usize,
    /// How those ended, with the number of runs for each.
    pub endings: BTreeMap<String, usize>,
}

impl Tried {
    pub(crate) fn note(&mut self, played: &Played) {
        self.runs += 1;
        *self.endings.entry(played.scene.ending()).or_default() += 1;
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} runs", self.runs)?;
        for (ending, runs) in &self.endings {
            writeln!(f, "{runs:>8} {ending}")?;
        }
        Ok(())
    }
}
