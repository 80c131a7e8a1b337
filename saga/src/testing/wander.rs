//! Longer runs by seed: whatever may happen next happens, faults and persons included, with the
//! definition's own budgets; then the faults stop, and the saga has to come to an end or to a person.
//!
//! A run that fails is played again without whatever is not needed for its failure, and prints its seed
//! and the script that is left. `SAGA_SEED=n` runs that one alone; `SAGA_RUNS=n`
//! runs as many.

use std::{collections::BTreeMap, fmt};

use crate::testing::{
    course::Stopped,
    explore::{Counterexample, told_until},
    given::Given,
    moves::{Fate, Move},
    participants::Will,
    random::Random,
    scene::{Allowance, Scene},
    timeline::Timeline,
    undisturbed,
};

/// Moves with faults among them, of each run.
const TROUBLED: usize = 60;
/// Moves after the faults have stopped, before a run counts as endless.
const ENDLESS: usize = 5_000;

/// What the runs came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wandered {
    /// How many runs.
    pub runs: usize,
    /// How many moves in all.
    pub moves: usize,
    /// How they ended, with the number of runs for each.
    pub endings: BTreeMap<String, usize>,
}

impl fmt::Display for Wandered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} runs, {} moves", self.runs, self.moves)?;
        for (ending, runs) in &self.endings {
            writeln!(f, "{runs:>8} {ending}")?;
        }
        Ok(())
    }
}

/// Runs a saga through so many random orders, by the seeds `seed`, `seed + 1`, …
///
/// # Panics
///
/// If a promise is broken: with the seed, the script and the story.
#[track_caller]
pub fn wander(given: &Given, seed: u64, runs: u64) -> Wandered {
    let (seed, runs) = match (from_environment("SAGA_SEED"), from_environment("SAGA_RUNS")) {
        (Some(seed), _) => (seed, 1),
        (None, wanted) => (seed, wanted.unwrap_or(runs)),
    };
    let mut wandered = Wandered::default();
    if let Err(counterexample) = undisturbed::completes(given) {
        panic!("{counterexample}")
    }
    for seed in (0..runs).map(|run| seed.wrapping_add(run)) {
        match run(given, seed) {
            Ok((moves, ending)) => {
                wandered.runs += 1;
                wandered.moves += moves;
                *wandered.endings.entry(ending).or_default() += 1;
            }
            Err(counterexample) => {
                let counterexample = shortened(given, counterexample);
                panic!("seed {seed} (run it alone with SAGA_SEED={seed}): {counterexample}")
            }
        }
    }
    println!(
        "{} version {}: {wandered}",
        given.plan.name, given.plan.version
    );
    wandered
}

/// How often a failed run is played again at most.
const REPLAYS: usize = 400;

/// The same broken promise by fewer moves: ever smaller parts of the script are left out, as long as
/// the same breaks.
fn shortened(given: &Given, mut shortest: Box<Counterexample>) -> Box<Counterexample> {
    let mut left = REPLAYS;
    let mut part = shortest.script.lines().count().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < shortest.script.lines().count() && left > 0 {
            left -= 1;
            let lines = shortest.script.lines().enumerate();
            let lines = lines.filter(|(line, _)| !(at..at + part).contains(line));
            let lines: Vec<&str> = lines.map(|(_, line)| line).collect();
            match replayed(given, &lines).filter(|found| found.broken == shortest.broken) {
                Some(found) => {
                    shortest = found;
                    shorter = true;
                }
                None => at += part,
            }
        }
        if !shorter || left == 0 {
            part /= 2;
        }
    }
    shortest
}

/// Plays those of the moves that are possible.
fn replayed(given: &Given, lines: &[&str]) -> Option<Box<Counterexample>> {
    let mut told = Timeline::default();
    let (mut scene, decision) = Scene::begin(given, Allowance::ANYTHING).ok()?;
    told.happened("the saga starts");
    told.recorded(&decision.events);
    let mut played = Vec::new();
    for line in lines {
        scene.allowance = Allowance::ANYTHING;
        let possible = scene.moves(given).into_iter();
        let Some(next) = possible.into_iter().find(|next| next.to_string() == *line) else {
            continue;
        };
        played.push(next.clone());
        if let Err(stopped) = scene.play(given, &next, Some(&mut told)) {
            return Some(told_until(stopped, &played, Some(&scene), &told));
        }
    }
    None
}

fn run(given: &Given, seed: u64) -> Result<(usize, String), Box<Counterexample>> {
    let mut random = Random::seeded(seed);
    let mut told = Timeline::default();
    let mut played = Vec::new();
    let begun = Scene::begin(given, Allowance::ANYTHING);
    let (mut scene, decision) = begun.map_err(|s| told_until(s, &[], None, &told))?;
    told.happened("the saga starts");
    told.recorded(&decision.events);
    for number in 0..TROUBLED + ENDLESS {
        scene.allowance = match number < TROUBLED {
            true => Allowance::ANYTHING,
            false => Allowance::NOTHING,
        };
        let moves = scene.moves(given);
        if moves.is_empty() && scene.is_forgotten() {
            let what = "nothing is in flight, no timer is set, and it waits for nobody";
            let stopped = Stopped::Broken(what.to_owned());
            return Err(told_until(stopped, &played, Some(&scene), &told));
        }
        if moves.is_empty() || (number >= TROUBLED && scene.course.is_at_rest() && scene.is_quiet())
        {
            return Ok((played.len(), scene.ending()));
        }
        // Nothing but persons could go on. They do not always.
        let persons = |next: &Move| matches!(next, Move::Person(_));
        if moves.iter().all(persons) && random.chance(400) {
            return Ok((played.len(), scene.ending()));
        }
        let Some(choice) = random.weighted(moves.iter().map(weight)) else {
            continue;
        };
        let next = moves[choice].clone();
        played.push(next.clone());
        if let Err(stopped) = scene.play(given, &next, Some(&mut told)) {
            return Err(told_until(stopped, &played, Some(&scene), &told));
        }
    }
    let stopped = Stopped::Broken(format!(
        "it goes on and on: {ENDLESS} moves without a fault"
    ));
    Err(told_until(stopped, &played, Some(&scene), &told))
}

/// What is usual happens more often than what is not, or no run would get anywhere.
fn weight(next: &Move) -> u64 {
    match next {
        Move::Command { fate, will, .. } => fate_weight(*fate) * will_weight(*will),
        Move::Reply { fate, .. } => fate_weight(*fate) * 10,
        Move::Finish { will, .. } => 20 * will_weight(*will),
        Move::Timer { step, .. } if step.is_empty() => 2,
        Move::Timer { .. } => 60,
        Move::Lock { granted, .. } => {
            if *granted {
                100
            } else {
                10
            }
        }
        Move::Person(_) => 3,
    }
}

fn fate_weight(fate: Fate) -> u64 {
    match fate {
        Fate::Arrives => 20,
        Fate::ArrivesAndComesAgain => 5,
        Fate::IsLost => 4,
    }
}

fn will_weight(will: Will) -> u64 {
    match will {
        Will::Succeed => 10,
        Will::Refuse => 2,
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
