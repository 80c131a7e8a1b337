//! What a trial is given: a definition, the data a saga starts with, what each step's participant
//! answers and, if it matters, what it does to a ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use outbox::Payload;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Error,
    decide::{self, Command, Decision},
    definition::{Class, Definition, Plan},
    event::{Answer, Input},
    instance::Instance,
    operation::Phase,
    testing::{
        closures::{named, watch, watched},
        course::{Stopped, broken},
        ledger::Ledger,
    },
    wire::Refusal,
};

/// What a participant does to the ledger when a command is carried out.
pub(crate) type Business = Arc<dyn Fn(&mut Ledger, &[u8]) -> Result<(), Refusal> + Send + Sync>;
/// Data as the definition's type reads and writes it.
type Reread = Arc<dyn Fn(&Value) -> Result<Value, String> + Send + Sync>;
/// [`decide`](decide::decide), or what a test of these trials puts in its place.
pub(crate) type Decide =
    Arc<dyn Fn(&Plan, &Instance, &Input) -> Result<Decision, Error> + Send + Sync>;

/// A saga to be tried, and the world it meets.
///
/// ```
/// # use outbox::Payload;
/// # use saga::{Definition, Step, testing::{Given, Ledger, fails_at_each_step}};
/// # use serde::{Serialize, Deserialize};
/// # #[derive(Serialize, Deserialize)] struct Trip { hotel: Option<u32> }
/// # #[derive(Serialize, Deserialize)] struct Book {}
/// # #[derive(Serialize, Deserialize)] struct Booked { id: u32 }
/// # #[derive(Serialize, Deserialize)] struct Cancel {}
/// # impl outbox::Payload for Book { const KIND: &'static str = "hotel.book.v1"; }
/// # impl outbox::Payload for Booked { const KIND: &'static str = "hotel.booked.v1"; }
/// # impl outbox::Payload for Cancel { const KIND: &'static str = "hotel.cancel.v1"; }
/// # let definition = Definition::<Trip>::builder("trip", 1)
/// #     .compensatable(
/// #         Step::new("book-hotel")
/// #             .command("hotel.commands", |_: &Trip| Book {})
/// #             .reply(|trip: &mut Trip, booked: Booked| trip.hotel = Some(booked.id))
/// #             .compensation(|_: &Trip| Cancel {}),
/// #     )
/// #     .build()?;
/// let given = Given::new(&definition, &Trip { hotel: None })
///     .reply("book-hotel", &Booked { id: 7 })
///     .listens("hotel.commands", [Book::KIND, Cancel::KIND])
///     .ledger(Ledger::new().with("ada", 100))
///     .does("book-hotel", |ledger, _: Book| ledger.hold("ada", 80))
///     .undoes("book-hotel", |ledger, _: Cancel| ledger.release("ada", 80));
/// fails_at_each_step(&given);
/// # Ok::<(), saga::Error>(())
/// ```
#[derive(Clone)]
pub struct Given {
    pub(crate) plan: Plan,
    pub(crate) data: Value,
    replies: BTreeMap<String, Vec<u8>>,
    business: BTreeMap<(String, &'static str), Business>,
    external: Vec<String>,
    /// The kinds that are listened for, by topic; none where that is not judged.
    listeners: Option<BTreeMap<String, BTreeSet<&'static str>>>,
    /// The version that sagas may be brought to.
    next: Option<Arc<Given>>,
    pub(crate) ledger: Ledger,
    /// Whether participants keep theirs.
    pub(crate) barrier: bool,
    reread: Reread,
    decide: Decide,
}

impl Given {
    /// A saga of this definition that starts with this data.
    ///
    /// # Panics
    ///
    /// If the data cannot be written as JSON.
    #[must_use]
    #[track_caller]
    pub fn new<D: Serialize + DeserializeOwned>(definition: &Definition<D>, data: &D) -> Self {
        let data = serde_json::to_value(data).expect("the saga's data is written as JSON");
        let reread = |value: &Value| {
            let read = D::deserialize(value).map_err(|error| error.to_string())?;
            serde_json::to_value(&read).map_err(|error| error.to_string())
        };
        Self {
            plan: watch(definition.plan().clone()),
            data,
            replies: BTreeMap::new(),
            business: BTreeMap::new(),
            external: Vec::new(),
            listeners: Some(BTreeMap::new()),
            next: None,
            ledger: Ledger::new(),
            barrier: true,
            reread: Arc::new(reread),
            decide: Arc::new(decide::decide),
        }
    }

