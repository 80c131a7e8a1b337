//! Fault trials: their length, their seed, and the line each leaves in the table of `make trials`.
//!
//! A trial draws everything that is left to chance from one seed. The seed is printed, and `TRIALS_SEED` replays it: the
//! same schedule, though not the same interleaving of the processes that meet it.

use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// How trials are to run.
#[derive(Debug, Clone, Copy)]
pub struct Trials {
    long: bool,
}

/// How trials are to run: long with `TRIALS=long` (`make trials`), otherwise short (`make test`).
#[must_use]
pub fn trials() -> Trials {
    Trials {
        long: std::env::var("TRIALS").is_ok_and(|form| form == "long"),
    }
}

impl Trials {
    /// Whether this is the long form.
    #[must_use]
    pub fn are_long(self) -> bool {
        self.long
    }

    /// An amount or a duration in both forms.
    pub fn pick<T>(self, short: T, long: T) -> T {
        if self.long { long } else { short }
    }

    /// Begins a trial with a seed of its own, or that of `TRIALS_SEED`.
    ///
    /// # Panics
    /// If `TRIALS_SEED` is not a number.
    #[must_use]
    pub fn begin(self, name: &str) -> Trial {
        let seed = std::env::var("TRIALS_SEED").map_or_else(
            |_| RandomState::new().hash_one(name) % 1_000_000,
            |seed| seed.parse().expect("TRIALS_SEED is a number"),
        );
        println!("{name}: TRIALS_SEED={seed}");
        Trial {
            name: name.to_owned(),
            long: self.long,
            seed,
            random: Random::new(seed),
            messages: None,
            duplicates: None,
            healed: None,
        }
    }
}

/// A trial under way. Dropped, it writes its line: failed if a panic is on its way.
#[derive(Debug)]
pub struct Trial {
    name: String,
    long: bool,
    seed: u64,
    /// Where everything comes from that is left to chance.
    pub random: Random,
    messages: Option<usize>,
    duplicates: Option<usize>,
    healed: Option<Duration>,
}

impl Trial {
    /// Notes how many different messages arrived, and how many copies beside them.
    pub fn counted(&mut self, messages: usize, duplicates: usize) {
        self.messages = Some(messages);
        self.duplicates = Some(duplicates);
    }

    /// Notes how long after a fault healed the first message was published; the longest counts.
    pub fn healed_after(&mut self, pause: Duration) {
        self.healed = self.healed.max(Some(pause));
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let number = |number: Option<usize>| number.map_or("-".to_owned(), |n| n.to_string());
        let healed = self.healed.map_or("-".to_owned(), |pause| {
            format!("{:.2} s", pause.as_secs_f64())
        });
        let verdict = match std::thread::panicking() {
            true => "FAILED",
            false => "ok",
        };
        let line = [
            self.name.clone(),
            self.seed.to_string(),
            number(self.messages),
            number(self.duplicates),
            healed,
            verdict.to_owned(),
        ];
        println!("{}", line.join(" · "));
        if self.long {
            let opened = OpenOptions::new().create(true).append(true).open(table());
            // A table that cannot be written must not turn a failure into an abort.
            let _ = opened.and_then(|mut file| writeln!(file, "{}", line.join("\t")));
        }
    }
}

/// Where the lines of long trials are collected.
#[must_use]
pub fn table() -> PathBuf {
    crate::target_folder().join("trials.tsv")
}

/// Numbers that look random and follow from a seed: SplitMix64 (Steele, Lea, Flood, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `range`.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.draw() % (range.end - range.start)
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, share: u64) -> bool {
        self.draw() % 100 < share
    }

    /// A stream of its own, for a task whose pace must not change ours.
    pub fn fork(&mut self) -> Random {
        Random(self.draw())
    }
}
