//! Who is tried, and with what.

use std::{error::Error as StdError, fmt, future::Future, time::Duration};

use futures::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use crate::Error;

type Ask = Box<dyn Fn(Uuid) -> Request + Send + Sync>;
type Counted = Result<Effects, Box<dyn StdError + Send + Sync>>;
type Count = Box<dyn Fn(Uuid) -> BoxFuture<'static, Counted> + Send + Sync>;

/// What a command asks for: its kind and its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub(crate) kind: String,
    pub(crate) payload: Vec<u8>,
}

impl Request {
    /// Of this kind, with this payload.
    #[must_use]
    pub fn json(kind: impl Into<String>, payload: Value) -> Self {
        Self {
            kind: kind.into(),
            payload: payload.to_string().into_bytes(),
        }
    }
}

/// What one saga did to the participant's world, counted by looking there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    /// How often an action was carried out, whatever became of it later. A refused one was not.
    pub executed: i64,
    /// How many of them remain: executed less undone, so below zero when one was undone twice.
    pub remaining: i64,
}

impl fmt::Display for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            executed,
            remaining,
        } = self;
        write!(f, "{executed} effects executed, {remaining} remaining")
    }
}

/// A participant under trial: where it listens and answers, and how to ask it for one operation that
/// can be undone. Each saga id is used for one trial, so derive from it whatever must be unique.
pub struct Subject {
    pub(crate) commands: String,
    pub(crate) replies: String,
    pub(crate) step: String,
    action: Option<Ask>,
    refused: Option<Ask>,
    stumbling: Option<Ask>,
    compensation: Option<Ask>,
    effects: Option<Count>,
}

impl Subject {
    /// It takes commands from one topic; we ask it to answer to the other. Both exist. The reply
    /// topic is read from its beginning, so a new one saves time.
    pub fn new(commands: impl Into<String>, replies: impl Into<String>) -> Self {
        Self {
            commands: commands.into(),
            replies: replies.into(),
            step: "conformance".to_owned(),
            action: None,
            refused: None,
            stumbling: None,
            compensation: None,
            effects: None,
        }
    }

    /// The step's name in the headers; by default `conformance`. To a participant it is but a part
    /// of the barrier's key.
    #[must_use]
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.step = step.into();
        self
    }

    /// Asks for an action that will succeed, whatever other sagas do. Required.
    #[must_use]
    pub fn action(mut self, ask: impl Fn(Uuid) -> Request + Send + Sync + 'static) -> Self {
        self.action = Some(Box::new(ask));
        self
    }

    /// Asks for the same action in a way that will be refused. Required.
    #[must_use]
    pub fn refused(mut self, ask: impl Fn(Uuid) -> Request + Send + Sync + 'static) -> Self {
        self.refused = Some(Box::new(ask));
        self
    }

    /// Asks for the same action in a way that fails with an error **after** it took effect, the first
    /// time at least, and succeeds when it is tried again. Without it nobody sees whether what is
    /// written before an error is rolled back, or found again, with the row of the barrier.
    #[must_use]
    pub fn stumbling(mut self, ask: impl Fn(Uuid) -> Request + Send + Sync + 'static) -> Self {
        self.stumbling = Some(Box::new(ask));
        self
    }

    /// Asks to undo the action. Required.
    #[must_use]
    pub fn compensation(mut self, ask: impl Fn(Uuid) -> Request + Send + Sync + 'static) -> Self {
        self.compensation = Some(Box::new(ask));
        self
    }

    /// Counts a saga's effects once its replies are here. Without it replies alone are judged: a
    /// participant that says `tombstoned` and acts all the same passes unseen.
    #[must_use]
    pub fn effects<F, E>(mut self, count: impl Fn(Uuid) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Effects, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.effects = Some(Box::new(move |saga_id| {
            let counting = count(saga_id);
            Box::pin(async move { counting.await.map_err(Into::into) })
        }));
        self
    }

    pub(crate) fn ask_action(&self, saga_id: Uuid) -> Result<Request, Error> {
        asked(&self.action, "action", saga_id)
    }

    pub(crate) fn ask_refused(&self, saga_id: Uuid) -> Result<Request, Error> {
        asked(&self.refused, "refused", saga_id)
    }

    pub(crate) fn stumbles(&self) -> bool {
        self.stumbling.is_some()
    }

    pub(crate) fn ask_stumbling(&self, saga_id: Uuid) -> Result<Request, Error> {
        asked(&self.stumbling, "stumbling", saga_id)
    }

    pub(crate) fn ask_compensation(&self, saga_id: Uuid) -> Result<Request, Error> {
        asked(&self.compensation, "compensation", saga_id)
    }

    pub(crate) fn counts_effects(&self) -> bool {
        self.effects.is_some()
    }

    /// None where nobody can count.
    pub(crate) async fn count(&self, saga_id: Uuid) -> Result<Option<Effects>, Error> {
        let Some(count) = &self.effects else {
            return Ok(None);
        };
        let counted = count(saga_id).await;
        Ok(Some(counted.map_err(outbox::Error::permanent)?))
    }
}

fn asked(ask: &Option<Ask>, name: &str, saga_id: Uuid) -> Result<Request, Error> {
    let ask = ask.as_ref().ok_or_else(|| {
        outbox::Error::permanent(format!(
            "the subject of the conformance suite has no `{name}`: say how to ask for it"
        ))
    })?;
    Ok(ask(saga_id))
}

/// How hard to try.
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) patience: Duration,
    pub(crate) sagas: usize,
    pub(crate) seed: u64,
    pub(crate) probe: bool,
    pub(crate) calls_off: bool,
    pub(crate) forgets: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(30),
            sagas: 24,
            // A UUIDv7's lower half is drawn at random.
            seed: Uuid::now_v7().as_u64_pair().1,
            probe: true,
            calls_off: false,
            forgets: false,
        }
    }
}

impl Options {
    /// How long a reply may take before it counts as missing; by default 30 s. Spent only on replies
    /// that do not come.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How many sagas each race and the storm have; by default 24.
    #[must_use]
    pub fn sagas(mut self, sagas: usize) -> Self {
        self.sagas = sagas;
        self
    }

    /// What the storm is drawn from; by default another each time. The report names it.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Whether to ask what became of an operation; by default yes. A participant that does not know
    /// the header `saga-probe` would carry the action out.
    #[must_use]
    pub fn probe(mut self, probe: bool) -> Self {
        self.probe = probe;
        self
    }

    /// Whether the effect is outside of the participant's database, and may be called off there
    /// before it began; by default no. Then an action that raced its compensation or a question may
    /// also have been refused, if nothing of it was ever done.
    #[must_use]
    pub fn calls_off(mut self, calls_off: bool) -> Self {
        self.calls_off = calls_off;
        self
    }

    /// Whether the participant has removed old rows from its barrier, or might have: it knows from when
    /// on it remembers. By default no. Then it is asked for operations that were first sent ten years
    /// ago.
    #[must_use]
    pub fn forgets(mut self, forgets: bool) -> Self {
        self.forgets = forgets;
        self
    }
}
