//! The typed builder of a definition: compensatable steps, then at most one pivot, then retriable
//! steps. Another order does not compile.

use std::{collections::BTreeMap, marker::PhantomData, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::PgTransaction;

use crate::{
    Error,
    definition::{
        hook::{Ended, Hooks, Parked, StepSettled, erase},
        plan::{self, Plan, PlanStep},
        step::{Compensatable, Replied, read},
        unsound::unsound,
    },
    error::without_content,
    locks::Claim,
};

/// A saga with data of type `D`, as a value.
///
/// ```
/// # use saga::definition::{Definition, Step};
/// # use serde::{Serialize, Deserialize};
/// # #[derive(Serialize, Deserialize)] struct Trip { id: u32, hotel: Option<u32> }
/// # #[derive(Serialize, Deserialize)] struct Book {}
/// # #[derive(Serialize, Deserialize)] struct Booked { id: u32 }
/// # #[derive(Serialize, Deserialize)] struct Cancel { trip: u32 }
/// # impl outbox::Payload for Book { const KIND: &'static str = "hotel.book.v1"; }
/// # impl outbox::Payload for Booked { const KIND: &'static str = "hotel.booked.v1"; }
/// # impl outbox::Payload for Cancel { const KIND: &'static str = "hotel.cancel.v1"; }
/// let definition = Definition::<Trip>::builder("trip", 1)
///     .compensatable(
///         Step::new("book-hotel")
///             .command("hotel.commands", |_: &Trip| Book {})
///             .reply(|trip: &mut Trip, booked: Booked| trip.hotel = Some(booked.id))
///             .compensation(|trip: &Trip| Cancel { trip: trip.id }),
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
            plan: Plan {
                name: name.into(),
                version,
                hash: String::new(),
                steps: Vec::new(),
                deadline: None,
                tags: None,
                locks: Vec::new(),
                migrations: BTreeMap::new(),
            },
            stages: 0,
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
    plan: Plan,
    /// How many stages there are so far.
    stages: usize,
    hooks: Hooks,
    misplaced: Option<&'static str>,
    marker: PhantomData<fn(D, Stage)>,
}

impl<D: DeserializeOwned> Builder<D, BeforePivot> {
    /// A step that can be undone. If a later one fails, its compensation runs.
    pub fn compensatable(self, step: Compensatable<D>) -> Self {
        self.parallel([step])
    }

    /// Steps that can be undone and run at the same time. The next one begins when all of them
    /// took effect; when one fails, those still under way are undone too. They are undone at the
    /// same time as well.
    ///
    /// Each reply is folded into the data as it comes, in any order: fold into different fields.
    pub fn parallel(mut self, steps: impl IntoIterator<Item = Compensatable<D>>) -> Self {
        for step in steps {
            let (step, misplaced) = step.into_step();
            self.push(step, misplaced);
        }
        self.stages += 1;
        self
    }

    /// The point of no return: once it took effect, the saga only goes forwards.
    pub fn pivot(mut self, step: Replied<D>) -> Builder<D, AfterPivot> {
        let (step, misplaced) = step.into_pivot();
        self.push(step, misplaced);
        self.stages += 1;
        self.after_pivot()
    }

    /// A step that must succeed in the end. Without a pivot the first of these is the point of no
    /// return.
    pub fn retriable(self, step: Replied<D>) -> Builder<D, AfterPivot> {
        self.after_pivot().retriable(step)
    }

    fn after_pivot(self) -> Builder<D, AfterPivot> {
        Builder {
            plan: self.plan,
            stages: self.stages,
            hooks: self.hooks,
            misplaced: self.misplaced,
            marker: PhantomData,
        }
    }
}

impl<D: DeserializeOwned> Builder<D, AfterPivot> {
    /// A step that must succeed in the end.
    pub fn retriable(mut self, step: Replied<D>) -> Self {
        let (step, misplaced) = step.into_retriable();
        self.push(step, misplaced);
        self.stages += 1;
        self
    }
}

impl<D: DeserializeOwned, Stage> Builder<D, Stage> {
    fn push(&mut self, step: PlanStep, misplaced: Option<&'static str>) {
        let stage = self.stages;
        self.plan.steps.push(PlanStep { stage, ..step });
        self.misplaced = self.misplaced.or(misplaced);
    }

    /// How long a saga may take. When this has passed, it turns back as if it were cancelled; once
    /// there is no way back, it is only marked late.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.plan.deadline = Some(deadline);
        self
    }

    /// Names and values to find a saga by, read off the data it is started with.
    pub fn tags<K: Into<String>, V: Into<String>, T: IntoIterator<Item = (K, V)>>(
        mut self,
        tags: impl Fn(&D) -> T + Send + Sync + 'static,
    ) -> Self {
        self.plan.tags = Some(read(move |data: &D| {
            let tags = tags(data).into_iter();
            tags.map(|(name, value)| (name.into(), value.into()))
                .collect()
        }));
        self
    }

    /// Units of a named resource that the saga holds from its start to its end. While they are not
    /// to be had it waits, first come first served, and sends nothing. A saga that asks for more
    /// than there is turns back at once. Claims of one resource are one claim of all their units;
    /// an exclusive one stays exclusive.
    pub fn lock(mut self, claim: impl Fn(&D) -> Claim + Send + Sync + 'static) -> Self {
        self.plan.locks.push(read(claim));
        self
    }

    /// How a saga of another version of this definition is brought to this one, by a person's
    /// `migrate`. Both versions have to be defined beside each other. The saga gets this version's
    /// tags, and its deadline from then on if that is another one; it is refused where this version
    /// claims other resources, or has other topics or kinds for steps under way.
    pub fn migrates_from<O: DeserializeOwned>(
        mut self,
        version: i32,
        data: impl Fn(O) -> D + Send + Sync + 'static,
    ) -> Self
    where
        D: Serialize,
    {
        let migration = move |old: &serde_json::Value| {
            let old = O::deserialize(old).map_err(|error| without_content(&error))?;
            serde_json::to_value(data(old)).map_err(|error| without_content(&error))
        };
        self.plan.migrations.insert(version, Arc::new(migration));
        self
    }
}

