//! One saga so far, and what must hold after each of its decisions whoever the participants are.
//!
//! The checks here are about the saga alone: its state is the fold of its events and survives being
//! stored; the same question gets the same decision; what is recorded as sent is sent, in the order
//! of the stages and back in reverse; each moment it waits for has a timer; an end is an end. What
//! became of the world is for [`scene`](crate::testing::scene).

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
    time::Duration,
};

use uuid::Uuid;

use crate::{
    Error,
    decide::{self, Decision, Effect},
    event::{Event, Input, Timer},
    instance::Instance,
    intervention::What,
    testing::{
        books::Books,
        closures::watched,
        given::Given,
        lawful::{effects_follow, gives_up_when_spent, sent_is_recorded, stored_and_read},
        lengths,
    },
};

/// What there is at most one timer for: a step and a phase, or the deadline.
pub(crate) type TimerKey = (String, &'static str);

/// One saga: where it stands and which moments it waits for.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    pub(crate) instance: Instance,
    pub(crate) timers: BTreeMap<TimerKey, (Timer, Duration)>,
    /// What was sent and answered.
    pub(crate) books: Books,
    /// What tells it from others that decide otherwise. The number of its events does not: ignoring
    /// something changes nothing.
    pub(crate) mark: u128,
}

/// What was decided before: in a search the same saga hears the same thing in many worlds.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    known: HashMap<(u128, String), (Rc<Course>, Rc<Decision>)>,
}

impl Memory {
    /// [`Course::take`], or what it came to before.
    pub(crate) fn take(
        &mut self,
        given: &Given,
        course: &mut Rc<Course>,
        input: &Input,
    ) -> Result<Rc<Decision>, Stopped> {
        let question = (course.mark, format!("{input:?}"));
        if let Some((after, decision)) = self.known.get(&question) {
            *course = Rc::clone(after);
            return Ok(Rc::clone(decision));
        }
        let decision = Rc::new(Rc::make_mut(course).take(given, input)?);
        let answer = (Rc::clone(course), Rc::clone(&decision));
        self.known.insert(question, answer);
        Ok(decision)
    }
}

/// Why an input led nowhere.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// A person wanted what is not allowed.
    NotAllowed(String),
    /// A promise was broken: which.
    Broken(String),
}

impl Stopped {
    pub(crate) fn reason(self) -> String {
        match self {
            Self::NotAllowed(reason) | Self::Broken(reason) => reason,
        }
    }
}

const TWO: &str = "the same question got two decisions: a closure of the definition looks at something \
                   besides its arguments";

pub(crate) fn broken<T>(what: impl Into<String>) -> Result<T, Stopped> {
    Err(Stopped::Broken(what.into()))
}

pub(crate) fn key(timer: &Timer) -> TimerKey {
    match timer {
        Timer::Attempt(due) => (due.step.clone(), due.phase.as_str()),
        Timer::Deadline => (String::new(), "deadline"),
        Timer::Lock { resource } => (resource.clone(), "lock"),
    }
}

impl Course {
    /// A saga that has just started.
    pub(crate) fn begin(given: &Given, id: Uuid) -> Result<(Self, Decision), Stopped> {
        lengths::sensible(&given.plan)?;
        let start = || decide::start(&given.plan, id, "trial", &given.data);
        let begun = watched(start)?;
        let (instance, decision) = begun.map_err(|e| Stopped::Broken(e.to_string()))?;
        if watched(start)?.ok().map(|(_, again)| again).as_ref() != Some(&decision) {
            return broken(format!(
                "the saga was started twice with the same data, and {TWO}"
            ));
        }
        let Some(first) = decision.events.first() else {
            return broken("a start records nothing");
        };
        let Some(before) = Instance::from_history(id, [first]) else {
            return broken("a history begins with the start");
        };
        let mut course = Self {
            instance: before,
            timers: BTreeMap::new(),
            books: Books::default(),
            mark: 0,
        };
        course.follow(given, &decision.events[1..], &decision)?;
        if course.instance != instance {
            return broken("what a start returns is not what folds from its events");
        }
        Ok((course, decision))
    }

