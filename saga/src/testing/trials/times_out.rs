//! Each step is too slow for the saga's patience: it did nothing, it did it and its answer was lost,
//! or its answer comes late.

use crate::{
    definition::{Class, PlanStep},
    instance::{Status, WaitingFor},
    operation::Phase,
    testing::{
        given::Given,
        moves::Move,
        scene::Scene,
        trials::{
            Tried,
            play::{
                Played, failing_after, lose_command, lose_reply, nothing, refuse, retry, usual,
            },
        },
    },
};

/// What a step's participant does while the saga waits in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slow {
    /// Nothing.
    NotExecuted,
    /// What it was asked; its answers are lost.
    Executed,
    /// What it was asked; its answer arrives when everything is over.
    Late,
}

/// Lets each step exceed the saga's patience in each of three ways: it did nothing, it did it and the
/// answer is lost, the answer comes when everything is over. Before the point of no return the step
/// counts as if it had taken effect and is undone with the rest; a pivot is probed and never guessed
/// about; what can only go forwards calls a person, who can bring it to its end. The same for each
/// compensation.
///
/// # Panics
///
/// If a promise is broken, with the story.
#[track_caller]
pub fn times_out_at_each_step(given: &Given) -> Tried {
    let mut tried = Tried::default();
    let whole = Played::to_rest(given, "nothing times out", nothing);
    whole.expect(Status::Completed);
    for step in &given.plan.steps {
        if whole.skips(&step.name) {
            continue;
        }
        for slow in [Slow::NotExecuted, Slow::Executed, Slow::Late] {
            tried.note(&action(given, step, slow));
            let later = failing_after(given, &whole, step);
            if let (Class::Compensatable(_), Some(later)) = (&step.class, later) {
                tried.note(&compensation(given, step, later, slow));
            }
        }
    }
    tried
}

#[track_caller]
fn action(given: &Given, step: &PlanStep, slow: Slow) -> Played {
    let name = step.name.as_str();
    let about = format!("{name} times out ({slow:?})");
    let mut played = Played::to_rest(given, about, |scene: &Scene, moves: &[Move]| {
        // A probe is answered.
        let asked = scene.course.instance.step(name);
        let probed = asked.is_some_and(|s| s.waiting == Some(WaitingFor::Probe));
        match (slow, probed) {
            (Slow::NotExecuted, _) => lose_command(name, Phase::Action, moves),
            (_, true) => None,
            (Slow::Executed, false) => lose_reply(name, Phase::Action, moves),
            (Slow::Late, false) => held_back(scene, name, Phase::Action, moves),
        }
    });
    match &step.class {
        Class::Compensatable(_) => played.expect(Status::Compensated),
        Class::Pivot if step.probes > 0 && slow == Slow::NotExecuted => {
            played.expect(Status::Compensated);
        }
        Class::Pivot if step.probes > 0 => played.expect(Status::Completed),
        Class::Pivot | Class::Retriable { .. } => {
            // A late answer has let it go on already.
            if slow != Slow::Late {
                played.expect(Status::Parked);
                played.go_on(given, &mut |scene: &Scene, _: &[Move]| retry(scene));
            }
            played.expect(Status::Completed);
        }
    }
    played
}

#[track_caller]
fn compensation(given: &Given, step: &PlanStep, later: &PlanStep, slow: Slow) -> Played {
    let name = step.name.as_str();
    let about = format!("the compensation of {name} times out ({slow:?})");
    let mut was_parked = false;
    let mut played = Played::to_rest(given, about, |scene: &Scene, moves: &[Move]| {
        was_parked |= scene.course.instance.status == Status::Parked;
        let spoiled = match slow {
            _ if was_parked && slow != Slow::Late => None,
            Slow::NotExecuted => lose_command(name, Phase::Compensation, moves),
            Slow::Executed => lose_reply(name, Phase::Compensation, moves),
            Slow::Late => held_back(scene, name, Phase::Compensation, moves),
        };
        spoiled.or_else(|| refuse(&later.name, moves))
    });
    if slow != Slow::Late {
        played.expect(Status::Parked);
        played.go_on(given, &mut |scene: &Scene, _: &[Move]| retry(scene));
    } else if !was_parked {
        played.fail("a compensation that is not answered parks the saga");
    }
    played.expect(Status::Compensated);
    played
}

/// Whatever else may happen while the replies of a step are held back; time passes for it, too.
fn held_back(scene: &Scene, step: &str, phase: Phase, possible: &[Move]) -> Option<Move> {
    let is_held = |next: &Move| matches!(next, Move::Reply { place, .. } if place.step == step && place.phase() == phase);
    if !possible.iter().any(is_held) {
        return None;
    }
    let others = possible.iter().filter(|next| !is_held(next));
    let found = usual(&others.cloned().collect::<Vec<_>>());
    found.filter(|_| !scene.course.instance.status.is_terminal())
}
