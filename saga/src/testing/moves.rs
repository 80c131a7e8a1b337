//! One thing that may happen next, and its line in a script.
//!
//! A script is a list of these lines. Whoever replays it looks for the move with that line among
//! those that are possible, so that there is nothing to parse and nothing to get out of step.

use std::fmt;

use crate::{
    intervention::What,
    operation::{Operation, Phase},
    testing::participants::Will,
    wire::Outcome,
};

/// An operation of the one saga there is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) step: String,
    /// Whether it undoes.
    back: bool,
    pub(crate) round: i32,
}

impl Place {
    pub(crate) fn of(operation: &Operation) -> Self {
        Self {
            step: operation.step.clone(),
            back: operation.phase == Phase::Compensation,
            round: operation.round,
        }
    }

    pub(crate) fn action(step: &str, round: i32) -> Self {
        Self {
            step: step.to_owned(),
            back: false,
            round,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.back {
            true => Phase::Compensation,
            false => Phase::Action,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.step, self.phase(), self.round)
    }
}

/// What becomes of a message in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives,
    /// It arrives, and will once more.
    ArrivesAndComesAgain,
    /// It never arrives: parked by the pipe and discarded, or its receiver keeps silent about it.
    IsLost,
}

impl Fate {
    fn told(self, arrives: &str) -> String {
        match self {
            Self::Arrives => arrives.to_owned(),
            Self::ArrivesAndComesAgain => format!("{arrives}, and comes again"),
            Self::IsLost => "is lost".to_owned(),
        }
    }
}

/// One thing that may happen next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Move {
    /// A command reaches its participant, or does not.
    Command {
        place: Place,
        probe: bool,
        will: Will,
        fate: Fate,
    },
    /// An effect outside of a database ends.
    Finish { place: Place, will: Will },
    /// A reply reaches the saga, or does not.
    Reply {
        place: Place,
        outcome: Outcome,
        fate: Fate,
    },
    /// A moment has come: the one of a step and phase, or the deadline where the step has no name.
    Timer { step: String, phase: &'static str },
    /// A claim is settled.
    Lock { resource: String, granted: bool },
    /// A person intervenes.
    Person(What),
}

impl Move {
    /// Whether nothing goes wrong by it: no fault, no person, and nobody's time is up for good.
    pub(crate) fn is_harmless(&self) -> bool {
        match self {
            Self::Command { will, fate, .. } => *will == Will::Succeed && *fate == Fate::Arrives,
            Self::Finish { will, .. } => *will == Will::Succeed,
            Self::Reply { fate, .. } => *fate == Fate::Arrives,
            Self::Timer { step, .. } => !step.is_empty(),
            Self::Lock { granted, .. } => *granted,
            Self::Person(_) => false,
        }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let will = |will: &Will| match will {
            Will::Succeed => "succeeds",
            Will::Refuse => "is refused",
        };
        match self {
            Self::Command {
                place,
                probe: false,
                will: how,
                fate,
            } => write!(f, "command {place}: {}", fate.told(will(how))),
            Self::Command {
                place,
                probe: true,
                fate,
                ..
            } => write!(f, "probe {place}: {}", fate.told("is answered")),
            Self::Finish { place, will: how } => write!(f, "effect {place}: {}", will(how)),
            Self::Reply {
                place,
                outcome,
                fate,
            } => write!(f, "reply {place}, {outcome}: {}", fate.told("arrives")),
            Self::Timer { step, phase } => match step.is_empty() {
                true => write!(f, "the {phase} passes"),
                false => write!(f, "time passes for {step} {phase}"),
            },
            Self::Lock { resource, granted } => match granted {
                true => write!(f, "lock {resource}: is granted"),
                false => write!(f, "lock {resource}: is refused"),
            },
            Self::Person(what) => match what.step() {
                Some(step) => write!(f, "a person: {} {step}", what.name()),
                None => write!(f, "a person: {}", what.name()),
            },
        }
    }
}