    /// Decides what follows from an input, and goes on from there.
    pub(crate) fn take(&mut self, given: &Given, input: &Input) -> Result<Decision, Stopped> {
        if let Input::Intervention(intervention) = input
            && let What::Migrate { .. } = intervention.what
            && let Some(to) = given.next()
        {
            return self.migrate(given, to, intervention);
        }
        let decision = match given.decide(&self.instance, input)? {
            Ok(decision) => decision,
            Err(Error::NotAllowed { operation, reason }) => {
                return Err(Stopped::NotAllowed(format!("{operation}: {reason}")));
            }
            Err(error) => return broken(format!("no decision: {error}")),
        };
        let again = given.decide(&self.instance, input)?.ok();
        if again.as_ref() != Some(&decision) {
            return broken(TWO);
        }
        if self.instance.status.is_terminal() {
            let ignored = |event: &Event| matches!(event, Event::Ignored { .. });
            if !decision.effects.is_empty() || !decision.events.iter().all(ignored) {
                return broken(format!("it is {} and did something", self.instance.status));
            }
        }
        if let Input::Timer(timer) = input
            && self
                .timers
                .get(&key(timer))
                .is_some_and(|(set, _)| set == timer)
        {
            self.timers.remove(&key(timer));
        }
        gives_up_when_spent(given, &self.instance, &decision)?;
        if let Input::Reply(reply) = input {
            self.books.hear(&self.instance, reply, &decision.events)?;
        }
        self.follow(given, &decision.events, &decision)?;
        Ok(decision)
    }

    /// Goes on under another version. The caller goes on with the target's `Given`.
    pub(crate) fn migrate(
        &mut self,
        from: &Given,
        to: &Given,
        intervention: &crate::intervention::Intervention,
    ) -> Result<Decision, Stopped> {
        let migrate = || decide::migrate(&from.plan, &to.plan, &self.instance, intervention);
        let decided = watched(migrate)?;
        let decision = decided.map_err(|error| Stopped::NotAllowed(error.to_string()))?;
        self.follow(to, &decision.events, &decision)?;
        Ok(decision)
    }

    /// Whether nothing but a person helps, or nothing helps because nothing is to be done.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.instance.status.is_terminal() || self.instance.paused || self.instance.has_stuck_step()
    }

    fn follow(
        &mut self,
        given: &Given,
        events: &[Event],
        decision: &Decision,
    ) -> Result<(), Stopped> {
        for event in events {
            self.legal(given, event)?;
            self.instance.apply(event);
        }
        for effect in &decision.effects {
            match effect {
                Effect::Send(command) => {
                    given.heard_by_somebody(command)?;
                    self.books.send(command)?;
                }
                Effect::SetTimer { timer, after } => {
                    lengths::judge(&given.plan, &self.instance, timer, *after)?;
                    self.timers.insert(key(timer), (timer.clone(), *after));
                }
                Effect::ClearTimer { step, phase } => {
                    self.timers.remove(&(step.clone(), phase.as_str()));
                }
                Effect::Ended(_) => self.timers.clear(),
                _ => {}
            }
        }
        sent_is_recorded(decision)?;
        effects_follow(decision)?;
        stored_and_read(decision)?;
        self.survives(given)?;
        self.mark = self.marked();
        self.waits_for_its_timers()
    }

    fn marked(&self) -> u128 {
        let instance = Instance {
            seq: 0,
            ..self.instance.clone()
        };
        let instance = serde_json::to_string(&instance).unwrap_or_default();
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            instance.hash(&mut hasher);
            for (timer, _) in self.timers.values() {
                format!("{timer:?}").hash(&mut hasher);
            }
            for way in self.books.ways() {
                way.hash(&mut hasher);
            }
            u128::from(hasher.finish())
        };
        half(0) << 64 | half(1)
    }
}
