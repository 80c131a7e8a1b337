//! A definition without its types: what `decide` and the coordinator work with.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{Error, locks::Claim, operation::Phase};

/// Makes a command's payload from the saga's data.
pub(crate) type Encode = Arc<dyn Fn(&Value) -> Result<Vec<u8>, String> + Send + Sync>;
/// Folds a reply's payload into the saga's data.
pub(crate) type Fold = Arc<dyn Fn(&Value, &[u8]) -> Result<Value, Unreadable> + Send + Sync>;
/// Reads something off the saga's data: a condition, tags, a claim, data of another version.
pub(crate) type Read<T> = Arc<dyn Fn(&Value) -> Result<T, String> + Send + Sync>;

/// Which of the two could not be read, and where.
pub(crate) enum Unreadable {
    Data(String),
    Reply(String),
}

/// A definition, its types erased.
#[derive(Clone)]
pub struct Plan {
    pub(crate) name: String,
    pub(crate) version: i32,
    pub(crate) hash: String,
    /// In order; steps of one stage stand side by side.
    pub(crate) steps: Vec<PlanStep>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) tags: Option<Read<BTreeMap<String, String>>>,
    pub(crate) locks: Vec<Read<Claim>>,
    /// How data of another version becomes data of this one.
    pub(crate) migrations: BTreeMap<i32, Read<Value>>,
}

impl Plan {
    /// What sagas of this kind are called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version an instance is pinned to.
    #[must_use]
    pub fn version(&self) -> i32 {
        self.version
    }

    /// The sha256 of what steers a saga: name, version, and of each step in order its name, class,
    /// stage, kinds, topic and whether it is conditional. Timeouts and budgets may change under
    /// sagas in flight; these may not.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The steps, in order.
    #[must_use]
    pub fn steps(&self) -> &[PlanStep] {
        &self.steps
    }

    /// The steps by stages: those of one stage run at the same time.
    pub fn stages(&self) -> impl DoubleEndedIterator<Item = &[PlanStep]> {
        self.steps.chunk_by(|a, b| a.stage == b.stage)
    }

    /// The versions whose sagas can be brought to this one.
    pub fn migrates_from(&self) -> impl Iterator<Item = i32> + '_ {
        self.migrations.keys().copied()
    }

    /// The step of that name.
    pub(crate) fn step(&self, name: &str) -> Result<&PlanStep, Error> {
        let found = self.steps.iter().find(|step| step.name == name);
        found.ok_or_else(|| Error::Definition {
            definition: self.name.clone(),
            reason: format!("it has no step {name}"),
        })
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// One step of a [`Plan`].
#[derive(Clone)]
pub struct PlanStep {
    pub(crate) name: String,
    pub(crate) class: Class,
    /// Counted from 0; equal for steps that run at the same time.
    pub(crate) stage: usize,
    pub(crate) when: Option<Read<bool>>,
    pub(crate) topic: String,
    pub(crate) kind: &'static str,
    pub(crate) encode: Encode,
    pub(crate) reply_kind: &'static str,
    pub(crate) fold: Fold,
    pub(crate) timeout: Duration,
    pub(crate) attempts: i32,
    /// Questions about what became of it, before a person is asked.
    pub(crate) probes: i32,
    pub(crate) backoff: Backoff,
}

impl PlanStep {
    /// Its name, by which history, timers and messages refer to it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a failure of it means.
    #[must_use]
    pub fn class(&self) -> &Class {
        &self.class
    }

    /// Which stage it belongs to, from 0: steps of one stage run at the same time.
    #[must_use]
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// Whether it may be left out.
    #[must_use]
    pub fn is_conditional(&self) -> bool {
        self.when.is_some()
    }

    /// Where its commands go.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The kind of its command.
    #[must_use]
    pub fn command_kind(&self) -> &'static str {
        self.kind
    }

    /// The kind of the reply that says it took effect.
    #[must_use]
    pub fn reply_kind(&self) -> &'static str {
        self.reply_kind
    }

    /// How long one attempt in that phase may take.
    pub(crate) fn timeout_of(&self, phase: Phase) -> Duration {
        match (phase, &self.class) {
            (Phase::Compensation, Class::Compensatable(undo)) => {
                undo.timeout.unwrap_or(self.timeout)
            }
            _ => self.timeout,
        }
    }

    /// How often one operation of that phase is sent.
    pub(crate) fn attempts_of(&self, phase: Phase) -> i32 {
        match (phase, &self.class) {
            (Phase::Compensation, Class::Compensatable(undo)) => undo.attempts,
            _ => self.attempts,
        }
    }

    /// The waits between the attempts of that phase.
    pub(crate) fn backoff_of(&self, phase: Phase) -> Backoff {
        match (phase, &self.class) {
            (Phase::Compensation, Class::Compensatable(undo)) => {
                undo.backoff.unwrap_or(self.backoff)
            }
            _ => self.backoff,
        }
    }

    /// How long one operation of that phase may be under way at most, by its budget alone: every
    /// attempt unanswered, every wait at its longest, then the probes.
    pub(crate) fn longest(&self, phase: Phase) -> Duration {
        if phase == Phase::Compensation && !matches!(self.class, Class::Compensatable(_)) {
            return Duration::ZERO;
        }
        let (timeout, backoff) = (self.timeout_of(phase), self.backoff_of(phase));
        let attempts = self.attempts_of(phase).unsigned_abs();
        let probes = match phase {
            Phase::Action => self.probes.unsigned_abs(),
            Phase::Compensation => 0,
        };
        // Doubling ends after 30 times, or at the cap.
        let waits = (1..attempts.min(32)).map(|tries| backoff.longest(tries));
        let waits = waits.fold(Duration::ZERO, Duration::saturating_add);
        let others = backoff
            .longest(u32::MAX)
            .saturating_mul(attempts.saturating_sub(32));
        timeout
            .saturating_mul(attempts.saturating_add(probes))
            .saturating_add(waits)
            .saturating_add(others)
    }
}

