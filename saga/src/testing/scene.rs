//! One saga, its participants and what is in flight between them: everything that decides what may
//! happen next, in one value.
//!
//! After each move the promises are checked against the participants' own record: nothing took effect
//! twice or after it was called off, nothing was undone that did not take effect, nothing is undone
//! while a later stage's effect remains, no way back over the pivot, no money made or lost; and at an
//! end, nothing left half done.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
};

use uuid::Uuid;

use crate::{
    decide::{Command, Decision, Effect},
    event::{Answer, Event, Input, LockAnswer, Reply, Timer},
    intervention::{Intervention, What},
    testing::{
        claims::{Claimed, Claims},
        course::{Course, Memory, Stopped, broken},
        given::Given,
        ledger::Ledger,
        moves::{Fate, Move, Place},
        participants::{Carried, Participants, Will},
        timeline::Timeline,
    },
};

/// The id of a saga that is tried alone.
pub(crate) const ALONE: Uuid = Uuid::from_u128(1);
/// More copies of one message than this are no other than these.
const COPIES: u8 = 2;

/// How much may go wrong from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Allowance {
    pub(crate) refusals: u8,
    pub(crate) losses: u8,
    pub(crate) duplicates: u8,
    /// Times that pass although something is in flight.
    pub(crate) early_timeouts: u8,
    pub(crate) interventions: u8,
}

impl Allowance {
    pub(crate) const NOTHING: Self = Self {
        refusals: 0,
        losses: 0,
        duplicates: 0,
        early_timeouts: 0,
        interventions: 0,
    };
    pub(crate) const ANYTHING: Self = Self {
        refusals: u8::MAX,
        losses: u8::MAX,
        duplicates: u8::MAX,
        early_timeouts: u8::MAX,
        interventions: u8::MAX,
    };
}

/// A message in flight: how many copies, and what it says.
type Flying<T> = (u8, T);

/// One saga in its world.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) course: Rc<Course>,
    pub(crate) participants: Participants,
    pub(crate) claims: Claims,
    pub(crate) ledger: Ledger,
    /// Commands and probes on their way.
    pub(crate) commands: BTreeMap<(Place, bool), Flying<Vec<u8>>>,
    /// Replies on their way.
    pub(crate) replies: BTreeMap<(Place, &'static str), Flying<Reply>>,
    pub(crate) allowance: Allowance,
    /// Steps that a person took for done.
    pub(crate) by_hand: BTreeSet<String>,
}

impl Scene {
    /// A saga that has just started.
    pub(crate) fn begin(given: &Given, allowance: Allowance) -> Result<(Self, Decision), Stopped> {
        let (course, decision) = Course::begin(given, ALONE)?;
        let mut scene = Self {
            course: Rc::new(course),
            participants: Participants::default(),
            claims: Claims::default(),
            ledger: given.ledger.clone(),
            commands: BTreeMap::new(),
            replies: BTreeMap::new(),
            allowance,
            by_hand: BTreeSet::new(),
        };
        scene.send(&decision);
        scene.claims.follow(None, &decision);
        Ok((scene, decision))
    }

    /// Plays one of the [moves](Scene::moves), and checks what must hold after it.
    pub(crate) fn play(
        &mut self,
        given: &Given,
        next: &Move,
        told: Option<&mut Timeline>,
    ) -> Result<Option<Decision>, Stopped> {
        let decided = self.remembering(given, next, &mut Memory::default());
        if let Some(told) = told {
            told.happened(next.to_string());
            let decision = decided.as_ref().ok().and_then(Option::as_ref);
            told.recorded(decision.map_or(&[], |decision| &decision.events));
        }
        let decision = decided?;
        self.promises(given)?;
        Ok(decision.map(|decision| Decision::clone(&decision)))
    }

    /// Plays a move, asking nothing that was decided before.
    pub(crate) fn remembering(
        &mut self,
        given: &Given,
        next: &Move,
        memory: &mut Memory,
    ) -> Result<Option<Rc<Decision>>, Stopped> {
        let before = self.undos();
        let given = given.version(self.course.instance.version);
        if !matches!(next, Move::Lock { .. }) {
            self.claims.time_goes_on();
        }
        let decision = match self.happens(given, next)? {
            Some(input) => {
                let read = Rc::clone(&self.course);
                let decision = memory.take(given, &mut self.course, &input)?;
                self.claims.follow(Some(&read.instance), &decision);
                Some(decision)
            }
            None => None,
        };
        if let Some(decision) = &decision {
            self.send(decision);
        }
        self.nothing_undone_too_early(given, &before)?;
        Ok(decision)
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.commands.is_empty()
            && self.replies.is_empty()
            && self.participants.running().count() == 0
    }

    /// How it ended, or where it rests: for a list.
    pub(crate) fn ending(&self) -> String {
        let now = &self.course.instance;
        match (now.status.is_terminal(), now.paused) {
            (true, _) => now.status.to_string(),
            (false, true) => "paused".to_owned(),
            (false, false) => match &now.parked_reason {
                Some(reason) => format!("parked: {reason}"),
                None => now.status.to_string(),
            },
        }
    }

    /// Whether the pipe and the clock have nothing more to do although the saga neither ended nor
    /// waits for a person.
    pub(crate) fn is_forgotten(&self) -> bool {
        !self.course.is_at_rest()
    }