/// Declares a hook: its type is the same each time, the occasion differs.
macro_rules! hook {
    ($(#[$meta:meta])* $name:ident: $occasion:ident) => {
        $(#[$meta])*
        pub fn $name<F>(mut self, hook: F) -> Self
        where
            F: for<'a, 'c> Fn(
                    &'a mut PgTransaction<'c>,
                    $occasion<D>,
                ) -> BoxFuture<'a, Result<(), outbox::Error>>
                + Send
                + Sync
                + 'static,
        {
            self.hooks.$name = Some(erase(self.plan.name.clone(), hook));
            self
        }
    };
}

impl<D: Serialize + DeserializeOwned + Send + 'static, Stage> Builder<D, Stage> {
    hook! {
        /// What changes in the orchestrator's own rows when a step took effect or was undone, in the
        /// transaction that records it.
        on_step: StepSettled
    }
    hook! {
        /// What changes in the orchestrator's own rows when the saga completes, in the transaction
        /// that completes it. If it fails, the saga has not completed.
        on_completed: Ended
    }
    hook! {
        /// What changes in the orchestrator's own rows when the saga has been undone, in the
        /// transaction that records it.
        on_compensated: Ended
    }
    hook! {
        /// What changes in the orchestrator's own rows when a person gives the saga up.
        on_abandoned: Ended
    }
    hook! {
        /// What changes in the orchestrator's own rows when the saga comes to wait for a person: a
        /// notice, say.
        on_parked: Parked
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    ///
    /// [`Error::Definition`]: no steps, an empty or repeated name, a version, timeout or budget
    /// that is not positive, rounds where there are none, a timeout longer than the deadline, a
    /// deadline of more than ten years, budgets that last longer than participants remember an
    /// operation (15 days).
    pub fn build(self) -> Result<Definition<D>, Error> {
        let mut plan = self.plan;
        let reason = unsound(&plan).or(self.misplaced.map(str::to_owned));
        if let Some(reason) = reason {
            return Err(Error::Definition {
                definition: plan.name,
                reason,
            });
        }
        plan.hash = plan::hash(&plan.name, plan.version, &plan.steps);
        Ok(Definition {
            plan,
            hooks: self.hooks,
            data: PhantomData,
        })
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
            trip().pivot(step("pay").backoff(Duration::from_secs(1), zero)),
            "the longest backoff of step pay",
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
    fn times_that_cannot_be_meant_are_refused_by_name() {
        let refused = |builder: Builder<Trip, AfterPivot>, why: &str| {
            let error = builder.build().err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        };
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        let century = 36_500 * day;
        refused(
            trip().pivot(step("pay")).deadline(century),
            "its deadline is more than ten years",
        );
        refused(
            trip().pivot(step("pay").timeout(2 * hour)).deadline(hour),
            "the timeout of step pay, 7200s, is longer than the deadline of the saga, 3600s",
        );
        refused(
            trip()
                .compensatable(undoable("hold").timeout(2 * hour))
                .deadline(hour)
                .pivot(step("pay")),
            "the timeout of step hold",
        );
        // What comes after the pivot may outlast it: the saga is late then, and goes on.
        let late = trip()
            .pivot(step("pay"))
            .retriable(step("post").timeout(2 * hour))
            .deadline(hour);
        assert!(late.build().is_ok());

        refused(
            trip().pivot(step("pay").timeout(century)),
            "waits step pay may be sent again for longer than participants remember an operation, \
             15 days",
        );
        refused(
            trip()
                .pivot(step("pay"))
                .retriable(step("post").attempts(1_000_000)),
            "waits step post",
        );
        let waits = step("pay").attempts(20).backoff(day, day);
        refused(trip().pivot(waits), "waits step pay");
        let probed = step("pay").attempts(1).timeout(4 * day).probes(3);
        refused(trip().pivot(probed), "waits step pay");
        let undone = undoable("hold").compensation_timeout(day);
        refused(
            trip().compensatable(undone).pivot(step("pay")),
            "waits the compensation of step hold",
        );
        let slow = |name| {
            undoable(name)
                .attempts(4)
                .timeout(day)
                .compensation_timeout(hour)
        };
        refused(
            trip()
                .parallel([slow("a"), slow("b")])
                .compensatable(slow("c"))
                .pivot(step("pay").attempts(7).timeout(day)),
            "its first one may be compensated after more than the 15 days",
        );
        let fits = trip()
            .parallel([slow("a"), slow("b")])
            .compensatable(slow("c"));
        assert!(fits.pivot(step("pay")).build().is_ok());
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