    /// What a step's participant answers when its action took effect.
    ///
    /// # Panics
    ///
    /// If there is no such step, or it awaits a reply of another kind.
    #[must_use]
    #[track_caller]
    pub fn reply<R: Payload>(mut self, step: &str, reply: &R) -> Self {
        let awaited = self.known(step).reply_kind();
        assert_eq!(
            R::KIND,
            awaited,
            "step {step} awaits replies of kind {awaited}"
        );
        let reply = serde_json::to_vec(reply).expect("the reply is written as JSON");
        self.replies.insert(step.to_owned(), reply);
        self
    }

    /// Somebody listens on this topic, for commands of these kinds: as *their* code has it, not as the
    /// definition does. A command that goes where nobody listens for it fails every trial.
    #[must_use]
    pub fn listens(
        mut self,
        topic: impl Into<String>,
        kinds: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        let listeners = self.listeners.get_or_insert_default();
        listeners.entry(topic.into()).or_default().extend(kinds);
        self
    }

    /// Topics and kinds are not judged.
    pub(crate) fn heard_anyhow(mut self) -> Self {
        self.listeners = None;
        self
    }

    /// A later version of the definition, to which a person may bring the saga wherever that is
    /// allowed: [`explore`](crate::testing::explore) and [`wander`](crate::testing::wander) try it.
    /// The ledger is this one's.
    ///
    /// # Panics
    ///
    /// If it does not migrate from this version.
    #[must_use]
    #[track_caller]
    pub fn migrates_to(mut self, next: Given) -> Self {
        let (from, to) = (self.plan.version, next.plan.version);
        assert!(
            next.plan.migrations.contains_key(&from),
            "version {to} of {} has no migration from version {from}",
            next.plan.name
        );
        self.next = Some(Arc::new(next));
        self
    }

    /// The accounts that [`does`](Given::does) and [`undoes`](Given::undoes) work on.
    #[must_use]
    pub fn ledger(mut self, ledger: Ledger) -> Self {
        self.ledger = ledger;
        self
    }

    /// What a step's participant does to the ledger. A refusal is one: nothing of it remains.
    ///
    /// # Panics
    ///
    /// If there is no such step, or its command is of another kind.
    #[must_use]
    #[track_caller]
    pub fn does<C: Payload>(
        mut self,
        step: &str,
        action: impl Fn(&mut Ledger, C) -> Result<(), Refusal> + Send + Sync + 'static,
    ) -> Self {
        let sent = self.known(step).command_kind();
        assert_eq!(
            C::KIND,
            sent,
            "the command of step {step} is of kind {sent}"
        );
        let key = (step.to_owned(), Phase::Action.as_str());
        let name = format!("what the participant of {step} does");
        self.business.insert(key, business(name, action));
        self
    }

    /// What undoes it. It must not refuse: a trial that meets a refusal here fails.
    ///
    /// # Panics
    ///
    /// If there is no such step, it has no compensation, or its command is of another kind.
    #[must_use]
    #[track_caller]
    pub fn undoes<C: Payload>(
        mut self,
        step: &str,
        compensation: impl Fn(&mut Ledger, C) -> Result<(), Refusal> + Send + Sync + 'static,
    ) -> Self {
        let Class::Compensatable(undo) = self.known(step).class() else {
            panic!("step {step} has no compensation")
        };
        let sent = undo.command_kind();
        assert_eq!(
            C::KIND,
            sent,
            "the compensation of step {step} is of kind {sent}"
        );
        let key = (step.to_owned(), Phase::Compensation.as_str());
        let name = format!("how the participant of {step} undoes it");
        self.business.insert(key, business(name, compensation));
        self
    }

    /// This step's effect is outside of its participant's database: it takes a while, and what comes
    /// meanwhile has to wait.
    ///
    /// # Panics
    ///
    /// If there is no such step.
    #[must_use]
    #[track_caller]
    pub fn external(mut self, step: &str) -> Self {
        let _known = self.known(step);
        self.external.push(step.to_owned());
        self
    }

    /// Participants that carry out whatever comes, as often as it comes: to see a trial fail.
    #[must_use]
    pub fn without_barrier(mut self) -> Self {
        self.barrier = false;
        self
    }

    /// Budgets cut down so that a search through all orders ends.
    pub(crate) fn capped(mut self, attempts: i32, rounds: i32, probes: i32) -> Self {
        for step in &mut self.plan.steps {
            step.attempts = step.attempts.min(attempts);
            step.probes = step.probes.min(probes);
            match &mut step.class {
                Class::Compensatable(undo) => undo.attempts = undo.attempts.min(attempts),
                Class::Retriable { rounds: known } => *known = (*known).min(rounds),
                Class::Pivot => {}
            }
        }
        let next = self.next.take();
        let next = next.map(|next| (*next).clone().capped(attempts, rounds, probes));
        self.next = next.map(Arc::new);
        self
    }

