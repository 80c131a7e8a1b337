//! One saga played from its start to where it rests, by a director who says what goes wrong.

use std::rc::Rc;

use crate::{
    decide::Decision,
    definition::{Class, PlanStep},
    event::{Event, Input},
    instance::{Instance, Status, StepStatus},
    intervention::What,
    operation::Phase,
    testing::{
        course::Stopped,
        given::Given,
        moves::{Fate, Move},
        participants::Will,
        scene::{Allowance, Scene},
        timeline::Timeline,
    },
};

/// A saga that has not come to rest after so many moves never will.
const ENDLESS: usize = 10_000;

/// Says what happens next, where it is not what usually does.
pub(crate) trait Direct: FnMut(&Scene, &[Move]) -> Option<Move> {}
impl<F: FnMut(&Scene, &[Move]) -> Option<Move>> Direct for F {}

/// A saga that was played.
pub(crate) struct Played {
    /// What the trial was about, for whoever reads its failure.
    about: String,
    pub(crate) scene: Scene,
    pub(crate) moves: Vec<Move>,
    /// The decisions, each with how many moves there were before it.
    pub(crate) decisions: Vec<(usize, Decision)>,
    pub(crate) history: Vec<Event>,
    told: Timeline,
}

impl Played {
    /// A saga that has just started.
    #[track_caller]
    pub(crate) fn begun(given: &Given, about: impl Into<String>) -> Self {
        let about = about.into();
        let (scene, decision) = match Scene::begin(given, Allowance::ANYTHING) {
            Ok(begun) => begun,
            Err(stopped) => panic!("{about}: {}", stopped.reason()),
        };
        let mut told = Timeline::default();
        told.happened("the saga starts");
        told.recorded(&decision.events);
        Self {
            about,
            scene,
            moves: Vec::new(),
            history: decision.events.clone(),
            decisions: vec![(0, decision)],
            told,
        }
    }

    /// From the start to where nothing more happens.
    #[track_caller]
    pub(crate) fn to_rest(
        given: &Given,
        about: impl Into<String>,
        mut director: impl Direct,
    ) -> Self {
        let mut played = Self::begun(given, about);
        played.go_on(given, &mut director);
        played
    }

    /// To where nothing more happens.
    #[track_caller]
    pub(crate) fn go_on(&mut self, given: &Given, director: &mut impl Direct) {
        for _ in 0..ENDLESS {
            self.scene.allowance = Allowance::ANYTHING;
            let possible = self.scene.moves(given);
            let next = director(&self.scene, &possible).or_else(|| usual(&possible));
            let Some(next) = next else {
                if self.scene.is_forgotten() {
                    self.fail("nothing more happens, and it neither ended nor waits for a person");
                }
                return;
            };
            self.play(given, &next);
        }
        self.fail(format!("it goes on and on: {ENDLESS} moves"))
    }

    /// One move.
    #[track_caller]
    pub(crate) fn play(&mut self, given: &Given, next: &Move) {
        self.scene.allowance = Allowance::ANYTHING;
        let played = self.scene.play(given, next, Some(&mut self.told));
        self.moves.push(next.clone());
        match played {
            Ok(Some(decision)) => {
                self.history.extend(decision.events.iter().cloned());
                self.decisions.push((self.moves.len() - 1, decision));
            }
            Ok(None) => {}
            Err(stopped) => self.fail(stopped.reason()),
        }
    }

    /// The saga hears something that is no move of its world: something redelivered.
    #[track_caller]
    pub(crate) fn hears(&mut self, given: &Given, input: &Input) -> Decision {
        self.told.happened("the same once more");
        match Rc::make_mut(&mut self.scene.course).take(given, input) {
            Ok(decision) => {
                self.told.recorded(&decision.events);
                self.history.extend(decision.events.iter().cloned());
                self.scene.send(&decision);
                decision
            }
            Err(Stopped::NotAllowed(reason) | Stopped::Broken(reason)) => self.fail(reason),
        }
    }

    pub(crate) fn note(&mut self, what: &str) {
        self.told.happened(what);
    }

    /// Where the saga stands.
    pub(crate) fn now(&self) -> &Instance {
        &self.scene.course.instance
    }

