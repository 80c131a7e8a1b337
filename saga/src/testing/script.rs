//! One story of one saga, told and expected line by line; after eventuate's `SagaUnitTestSupport`.
//!
//! What happens is said by verbs in the present tense, what is expected by `expect_…`. An expectation
//! is about what the last happening did. Whatever is not as expected fails with the story so far.

use std::time::Duration;

use outbox::Payload;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    decide::{Decision, Effect},
    definition::Definition,
    event::{Answer, Event, Input, LockAnswer, Reply, Timer},
    instance::WaitingFor,
    intervention::What,
    operation::Phase,
    testing::{
        course::{Course, Stopped},
        given::Given,
        scene::{ALONE, person},
        timeline::{Timeline, input_line, what_line},
    },
    wire::Refusal,
};

/// Nobody waits longer than this many timers for one step.
const PATIENCE: usize = 10_000;

/// A saga whose story is being told.
///
/// ```
/// # use saga::{Definition, Status, Step, testing::Script};
/// # use serde::{Serialize, Deserialize};
/// # #[derive(Serialize, Deserialize)] struct Trip { hotel: Option<u32> }
/// # #[derive(Serialize, Deserialize)] struct Book {}
/// # #[derive(Serialize, Deserialize)] struct Booked { id: u32 }
/// # #[derive(Debug, PartialEq, Serialize, Deserialize)] struct Cancel {}
/// # #[derive(Serialize, Deserialize)] struct Pay {}
/// # #[derive(Serialize, Deserialize)] struct Paid {}
/// # impl outbox::Payload for Book { const KIND: &'static str = "hotel.book.v1"; }
/// # impl outbox::Payload for Booked { const KIND: &'static str = "hotel.booked.v1"; }
/// # impl outbox::Payload for Cancel { const KIND: &'static str = "hotel.cancel.v1"; }
/// # impl outbox::Payload for Pay { const KIND: &'static str = "pay.v1"; }
/// # impl outbox::Payload for Paid { const KIND: &'static str = "paid.v1"; }
/// # let definition = Definition::<Trip>::builder("trip", 1)
/// #     .compensatable(
/// #         Step::new("book-hotel")
/// #             .command("hotel.commands", |_: &Trip| Book {})
/// #             .reply(|trip: &mut Trip, booked: Booked| trip.hotel = Some(booked.id))
/// #             .compensation(|_: &Trip| Cancel {}),
/// #     )
/// #     .pivot(Step::new("pay").command("pay", |_: &Trip| Pay {}).reply(|_: &mut Trip, _: Paid| {}))
/// #     .build()?;
/// Script::of(&definition, &Trip { hotel: None })
///     .expect_sent("book-hotel")
///     .succeeds("book-hotel", &Booked { id: 7 })
///     .expect_sent("pay")
///     .refuses("pay", "card_declined", "The card was declined.")
///     .expect_compensation("book-hotel", &Cancel {})
///     .compensates("book-hotel")
///     .expect_status(Status::Compensated)
///     .expect_undone(["book-hotel"]);
/// # Ok::<(), saga::Error>(())
/// ```
pub struct Script {
    given: Given,
    pub(crate) course: Course,
    pub(crate) last: Decision,
    pub(crate) history: Vec<Event>,
    pub(crate) told: Timeline,
    /// The time on the script's own clock.
    now: Duration,
    /// When each timer is due.
    due: Vec<(Duration, Timer)>,
}

impl Script {
    /// A saga of this definition that has just started with this data.
    ///
    /// # Panics
    ///
    /// If it cannot start.
    #[must_use]
    #[track_caller]
    pub fn of<D: Serialize + DeserializeOwned>(definition: &Definition<D>, data: &D) -> Self {
        let given = Given::new(definition, data).heard_anyhow();
        let (course, last) = match Course::begin(&given, ALONE) {
            Ok(begun) => begun,
            Err(stopped) => panic!("the saga does not start: {}", stopped.reason()),
        };
        let mut script = Self {
            given,
            course,
            last: Decision::default(),
            history: Vec::new(),
            told: Timeline::default(),
            now: Duration::ZERO,
            due: Vec::new(),
        };
        script.told.happened("the saga starts");
        script.note(last);
        script
    }

