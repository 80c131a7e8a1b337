//! The typed builder of a definition: compensatable steps, then at most one pivot, then retriable
//! steps. Another order does not compile.

use std::{marker::PhantomData, time::Duration};

use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::PgTransaction;

use crate::{
    Error,
    definition::{
        hook::{Ended, Hooks, erase},
        plan::{self, Class, Plan, PlanStep},
        step::{Compensatable, Replied},
    },
};

/// A saga with data of type `D`, as a value.
///
/// ```
/// # use saga::definition::{Definition, Step};
/// # use serde::{Serialize, Deserialize};
/// # #[derive(Serialize, Deserialize)] struct Trip { hotel: Option<u32> }
/// # #[derive(Serialize, Deserialize)] struct Book {}
/// # #[derive(Serialize, Deserialize)] struct Booked { id: u32 }
/// # #[derive(Serialize, Deserialize)] struct Cancel { id: Option<u32> }
/// # impl outbox::Payload for Book { const KIND: &'static str = "hotel.book.v1"; }
/// # impl outbox::Payload for Booked { const KIND: &'static str = "hotel.booked.v1"; }
/// # impl outbox::Payload for Cancel { const KIND: &'static str = "hotel.cancel.v1"; }
/// let definition = Definition::<Trip>::builder("trip", 1)
///     .compensatable(
///         Step::new("book-hotel")
///             .command("hotel.commands", |_: &Trip| Book {})
///             .reply(|trip: &mut Trip, booked: Booked| trip.hotel = Some(booked.id))
///             .compensation(|trip: &Trip| Cancel { id: trip.hotel }),
///     )
///     .build()?;
/// # Ok::<(), saga::Error>(())
/// ```
pub struct Definition<D> {
    pub(crate) plan: Plan,
    pub(crate) hooks: Hooks,
    data: PhantomData<fn(D)>,
}

impl<D> Definition<D> {
    /// Starts a definition. Raise the version whenever a step, its class, its kinds, its topic or
    /// the order changes; sagas in flight end under the version they began with.
    pub fn builder(name: impl Into<String>, version: i32) -> Builder<D, BeforePivot> {
        Builder {
            name: name.into(),
            version,
            steps: Vec::new(),
            hooks: Hooks::default(),
            misplaced: None,
            marker: PhantomData,
        }
    }

    /// The definition without its types.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// The stage in which a step that can be undone may still be added.
#[derive(Debug)]
pub enum BeforePivot {}

/// The stage in which only retriable steps may be added.
#[derive(Debug)]
pub enum AfterPivot {}

/// Collects steps in the one order that can be steered.
#[doc = include_str!("order.md")]
#[must_use]
pub struct Builder<D, Stage> {
    name: String,
    version: i32,
    steps: Vec<PlanStep>,
    hooks: Hooks,
    misplaced: Option<&'static str>,
    marker: PhantomData<fn(D, Stage)>,
}

impl<D: DeserializeOwned> Builder<D, BeforePivot> {
    /// A step that can be undone. If a later one fails, its compensation runs.
    pub fn compensatable(mut self, step: Compensatable<D>) -> Self {
        let (step, misplaced) = step.into_step();
        self.steps.push(step);
        self.misplaced = self.misplaced.or(misplaced);
        self
    }

    /// The point of no return: once it took effect, the saga only goes forwards.
    pub fn pivot(mut self, step: Replied<D>) -> Builder<D, AfterPivot> {
        let (step, misplaced) = step.into_pivot();
        self.steps.push(step);
        self.misplaced = self.misplaced.or(misplaced);
        self.after_pivot()
    }

    /// A step that must succeed in the end. Without a pivot the first of these is the point of no
    /// return.
    pub fn retriable(mut self, step: Replied<D>) -> Builder<D, AfterPivot> {
        self.steps.push(step.into_retriable());
        self.after_pivot()
    }

