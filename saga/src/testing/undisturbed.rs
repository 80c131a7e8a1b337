//! The way on which nothing goes wrong: it has to complete, or whatever a trial finds is about a saga
//! that never works.

use crate::{
    instance::Status,
    testing::{
        course::Stopped,
        explore::{Counterexample, FORGOTTEN, told_until},
        given::Given,
        moves::Move,
        scene::{Allowance, Scene},
        timeline::Timeline,
        trials::usual,
    },
};

/// A saga that has not come to rest after so many moves never will.
const ENDLESS: usize = 10_000;

/// Plays it.
///
/// # Errors
///
/// The story, if it does not complete.
pub(crate) fn completes(given: &Given) -> Result<(), Box<Counterexample>> {
    let mut told = Timeline::default();
    let mut played: Vec<Move> = Vec::new();
    let begun = Scene::begin(given, Allowance::NOTHING);
    let (mut scene, decision) = begun.map_err(|s| told_until(s, &[], None, &told))?;
    told.recorded(&decision.events);
    for _ in 0..ENDLESS {
        let Some(next) = usual(&scene.moves(given)) else {
            break;
        };
        played.push(next.clone());
        if let Err(stopped) = scene.play(given, &next, Some(&mut told)) {
            return Err(told_until(stopped, &played, Some(&scene), &told));
        }
    }
    let what = match scene.course.instance.status {
        Status::Completed => return Ok(()),
        _ if !scene.course.is_at_rest() && usual(&scene.moves(given)).is_none() => {
            FORGOTTEN.to_owned()
        }
        _ => format!(
            "nothing goes wrong, and it never completes: it is {}",
            scene.ending()
        ),
    };
    Err(told_until(
        Stopped::Broken(what),
        &played,
        Some(&scene),
        &told,
    ))
}