    // --- what happens ---

    /// The step's participant answers that its action took effect.
    ///
    /// # Panics
    ///
    /// If a promise is broken by what follows, or an answer is given that nothing was sent for; so do
    /// all others that say what happens.
    #[must_use]
    #[track_caller]
    pub fn succeeds<R: Payload>(self, step: &str, reply: &R) -> Self {
        let payload = serde_json::to_vec(reply).expect("the reply is written as JSON");
        let kind = R::KIND.to_owned();
        self.answers(step, Phase::Action, Answer::Succeeded { kind, payload })
    }

    /// The step's participant refuses its action.
    #[must_use]
    #[track_caller]
    pub fn refuses(self, step: &str, code: &str, message: &str) -> Self {
        self.answers(
            step,
            Phase::Action,
            Answer::Failed(Refusal::new(code, message)),
        )
    }

    /// The step's participant says that the action was called off before it came.
    #[must_use]
    #[track_caller]
    pub fn was_called_off(self, step: &str) -> Self {
        self.answers(step, Phase::Action, Answer::Tombstoned)
    }

    /// The step's participant says that it undid the action.
    #[must_use]
    #[track_caller]
    pub fn compensates(self, step: &str) -> Self {
        self.answers(step, Phase::Compensation, Answer::Compensated)
    }

    /// The step's participant says that there was nothing to undo.
    #[must_use]
    #[track_caller]
    pub fn finds_nothing_to_undo(self, step: &str) -> Self {
        self.answers(step, Phase::Compensation, Answer::NullCompensated)
    }

    /// The next moment that something waits for comes, the deadline aside.
    #[must_use]
    #[track_caller]
    pub fn time_passes(self) -> Self {
        let next = self
            .due
            .iter()
            .filter(|(_, timer)| *timer != Timer::Deadline);
        let Some((at, timer)) = next.min_by_key(|(at, _)| *at).cloned() else {
            self.fail("no timer is set")
        };
        self.fires(at, timer)
    }

    /// The next moment that this step waits for comes.
    #[must_use]
    #[track_caller]
    pub fn time_passes_for(self, step: &str) -> Self {
        let of_step = |timer: &Timer| matches!(timer, Timer::Attempt(due) if due.step == step);
        let mine = self.due.iter().find(|(_, timer)| of_step(timer)).cloned();
        let Some((at, timer)) = mine else {
            self.fail(format!("no timer of {step} is set"))
        };
        self.fires(at, timer)
    }

    /// The step's participant never answers what it is asked now: time passes through all attempts,
    /// and all probes, until the saga gives up on it.
    #[must_use]
    #[track_caller]
    pub fn never_answers(mut self, step: &str) -> Self {
        let asked = |script: &Self| {
            let state = script.course.instance.step(step)?;
            let open = state.waiting.filter(|waiting| !waiting.is_stuck())?;
            (open != WaitingFor::Round).then(|| (state.phase(), state.round))
        };
        let Some(first) = asked(&self) else {
            self.fail(format!("{step} is not asked anything"))
        };
        for _ in 0..PATIENCE {
            if asked(&self) != Some(first) {
                return self;
            }
            self = self.time_passes_for(step);
        }
        self.fail(format!("{step} is asked again and again"))
    }

    /// The saga's own time is up.
    #[must_use]
    #[track_caller]
    pub fn deadline_passes(self) -> Self {
        let deadline = self.due.iter().find(|(_, timer)| *timer == Timer::Deadline);
        let Some((at, timer)) = deadline.cloned() else {
            self.fail("no deadline is set")
        };
        self.fires(at, timer)
    }

    /// A claim on a resource is granted.
    #[must_use]
    #[track_caller]
    pub fn lock_granted(self, resource: &str) -> Self {
        let resource = resource.to_owned();
        let granted = true;
        self.happens(&Input::Lock(LockAnswer { resource, granted }))
    }

