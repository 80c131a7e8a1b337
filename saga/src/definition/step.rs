//! The typed builder of one step: name, command, reply, and perhaps a compensation.
//!
//! Each call returns another type, so that a step without a reply, or one without a compensation
//! where one is needed, is not accepted by the definition's builder.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use outbox::Payload;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    definition::plan::{Backoff, Class, Compensation, Encode, Fold, PlanStep, Read, Unreadable},
    error::without_content,
};

/// How long an attempt may take when nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts at a compensatable step: giving up early is safe, it can be undone.
const ATTEMPTS: i32 = 3;
/// Attempts at a pivot or a retriable step, and at a compensation: giving up calls a person.
const PERSISTENT_ATTEMPTS: i32 = 20;
/// Executions of a retriable step.
const ROUNDS: i32 = 10;
/// Questions about a pivot that nobody answered for, before a person is asked.
const PROBES: i32 = 3;

/// A step with nothing but its name.
#[derive(Debug)]
pub struct Step {
    name: String,
}

impl Step {
    /// A step is known by its name, in the history too: renaming one makes a new version.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// What is sent to the participant, and on which topic.
    pub fn command<D, C>(
        self,
        topic: impl Into<String>,
        command: impl Fn(&D) -> C + Send + Sync + 'static,
    ) -> Commanded<D>
    where
        D: DeserializeOwned,
        C: Payload,
    {
        Commanded {
            name: self.name,
            topic: topic.into(),
            kind: C::KIND,
            encode: encode(command),
            data: PhantomData,
        }
    }
}

/// A step that knows its command.
pub struct Commanded<D> {
    name: String,
    topic: String,
    kind: &'static str,
    encode: Encode,
    data: PhantomData<fn(D)>,
}

impl<D: Serialize + DeserializeOwned> Commanded<D> {
    /// How the participant's answer changes the saga's data. It must depend on nothing but its
    /// arguments.
    pub fn reply<R: Payload>(self, fold: impl Fn(&mut D, R) + Send + Sync + 'static) -> Replied<D> {
        let fold: Fold = Arc::new(move |data, reply| {
            let mut data = D::deserialize(data).map_err(unreadable_data)?;
            let reply = serde_json::from_slice(reply)
                .map_err(|error| Unreadable::Reply(without_content(&error)))?;
            fold(&mut data, reply);
            serde_json::to_value(&data).map_err(unreadable_data)
        });
        Replied {
            parts: Parts {
                name: self.name,
                topic: self.topic,
                kind: self.kind,
                encode: self.encode,
                reply_kind: R::KIND,
                fold,
                timeout: TIMEOUT,
                attempts: None,
                rounds: None,
                probes: None,
                when: None,
                backoff: Backoff::default(),
            },
            data: PhantomData,
        }
    }
}

/// A step that knows its command and its reply: all that a pivot or a retriable step needs.
pub struct Replied<D> {
    parts: Parts,
    data: PhantomData<fn(D)>,
}

impl<D: DeserializeOwned> Replied<D> {
    /// Left out where this is false when its turn comes. It must depend on nothing but the data.
    #[must_use]
    pub fn when(mut self, condition: impl Fn(&D) -> bool + Send + Sync + 'static) -> Self {
        self.parts.when = Some(read(condition));
        self
    }

    /// How the step is undone, by a command on the same topic.
    pub fn compensation<C: Payload>(
        self,
        command: impl Fn(&D) -> C + Send + Sync + 'static,
    ) -> Compensatable<D> {
        Compensatable {
            parts: self.parts,
            compensation: Compensation {
                kind: C::KIND,
                encode: encode(command),
                attempts: PERSISTENT_ATTEMPTS,
                timeout: None,
                backoff: None,
            },
            data: PhantomData,
        }
    }

    /// How long one attempt may take. 10 s unless said otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.parts.timeout = timeout;
        self
    }

    /// How often the command of one round is sent before its outcome counts as unknown. 20 for a
    /// pivot or a retriable step unless said otherwise.
    #[must_use]
    pub fn attempts(mut self, attempts: i32) -> Self {
        self.parts.attempts = Some(attempts);
        self
    }

    /// How often a refused retriable step is executed anew before a person is asked. 10 unless
    /// said otherwise.
    #[must_use]
    pub fn rounds(mut self, rounds: i32) -> Self {
        self.parts.rounds = Some(rounds);
        self
    }

    /// How often the participant of a pivot is asked what became of it, after all attempts went
    /// unanswered and before a person is asked. 3 unless said otherwise, 0 for a participant that
    /// does not know the question.
    #[must_use]
    pub fn probes(mut self, probes: i32) -> Self {
        self.parts.probes = Some(probes);
        self
    }

    /// The wait between attempts, and between rounds: doubling from `initial` up to `cap`, of
    /// which a random part is waited.
    #[must_use]
    pub fn backoff(mut self, initial: Duration, cap: Duration) -> Self {
        self.parts.backoff = Backoff { initial, cap };
        self
    }

    pub(crate) fn into_pivot(mut self) -> (PlanStep, Option<&'static str>) {
        let misplaced = self.parts.rounds.map(|_| "a pivot has no rounds");
        self.parts.probes.get_or_insert(PROBES);
        let step = self.parts.into_step(Class::Pivot, PERSISTENT_ATTEMPTS);
        (step, misplaced)
    }

    pub(crate) fn into_retriable(self) -> (PlanStep, Option<&'static str>) {
        let misplaced = self.parts.probes.map(|_| "only a pivot has probes");
        let rounds = self.parts.rounds.unwrap_or(ROUNDS);
        let class = Class::Retriable { rounds };
        (self.parts.into_step(class, PERSISTENT_ATTEMPTS), misplaced)
    }
}