    /// Whether a step was left out.
    pub(crate) fn skips(&self, step: &str) -> bool {
        let state = self.now().step(step);
        state.is_some_and(|state| state.status == StepStatus::Skipped)
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: Status) {
        let found = self.now().status;
        if found != status {
            self.fail(format!(
                "expected the saga to be {status} in the end, it is {found}"
            ));
        }
    }

    /// What the world looks like is what it does after another run.
    #[track_caller]
    pub(crate) fn expect_as(&self, other: &Self) {
        let without_seq = |instance: &Instance| Instance {
            seq: 0,
            ..instance.clone()
        };
        if without_seq(self.now()) != without_seq(other.now()) {
            self.fail(format!(
                "the saga stands otherwise than without that; then it was\n{}",
                crate::testing::timeline::standing(other.now())
            ));
        }
        if self.scene.participants != other.scene.participants {
            self.fail("the participants did something else than without that");
        }
        if self.scene.ledger != other.scene.ledger {
            self.fail(format!(
                "the ledger is another one than without that: {:?}, then {:?}",
                self.scene.ledger, other.scene.ledger
            ));
        }
    }

    #[track_caller]
    pub(crate) fn fail(&self, what: impl Into<String>) -> ! {
        panic!(
            "{}: {}\n\nthe story so far:\n{}",
            self.about,
            what.into(),
            self.told.told(self.now())
        )
    }
}

/// What happens where nothing goes wrong: what is in flight arrives, answers first; when nothing is,
/// time passes, the deadline aside.
pub(crate) fn usual(possible: &[Move]) -> Option<Move> {
    let kinds: [fn(&Move) -> bool; 4] = [
        |next| {
            matches!(
                next,
                Move::Reply {
                    fate: Fate::Arrives,
                    ..
                }
            )
        },
        |next| {
            matches!(
                next,
                Move::Command {
                    will: Will::Succeed,
                    fate: Fate::Arrives,
                    ..
                } | Move::Finish {
                    will: Will::Succeed,
                    ..
                }
            )
        },
        |next| matches!(next, Move::Lock { granted: true, .. }),
        |next| matches!(next, Move::Timer { step, .. } if !step.is_empty()),
    ];
    let found = kinds
        .iter()
        .find_map(|kind| possible.iter().find(|next| kind(next)));
    found.cloned()
}

/// Nothing goes wrong.
pub(crate) fn nothing(_: &Scene, _: &[Move]) -> Option<Move> {
    None
}

/// An action of this step, on its way to be carried out for the first time in its round.
pub(crate) fn refuse(step: &str, possible: &[Move]) -> Option<Move> {
    let refusal = possible.iter().find(|next| match next {
        Move::Command {
            place,
            will: Will::Refuse,
            fate: Fate::Arrives,
            ..
        }
        | Move::Finish {
            place,
            will: Will::Refuse,
        } => place.step == step && place.phase() == Phase::Action,
        _ => false,
    });
    refusal.cloned()
}

/// A command of this step and phase is lost; probes are not.
pub(crate) fn lose_command(step: &str, phase: Phase, possible: &[Move]) -> Option<Move> {
    let lost = possible.iter().find(|next| match next {
        Move::Command {
            place,
            probe: false,
            fate: Fate::IsLost,
            ..
        } => place.step == step && place.phase() == phase,
        _ => false,
    });
    lost.cloned()
}

/// A reply of this step and phase is lost.
pub(crate) fn lose_reply(step: &str, phase: Phase, possible: &[Move]) -> Option<Move> {
    let lost = possible.iter().find(|next| match next {
        Move::Reply {
            place,
            fate: Fate::IsLost,
            ..
        } => place.step == step && place.phase() == phase,
        _ => false,
    });
    lost.cloned()
}

/// A person has done what is parked done again.
pub(crate) fn retry(scene: &Scene) -> Option<Move> {
    let parked = scene.course.instance.status == Status::Parked && scene.is_quiet();
    parked.then_some(Move::Person(What::Retry { step: None }))
}

/// A step after this one whose failure turns the saga back, if the saga comes to it at all.
pub(crate) fn failing_after<'g>(
    given: &'g Given,
    whole: &Played,
    step: &PlanStep,
) -> Option<&'g PlanStep> {
    let turns_back = |later: &&PlanStep| {
        later.stage > step.stage
            && !matches!(later.class, Class::Retriable { .. })
            && !whole.skips(&later.name)
    };
    given.plan.steps.iter().find(turns_back)
}