impl fmt::Debug for PlanStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanStep")
            .field("name", &self.name)
            .field("class", &self.class)
            .field("stage", &self.stage)
            .field("topic", &self.topic)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// What a step's failure means.
#[derive(Debug, Clone)]
pub enum Class {
    /// It can be undone, so a failure turns the saga back.
    Compensatable(Compensation),
    /// The point of no return: refused, the saga turns back; unknown, nobody may guess.
    Pivot,
    /// After the point of no return: tried again, round after round.
    Retriable {
        /// How many executions before a person is asked.
        rounds: i32,
    },
}

impl Class {
    /// The word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Compensatable(_) => "compensatable",
            Self::Pivot => "pivot",
            Self::Retriable { .. } => "retriable",
        }
    }

    /// Whether there is no way back once such a step was sent.
    #[must_use]
    pub const fn commits(&self) -> bool {
        matches!(self, Self::Pivot | Self::Retriable { .. })
    }
}

/// How a step is undone.
#[derive(Clone)]
pub struct Compensation {
    pub(crate) kind: &'static str,
    pub(crate) encode: Encode,
    pub(crate) attempts: i32,
    /// The action's own where nothing else is said.
    pub(crate) timeout: Option<Duration>,
    pub(crate) backoff: Option<Backoff>,
}

impl Compensation {
    /// The kind of its command.
    #[must_use]
    pub fn command_kind(&self) -> &'static str {
        self.kind
    }
}

impl fmt::Debug for Compensation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compensation")
            .field("kind", &self.kind)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// How long to wait before trying again: doubling from `initial` up to `cap`, with full jitter:
/// anything from nothing to that (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
/// 2015).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// At most this before the second try.
    pub initial: Duration,
    /// Never longer than this.
    pub cap: Duration,
}

impl Default for Backoff {
    /// 400 ms, up to 30 s.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(400),
            cap: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// The wait after the `tries`th try of an operation. The jitter is derived from the
    /// operation's key: a thousand sagas spread out, and the same decision is taken twice.
    #[must_use]
    pub fn after(&self, tries: i32, op_key: Uuid) -> Duration {
        let full = self.longest(u32::try_from(tries).unwrap_or(0));
        let digest = Sha256::new()
            .chain_update(op_key)
            .chain_update(tries.to_be_bytes())
            .finalize();
        let share = u16::from_be_bytes([digest[0], digest[1]]);
        full.mul_f64(f64::from(share) / f64::from(u16::MAX))
    }

    /// The longest that this wait can be.
    fn longest(&self, tries: u32) -> Duration {
        let doublings = tries.saturating_sub(1).min(30);
        self.initial.saturating_mul(1 << doublings).min(self.cap)
    }
}

/// See [`Plan::hash`].
pub(crate) fn hash(name: &str, version: i32, steps: &[PlanStep]) -> String {
    let mut hasher = Sha256::new();
    let mut add = |field: &str| {
        // Length first, so that two fields cannot trade letters.
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field);
    };
    add(name);
    add(&version.to_string());
    for step in steps {
        add(&step.name);
        add(step.class.as_str());
        add(&step.stage.to_string());
        add(if step.is_conditional() {
            "conditional"
        } else {
            "always"
        });
        add(&step.topic);
        add(step.kind);
        add(step.reply_kind);
        if let Class::Compensatable(compensation) = &step.class {
            add(compensation.kind);
        }
    }
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