/// A step that can be undone.
pub struct Compensatable<D> {
    parts: Parts,
    compensation: Compensation,
    data: PhantomData<fn(D)>,
}

impl<D: DeserializeOwned> Compensatable<D> {
    /// Left out where this is false when its turn comes; then there is nothing to undo either. It
    /// must depend on nothing but the data.
    #[must_use]
    pub fn when(mut self, condition: impl Fn(&D) -> bool + Send + Sync + 'static) -> Self {
        self.parts.when = Some(read(condition));
        self
    }
}

impl<D> Compensatable<D> {
    /// How long one attempt may take, forwards or back. 10 s unless said otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.parts.timeout = timeout;
        self
    }

    /// How often the command is sent before its outcome counts as unknown and the saga turns
    /// back. 3 unless said otherwise.
    #[must_use]
    pub fn attempts(mut self, attempts: i32) -> Self {
        self.parts.attempts = Some(attempts);
        self
    }

    /// The wait between attempts: doubling from `initial` up to `cap`, of which a random part
    /// is waited.
    #[must_use]
    pub fn backoff(mut self, initial: Duration, cap: Duration) -> Self {
        self.parts.backoff = Backoff { initial, cap };
        self
    }

    /// How often the compensation is sent before the saga is parked. 20 unless said otherwise:
    /// giving up here leaves something half done.
    #[must_use]
    pub fn compensation_attempts(mut self, attempts: i32) -> Self {
        self.compensation.attempts = attempts;
        self
    }

    /// How long one attempt at the compensation may take; as long as one at the action unless said
    /// otherwise.
    #[must_use]
    pub fn compensation_timeout(mut self, timeout: Duration) -> Self {
        self.compensation.timeout = Some(timeout);
        self
    }

    /// The wait between attempts at the compensation; the action's unless said otherwise.
    #[must_use]
    pub fn compensation_backoff(mut self, initial: Duration, cap: Duration) -> Self {
        self.compensation.backoff = Some(Backoff { initial, cap });
        self
    }

    pub(crate) fn into_step(self) -> (PlanStep, Option<&'static str>) {
        let rounds = self.parts.rounds;
        let misplaced = rounds.map(|_| "a compensatable step has no rounds");
        let misplaced = misplaced.or(self.parts.probes.map(|_| "only a pivot has probes"));
        let class = Class::Compensatable(self.compensation);
        (self.parts.into_step(class, ATTEMPTS), misplaced)
    }
}

/// What all classes have.
struct Parts {
    name: String,
    topic: String,
    kind: &'static str,
    encode: Encode,
    reply_kind: &'static str,
    fold: Fold,
    timeout: Duration,
    attempts: Option<i32>,
    rounds: Option<i32>,
    probes: Option<i32>,
    when: Option<Read<bool>>,
    backoff: Backoff,
}

impl Parts {
    fn into_step(self, class: Class, attempts: i32) -> PlanStep {
        PlanStep {
            name: self.name,
            class,
            stage: 0,
            when: self.when,
            topic: self.topic,
            kind: self.kind,
            encode: self.encode,
            reply_kind: self.reply_kind,
            fold: self.fold,
            timeout: self.timeout,
            attempts: self.attempts.unwrap_or(attempts),
            probes: self.probes.unwrap_or(0),
            backoff: self.backoff,
        }
    }
}

/// A function of the data, its type erased.
pub(crate) fn read<D: DeserializeOwned, T>(
    of: impl Fn(&D) -> T + Send + Sync + 'static,
) -> Read<T> {
    Arc::new(move |data: &Value| {
        let data = D::deserialize(data).map_err(|error| without_content(&error))?;
        Ok(of(&data))
    })
}

fn encode<D: DeserializeOwned, C: Payload>(
    command: impl Fn(&D) -> C + Send + Sync + 'static,
) -> Encode {
    Arc::new(move |data: &Value| {
        let data = D::deserialize(data).map_err(|error| without_content(&error))?;
        serde_json::to_vec(&command(&data)).map_err(|error| without_content(&error))
    })
}

fn unreadable_data(error: serde_json::Error) -> Unreadable {
    Unreadable::Data(without_content(&error))
}