    fn after_pivot(self) -> Builder<D, AfterPivot> {
        Builder {
            name: self.name,
            version: self.version,
            steps: self.steps,
            hooks: self.hooks,
            misplaced: self.misplaced,
            marker: PhantomData,
        }
    }
}

impl<D: DeserializeOwned> Builder<D, AfterPivot> {
    /// A step that must succeed in the end.
    pub fn retriable(mut self, step: Replied<D>) -> Self {
        self.steps.push(step.into_retriable());
        self
    }
}

impl<D: Serialize + DeserializeOwned + Send + 'static, Stage> Builder<D, Stage> {
    /// What changes in the orchestrator's own rows when the saga completes, in the transaction
    /// that completes it. If it fails, the saga has not completed.
    pub fn on_completed<F>(mut self, hook: F) -> Self
    where
        F: for<'a, 'c> Fn(
                &'a mut PgTransaction<'c>,
                Ended<D>,
            ) -> BoxFuture<'a, Result<(), outbox::Error>>
            + Send
            + Sync
            + 'static,
    {
        self.hooks.on_completed = Some(erase(self.name.clone(), hook));
        self
    }

    /// What changes in the orchestrator's own rows when the saga has been undone, in the
    /// transaction that records it.
    pub fn on_compensated<F>(mut self, hook: F) -> Self
    where
        F: for<'a, 'c> Fn(
                &'a mut PgTransaction<'c>,
                Ended<D>,
            ) -> BoxFuture<'a, Result<(), outbox::Error>>
            + Send
            + Sync
            + 'static,
    {
        self.hooks.on_compensated = Some(erase(self.name.clone(), hook));
        self
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    ///
    /// [`Error::Definition`]: no steps, an empty or repeated name, a version, timeout or budget
    /// that is not positive, rounds where there are none.
    pub fn build(self) -> Result<Definition<D>, Error> {
        if let Some(reason) = self.contradiction() {
            return Err(Error::Definition {
                definition: self.name,
                reason,
            });
        }
        let plan = Plan {
            hash: plan::hash(&self.name, self.version, &self.steps),
            name: self.name,
            version: self.version,
            steps: self.steps,
        };
        Ok(Definition {
            plan,
            hooks: self.hooks,
            data: PhantomData,
        })
    }

    fn contradiction(&self) -> Option<String> {
        if self.name.is_empty() {
            return Some("it has no name".to_owned());
        }
        if self.version < 1 {
            return Some("its version is not positive".to_owned());
        }
        if self.steps.is_empty() {
            return Some("it has no steps".to_owned());
        }
        if let Some(reason) = self.misplaced {
            return Some(reason.to_owned());
        }
        for (index, step) in self.steps.iter().enumerate() {
            if step.name.is_empty() {
                return Some("a step has no name".to_owned());
            }
            if self.steps[..index].iter().any(|s| s.name == step.name) {
                return Some(format!("two steps are called {}", step.name));
            }
            if let Some(what) = not_positive(step) {
                return Some(format!("{what} of step {} is not positive", step.name));
            }
        }
        None
    }
}

fn not_positive(step: &PlanStep) -> Option<&'static str> {
    match &step.class {
        _ if step.timeout.is_zero() => Some("the timeout"),
        _ if step.attempts < 1 => Some("the number of attempts"),
        _ if step.backoff.initial == Duration::ZERO => Some("the backoff"),
        Class::Compensatable(c) if c.attempts < 1 => Some("the number of compensation attempts"),
        Class::Retriable { rounds } if *rounds < 1 => Some("the number of rounds"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use outbox::Payload;
    use serde::Deserialize;

    use super::*;
    use crate::definition::Step;

    #[derive(Serialize, Deserialize)]
    struct Trip {}

    macro_rules! payload {
        ($name:ident) => {
            #[derive(Serialize, Deserialize)]
            struct $name {}
            impl Payload for $name {
                const KIND: &'static str = stringify!($name);
            }
        };
    }
    payload!(Do);
    payload!(DoOtherwise);
    payload!(Done);
    payload!(DoneOtherwise);
    payload!(Undo);
    payload!(UndoOtherwise);

    fn step(name: &str) -> Replied<Trip> {
        Step::new(name)
            .command("topic", |_: &Trip| Do {})
            .reply(|_: &mut Trip, _: Done| {})
    }

    fn undoable(name: &str) -> Compensatable<Trip> {
        step(name).compensation(|_: &Trip| Undo {})
    }

    fn trip() -> Builder<Trip, BeforePivot> {
        Definition::builder("trip", 1)
    }

    fn hash<S>(builder: Builder<Trip, S>) -> String {
        builder.build().unwrap().plan.hash
    }

    #[test]
    fn what_the_types_cannot_forbid_is_refused_by_name() {
        let refused = |builder: Builder<Trip, AfterPivot>, why: &str| {
            let error = builder.build().err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        };
        let nothing = trip().build().err().unwrap().to_string();
        assert_eq!(nothing, "definition trip: it has no steps");
        let nameless = Definition::<Trip>::builder("", 1);
        refused(nameless.pivot(step("pay")), "it has no name");
        let unversioned = Definition::<Trip>::builder("trip", 0);
        refused(unversioned.pivot(step("pay")), "version is not positive");
        refused(trip().pivot(step("")), "a step has no name");
        let twice = trip().compensatable(undoable("pay"));
        refused(twice.pivot(step("pay")), "two steps are called pay");
        let zero = Duration::ZERO;
        refused(
            trip().pivot(step("pay").timeout(zero)),
            "the timeout of step pay",
        );
        refused(
            trip().pivot(step("pay").attempts(0)),
            "the number of attempts of step pay",
        );
        refused(
            trip().pivot(step("pay").backoff(zero, zero)),
            "the backoff of step pay",
        );
        refused(
            trip().retriable(step("pay").rounds(0)),
            "the number of rounds of step pay",
        );
        let hopeless = trip().compensatable(undoable("hold").compensation_attempts(0));
        refused(
            hopeless.pivot(step("pay")),
            "compensation attempts of step hold",
        );
        refused(trip().pivot(step("pay").rounds(2)), "a pivot has no rounds");
        let rounds = step("hold").rounds(2).compensation(|_: &Trip| Undo {});
        let rounds = trip().compensatable(rounds);
        refused(
            rounds.pivot(step("pay")),
            "a compensatable step has no rounds",
        );
    }

    #[test]
    fn the_hash_covers_what_steers_a_saga_and_nothing_else() {
        let base = || trip().compensatable(undoable("a")).pivot(step("b"));
        let same = hash(base());
        let budgets = undoable("a")
            .timeout(Duration::from_secs(1))
            .attempts(9)
            .compensation_attempts(9)
            .backoff(Duration::from_secs(1), Duration::from_secs(2));
        assert_eq!(hash(trip().compensatable(budgets).pivot(step("b"))), same);

        let command = Step::new("a")
            .command("topic", |_: &Trip| DoOtherwise {})
            .reply(|_: &mut Trip, _: Done| {});
        let reply = Step::new("a")
            .command("topic", |_: &Trip| Do {})
            .reply(|_: &mut Trip, _: DoneOtherwise| {});
        let topic = Step::new("a")
            .command("elsewhere", |_: &Trip| Do {})
            .reply(|_: &mut Trip, _: Done| {});
        let changed_steps = [command, reply, topic].map(|step| {
            let step = step.compensation(|_: &Trip| Undo {});
            hash(trip().compensatable(step).pivot(self::step("b")))
        });
        let compensation = step("a").compensation(|_: &Trip| UndoOtherwise {});
        let changed_graphs = [
            hash(trip().compensatable(compensation).pivot(step("b"))),
            hash(trip().compensatable(undoable("a")).retriable(step("b"))),
            hash(trip().compensatable(undoable("b")).pivot(step("a"))),
            hash(base().retriable(step("c"))),
            hash(
                Definition::builder("trip", 2)
                    .compensatable(undoable("a"))
                    .pivot(step("b")),
            ),
            hash(
                Definition::builder("tour", 1)
                    .compensatable(undoable("a"))
                    .pivot(step("b")),
            ),
        ];
        let mut all = vec![same];
        all.extend(changed_steps);
        all.extend(changed_graphs);
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
