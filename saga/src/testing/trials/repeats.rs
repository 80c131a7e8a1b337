//! Each command and each reply comes twice, and three times: at once, and long after.

use crate::{
    instance::Status,
    testing::{
        given::Given,
        moves::{Fate, Move},
        participants::Will,
        scene::Scene,
        trials::{
            Tried,
            play::{Played, nothing, refuse, usual},
        },
    },
};

/// Delivers each command and each reply of the saga two and three times, at once and at the very end;
/// of the whole way, and of the ways on which one step is refused. The saga ends as without that, and
/// so do its participants and their ledger.
///
/// # Panics
///
/// If a promise is broken, or something is another than without the repetition; with the story.
#[track_caller]
pub fn repeats_each_step(given: &Given) -> Tried {
    let mut tried = Tried::default();
    let refused = given.plan.steps.iter().map(|step| Some(step.name.as_str()));
    for refused in std::iter::once(None).chain(refused) {
        let base = match refused {
            None => Played::to_rest(given, "nothing is repeated", nothing),
            Some(step) => Played::to_rest(given, "nothing is repeated", |_: &_, moves: &[_]| {
                refuse(step, moves)
            }),
        };
        if refused.is_none() {
            base.expect(Status::Completed);
        }
        tried.note(&base);
        let messages = base.moves.iter().enumerate();
        let messages = messages.filter(|(_, next)| again(next).is_some());
        for (at, message) in messages {
            for copies in [1, 2] {
                for late in [false, true] {
                    let when = if late { "at the end" } else { "at once" };
                    let about = format!("`{message}`, and {copies} more {when}");
                    let repetition = Repetition::of(message, at, copies, late);
                    let played = repetition.played(given, about, refused);
                    played.expect_as(&base);
                    tried.note(&played);
                }
            }
        }
    }
    tried
}

/// The same message, arriving so that it comes once more.
fn again(message: &Move) -> Option<Move> {
    let mut again = message.clone();
    match &mut again {
        Move::Command { fate, .. } | Move::Reply { fate, .. } if *fate == Fate::Arrives => {
            *fate = Fate::ArrivesAndComesAgain;
        }
        _ => return None,
    }
    Some(again)
}

/// One message that comes more than once.
struct Repetition<'m> {
    message: &'m Move,
    /// After how many moves it is on its way.
    at: usize,
    copies: usize,
    late: bool,
}

impl<'m> Repetition<'m> {
    fn of(message: &'m Move, at: usize, copies: usize, late: bool) -> Self {
        Self {
            message,
            at,
            copies,
            late,
        }
    }

    #[track_caller]
    fn played(self, given: &Given, about: String, refused: Option<&str>) -> Played {
        let mut moves_made = 0;
        let mut repeated = 0;
        let mut director = |_: &Scene, possible: &[Move]| {
            moves_made += 1;
            if moves_made - 1 == self.at {
                repeated = 1;
                return again(self.message);
            }
            let refusal = refused.and_then(|step| refuse(step, possible));
            let on_its_way = repeated > 0 && repeated <= self.copies;
            if refusal.is_some() || !on_its_way {
                return refusal;
            }
            let other = other(possible, self.message).filter(|_| self.late);
            other.or_else(|| {
                repeated += 1;
                let copy = copy(self.message)?;
                match repeated <= self.copies {
                    true => again(&copy),
                    false => Some(copy),
                }
            })
        };
        let mut played = Played::begun(given, about);
        played.go_on(given, &mut director);
        played
    }
}

/// The same message once more. Whatever its participant would have liked to do, it was answered.
fn copy(message: &Move) -> Option<Move> {
    let mut copy = message.clone();
    match &mut copy {
        Move::Command { will, fate, .. } => {
            *will = Will::Succeed;
            *fate = Fate::Arrives;
        }
        Move::Reply { fate, .. } => *fate = Fate::Arrives,
        _ => return None,
    }
    Some(copy)
}

/// What else than the held message usually happens.
fn other(possible: &[Move], held: &Move) -> Option<Move> {
    let is_held = |next: &Move| match (next, held) {
        (
            Move::Command { place, probe, .. },
            Move::Command {
                place: held,
                probe: held_probe,
                ..
            },
        ) => place == held && probe == held_probe,
        (
            Move::Reply { place, outcome, .. },
            Move::Reply {
                place: held,
                outcome: held_outcome,
                ..
            },
        ) => place == held && outcome == held_outcome,
        _ => false,
    };
    let others = possible.iter().filter(|next| !is_held(next));
    usual(&others.cloned().collect::<Vec<_>>())
}