    /// What tells two scenes apart.
    pub(crate) fn fingerprint(&self) -> u128 {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            self.course.mark.hash(&mut hasher);
            self.participants.hash(&mut hasher);
            self.claims.hash(&mut hasher);
            self.ledger.hash(&mut hasher);
            self.allowance.hash(&mut hasher);
            self.by_hand.hash(&mut hasher);
            for (key, (copies, payload)) in &self.commands {
                (key, copies, payload).hash(&mut hasher);
            }
            for (key, (copies, _)) in &self.replies {
                (key, copies).hash(&mut hasher);
            }
            u128::from(hasher.finish())
        };
        half(0) << 64 | half(1)
    }

    /// The commands of a decision leave.
    pub(crate) fn send(&mut self, decision: &Decision) {
        for effect in &decision.effects {
            if let Effect::Send(command) = effect {
                self.fly(command);
            }
        }
    }

    fn fly(&mut self, command: &Command) {
        let key = (Place::of(&command.operation), command.probe);
        let flying = self.commands.entry(key);
        let flying = flying.or_insert_with(|| (0, command.payload.clone()));
        flying.0 = (flying.0 + 1).min(COPIES);
    }

    /// What a move means for the world, and for the saga if it hears of it.
    fn happens(&mut self, given: &Given, next: &Move) -> Result<Option<Input>, Stopped> {
        match next {
            Move::Command {
                place,
                probe,
                will,
                fate,
            } => {
                self.command(given, place, *probe, *will, *fate)?;
                Ok(None)
            }
            Move::Finish { place, will } => {
                self.refused(*will);
                let answer = self
                    .participants
                    .finish(given, &mut self.ledger, place, *will)?;
                self.answered(place, answer);
                Ok(None)
            }
            Move::Reply {
                place,
                outcome,
                fate,
            } => {
                let key = (place.clone(), outcome.as_str());
                let Some((copies, reply)) = self.replies.get_mut(&key) else {
                    return broken(format!("no reply to {place} is on its way"));
                };
                let reply = reply.clone();
                *copies -= 1;
                if *copies == 0 {
                    self.replies.remove(&key);
                }
                match fate {
                    Fate::ArrivesAndComesAgain => {
                        self.allowance.duplicates = self.allowance.duplicates.saturating_sub(1);
                        self.answered(place, reply.answer.clone());
                    }
                    Fate::IsLost => {
                        self.allowance.losses = self.allowance.losses.saturating_sub(1);
                        return Ok(None);
                    }
                    Fate::Arrives => {}
                }
                Ok(Some(Input::Reply(reply)))
            }
            Move::Timer { step, phase } => {
                let early = !self.is_quiet();
                if early {
                    self.allowance.early_timeouts = self.allowance.early_timeouts.saturating_sub(1);
                }
                let timer = self.course.timers.get(&(step.clone(), *phase));
                let Some((timer, _)) = timer else {
                    return broken(format!("no timer of {step} {phase} is set"));
                };
                Ok(Some(Input::Timer(timer.clone())))
            }
            Move::Lock { resource, granted } => {
                if !granted {
                    self.allowance.refusals = self.allowance.refusals.saturating_sub(1);
                }
                let resource = resource.clone();
                let granted = *granted;
                // Whoever stood in the line learns of it as of a moment that has come.
                Ok(Some(match self.claims.settle(&resource, granted)? {
                    Claimed::Waiting => Input::Timer(Timer::Lock { resource }),
                    _ => Input::Lock(LockAnswer { resource, granted }),
                }))
            }
            Move::Person(what) => {
                self.allowance.interventions = self.allowance.interventions.saturating_sub(1);
                if let What::CompleteStep { step, .. } = what {
                    self.by_hand.insert(step.clone());
                }
                Ok(Some(Input::Intervention(person(what.clone()))))
            }
        }
    }

    fn command(
        &mut self,
        given: &Given,
        place: &Place,
        probe: bool,
        will: Will,
        fate: Fate,
    ) -> Result<(), Stopped> {
        let key = (place.clone(), probe);
        let Some((copies, payload)) = self.commands.get_mut(&key) else {
            return broken(format!("no command {place} is on its way"));
        };
        let payload = payload.clone();
        match fate {
            Fate::ArrivesAndComesAgain => {
                self.allowance.duplicates = self.allowance.duplicates.saturating_sub(1);
            }
            Fate::Arrives | Fate::IsLost => {
                *copies -= 1;
                if *copies == 0 {
                    self.commands.remove(&key);
                }
            }
        }
        if fate == Fate::IsLost {
            self.allowance.losses = self.allowance.losses.saturating_sub(1);
            return Ok(());
        }
        // An effect outside of the database is decided when it ends.
        if !given.is_external(&place.step) {
            self.refused(will);
        }
        let ledger = &mut self.ledger;
        match self
            .participants
            .carry_out(given, ledger, place, probe, &payload, will)?
        {
            Carried::Answered(answer) => self.answered(place, answer),
            Carried::Began | Carried::Later => {}
        }
        Ok(())
    }

    fn refused(&mut self, will: Will) {
        if will == Will::Refuse {
            self.allowance.refusals = self.allowance.refusals.saturating_sub(1);
        }
    }

    fn answered(&mut self, place: &Place, answer: Answer) {
        let operation = self
            .course
            .instance
            .operation(&place.step, place.phase(), place.round);
        let key = (place.clone(), answer.outcome().as_str());
        let reply = Reply { operation, answer };
        let flying = self.replies.entry(key).or_insert((0, reply));
        flying.0 = (flying.0 + 1).min(COPIES);
    }
}

/// A person's wish, with the actor and the reason that trials give.
pub(crate) fn person(what: What) -> Intervention {
    Intervention {
        what,
        actor: "trial".to_owned(),
        reason: "to see what follows".to_owned(),
    }
}

/// The events of a decision that say that a reply counted.
pub(crate) fn counted(decision: &Decision) -> bool {
    let ignored = |event: &Event| matches!(event, Event::Ignored { .. });
    !decision.events.iter().all(ignored)
}