    /// Every claim that the saga waits for is granted.
    #[must_use]
    #[track_caller]
    pub fn locks_granted(self) -> Self {
        let waiting = self.course.instance.locks.iter().filter(|lock| !lock.held);
        let waiting: Vec<_> = waiting.map(|lock| lock.resource.clone()).collect();
        if waiting.is_empty() {
            self.fail("it waits for no lock");
        }
        waiting
            .iter()
            .fold(self, |script, resource| script.lock_granted(resource))
    }

    /// A claim asks for more than there is.
    #[must_use]
    #[track_caller]
    pub fn lock_refused(self, resource: &str) -> Self {
        let resource = resource.to_owned();
        let granted = false;
        self.happens(&Input::Lock(LockAnswer { resource, granted }))
    }

    /// A person intervenes, and is allowed to.
    #[must_use]
    #[track_caller]
    pub fn operator(self, what: What) -> Self {
        self.happens(&Input::Intervention(person(what)))
    }

    /// A person wants what is not allowed.
    #[must_use]
    #[track_caller]
    pub fn operator_may_not(mut self, what: What, because: &str) -> Self {
        let line = what_line(&what);
        let input = Input::Intervention(person(what));
        match self.course.take(&self.given, &input) {
            Err(Stopped::NotAllowed(reason)) if reason.contains(because) => {
                self.told.happened(line);
                self.told.note(format!("refused: {reason}"));
                self
            }
            Err(stopped) => {
                let reason = stopped.reason();
                self.fail(format!(
                    "{line}: expected a refusal with {because:?}, got {reason:?}"
                ))
            }
            Ok(_) => self.fail(format!("{line}, and it is allowed")),
        }
    }

    // --- inside ---

    #[track_caller]
    fn answers(self, step: &str, phase: Phase, answer: Answer) -> Self {
        let Some(state) = self.course.instance.step(step) else {
            self.fail(format!("the definition has no step {step}"))
        };
        let operation = self.course.instance.operation(step, phase, state.round);
        if !self.course.books.knows(step, phase, state.round) {
            let outcome = answer.outcome();
            self.fail(format!(
                "{step} answers {outcome}, and the {phase} of {step} was never sent"
            ))
        }
        self.happens(&Input::Reply(Reply { operation, answer }))
    }

    #[track_caller]
    fn fires(mut self, at: Duration, timer: Timer) -> Self {
        self.now = self.now.max(at);
        self.due.retain(|(_, known)| *known != timer);
        self.happens(&Input::Timer(timer))
    }

    #[track_caller]
    fn happens(mut self, input: &Input) -> Self {
        self.told.happened(input_line(input));
        match self.course.take(&self.given, input) {
            Ok(decision) => {
                self.note(decision);
                self
            }
            Err(stopped) => self.fail(stopped.reason()),
        }
    }

    fn note(&mut self, decision: Decision) {
        self.told.recorded(&decision.events);
        self.history.extend(decision.events.iter().cloned());
        let set = self.course.timers.values();
        let set: Vec<_> = set.map(|(timer, after)| (timer.clone(), *after)).collect();
        let now = self.now;
        self.due
            .retain(|(_, known)| set.iter().any(|(timer, _)| timer == known));
        for effect in &decision.effects {
            if let Effect::SetTimer { timer, .. } = effect {
                self.due.retain(|(_, known)| known != timer);
            }
        }
        let known = &self.due;
        let new = set
            .into_iter()
            .filter(|(timer, _)| !known.iter().any(|(_, k)| k == timer));
        let new: Vec<_> = new.map(|(timer, after)| (now + after, timer)).collect();
        self.due.extend(new);
        self.last = decision;
    }

    #[track_caller]
    pub(crate) fn fail(&self, what: impl Into<String>) -> ! {
        panic!("{}\n\nthe story so far:\n{}", what.into(), self.story())
    }
}