    #[cfg(test)]
    pub(crate) fn decided_by(
        mut self,
        decide: impl Fn(&Plan, &Instance, &Input) -> Result<Decision, Error> + Send + Sync + 'static,
    ) -> Self {
        self.decide = Arc::new(decide);
        self
    }

    /// What is decided. A panic is a broken promise.
    pub(crate) fn decide(
        &self,
        instance: &Instance,
        input: &Input,
    ) -> Result<Result<Decision, Error>, Stopped> {
        watched(|| (self.decide)(&self.plan, instance, input))
    }

    /// The version that sagas may be brought to from this one.
    pub(crate) fn next(&self) -> Option<&Self> {
        self.next.as_deref()
    }

    /// This one, or one that follows it, for sagas of that version.
    pub(crate) fn version(&self, version: i32) -> &Self {
        let mut given = self;
        while given.plan.version != version
            && let Some(next) = given.next()
        {
            given = next;
        }
        given
    }

    /// A command goes where the definition says, and somebody listens there for its kind.
    pub(crate) fn heard_by_somebody(&self, command: &Command) -> Result<(), Stopped> {
        let Command {
            operation,
            topic,
            kind,
            ..
        } = command;
        let (name, phase) = (&operation.step, operation.phase);
        let step = self.plan.steps.iter().find(|step| step.name == *name);
        let Some(step) = step else {
            return broken(format!("a command is sent for {name}, which is no step"));
        };
        let wanted = match (&step.class, phase) {
            (Class::Compensatable(undo), Phase::Compensation) => undo.kind,
            _ => step.kind,
        };
        if (topic, *kind) != (&step.topic, wanted) {
            return broken(format!(
                "the {phase} of {name} is sent as {kind} on {topic}, the definition says {wanted} on {}",
                step.topic
            ));
        }
        let Some(listeners) = &self.listeners else {
            return Ok(());
        };
        if listeners
            .get(topic)
            .is_some_and(|kinds| kinds.contains(kind))
        {
            return Ok(());
        }
        let elsewhere = listeners.iter().filter(|(_, kinds)| kinds.contains(kind));
        let elsewhere: Vec<_> = elsewhere.map(|(topic, _)| topic.as_str()).collect();
        let hint = match elsewhere.is_empty() {
            true => format!("say who does: `.listens({topic:?}, [{kind:?}, …])`"),
            false => format!("it is listened for on {}", elsewhere.join(", ")),
        };
        broken(format!(
            "the {phase} of {name} is sent as {kind} on {topic}, where nobody listens for it; {hint}"
        ))
    }

    /// The data as the definition's type reads and writes it.
    pub(crate) fn reread(&self, data: &Value) -> Result<Value, String> {
        (self.reread)(data)
    }

    /// A step's stage; 0 if there is no such step.
    pub(crate) fn stage_of(&self, step: &str) -> usize {
        let found = self.plan.steps.iter().find(|known| known.name == step);
        found.map_or(0, |step| step.stage)
    }

    pub(crate) fn is_external(&self, step: &str) -> bool {
        self.external.iter().any(|name| name == step)
    }

    pub(crate) fn business(&self, step: &str, phase: Phase) -> Option<&Business> {
        self.business.get(&(step.to_owned(), phase.as_str()))
    }

    /// The sample answer, as JSON.
    #[track_caller]
    pub(crate) fn sample(&self, step: &str) -> &[u8] {
        self.replies.get(step).unwrap_or_else(|| {
            let kind = self.known(step).reply_kind();
            panic!("a trial needs to know what step {step} answers: add `.reply({step:?}, &…)` with a reply of kind {kind}")
        })
    }

    pub(crate) fn success(&self, step: &str) -> Answer {
        Answer::Succeeded {
            kind: self.known(step).reply_kind().to_owned(),
            payload: self.sample(step).to_vec(),
        }
    }

    #[track_caller]
    fn known(&self, step: &str) -> &crate::definition::PlanStep {
        let found = self.plan.steps.iter().find(|known| known.name == step);
        found.unwrap_or_else(|| {
            let known = self.plan.steps.iter().map(|step| step.name.as_str());
            let known: Vec<_> = known.collect();
            panic!(
                "{} has no step {step}; it has {}",
                self.plan.name,
                known.join(", ")
            )
        })
    }
}

fn business<C: Payload>(
    name: String,
    of: impl Fn(&mut Ledger, C) -> Result<(), Refusal> + Send + Sync + 'static,
) -> Business {
    Arc::new(move |ledger, payload| {
        named(&name, || {
            let command =
                serde_json::from_slice(payload).expect("the command reads as its own type");
            of(ledger, command)
        })
    })
}
