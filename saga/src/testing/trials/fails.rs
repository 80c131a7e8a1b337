//! Each step is refused in its turn.

use crate::{
    definition::Class,
    instance::Status,
    testing::{
        given::Given,
        trials::{
            Tried,
            play::{Played, nothing, refuse, retry},
        },
    },
};

/// Refuses each step in its turn. Before the way back is closed the saga ends compensated, with every
/// effect undone; behind it a new round is begun, and when all are refused, a person is called and can
/// bring it to its end.
///
/// # Panics
///
/// If a promise is broken, with the story.
#[track_caller]
pub fn fails_at_each_step(given: &Given) -> Tried {
    let mut tried = Tried::default();
    let whole = Played::to_rest(given, "nothing fails", nothing);
    whole.expect(Status::Completed);
    tried.note(&whole);
    for step in &given.plan.steps {
        let name = step.name.as_str();
        if whole.skips(name) {
            continue;
        }
        let about = format!("{name} is refused");
        let mut played = Played::to_rest(given, about, |_: &_, moves: &[_]| refuse(name, moves));
        tried.note(&played);
        match &step.class {
            Class::Compensatable(_) | Class::Pivot => played.expect(Status::Compensated),
            Class::Retriable { rounds } => {
                played.expect(Status::Parked);
                let tried_rounds = played.now().step(name).map(|step| step.round);
                if tried_rounds != Some(*rounds) {
                    played.fail(format!("expected {rounds} rounds, it is {tried_rounds:?}"));
                }
                played.go_on(given, &mut |scene: &_, _: &[_]| retry(scene));
                played.expect(Status::Completed);
                tried.note(&played);
                if *rounds > 1 {
                    tried.note(&once(given, name));
                }
            }
        }
    }
    tried
}

/// A retriable step is refused once, and then no more.
#[track_caller]
fn once(given: &Given, step: &str) -> Played {
    let mut refused = false;
    let about = format!("{step} is refused once");
    let played = Played::to_rest(given, about, |_: &_, moves: &[_]| {
        let refusal = refuse(step, moves).filter(|_| !refused);
        refused |= refusal.is_some();
        refusal
    });
    played.expect(Status::Completed);
    played
}
