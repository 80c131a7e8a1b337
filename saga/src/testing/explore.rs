//! Every order of what may happen, within bounds: breadth first, so that the first broken promise
//! found is the shortest way to one.
//!
//! What a state is: where the saga stands, which timers are set, what is in flight, what the
//! participants did, and how much may still go wrong. Two ways to the same state are one. Promised:
//! an [`Explored`] that is [exhausted](Explored::exhausted) has seen every state there is within its
//! bounds. Not promised: anything beyond them; [`wander`](crate::testing::wander) goes there.
//!
//! Time passes while something is in flight only as often as [`Bounds::early_timeouts`] says; when
//! nothing is, it always does, so that every way has an end. Budgets of the definition are cut down
//! for the search ([`Bounds::attempts`]): what happens at the fifth attempt happens at the second.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt,
};

use serde_json::Value;

use crate::{
    instance::{Status, StepStatus},
    testing::{
        course::{Memory, Stopped},
        given::Given,
        moves::Move,
        scene::{Allowance, Scene},
        timeline::Timeline,
    },
};

/// How far a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How many actions participants may refuse, and claims be refused.
    pub refusals: u8,
    /// How many messages may be lost for good.
    pub losses: u8,
    /// How many messages may arrive twice.
    pub duplicates: u8,
    /// How often a timer may fire although something is in flight.
    pub early_timeouts: u8,
    /// How often a person may intervene.
    pub interventions: u8,
    /// Attempts at one operation, at most; fewer where the definition has fewer.
    pub attempts: i32,
    /// Rounds of a retriable step, at most.
    pub rounds: i32,
    /// Probes of a pivot, at most.
    pub probes: i32,
    /// After so many states the search gives up.
    pub states: usize,
}

impl Default for Bounds {
    /// Two losses, one of each other fault, two attempts, one intervention, a quarter of a million
    /// states.
    fn default() -> Self {
        Self {
            refusals: 1,
            losses: 2,
            duplicates: 1,
            early_timeouts: 1,
            interventions: 1,
            attempts: 2,
            rounds: 2,
            probes: 1,
            states: 250_000,
        }
    }
}

impl Bounds {
    /// Without persons: for a search that goes further elsewhere.
    #[must_use]
    pub fn unattended() -> Self {
        Self {
            interventions: 0,
            ..Self::default()
        }
    }

    fn allowance(&self) -> Allowance {
        Allowance {
            refusals: self.refusals,
            losses: self.losses,
            duplicates: self.duplicates,
            early_timeouts: self.early_timeouts,
            interventions: self.interventions,
        }
    }

    fn capped(&self, given: &Given) -> Given {
        given
            .clone()
            .capped(self.attempts, self.rounds, self.probes)
    }
}

/// What a search saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explored {
    /// How many different states.
    pub states: usize,
    /// How many moves led to them, those to a known state among them.
    pub moves: usize,
    /// How it ended or where it came to rest, with the number of states for each: `completed`,
    /// `compensated`, `abandoned`, `paused`, `parked: …`.
    pub endings: BTreeMap<String, usize>,
    /// Whether there was nothing left to see within the bounds.
    pub exhausted: bool,
}

impl Explored {
    /// Whether some way leads to an end that begins with this.
    #[must_use]
    pub fn ends(&self, ending: &str) -> bool {
        self.endings.keys().any(|known| known.starts_with(ending))
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.exhausted {
            ""
        } else {
            ", and there are more"
        };
        writeln!(f, "{} states by {} moves{whole}", self.states, self.moves)?;
        for (ending, states) in &self.endings {
            writeln!(f, "{states:>8} {ending}")?;
        }
        Ok(())
    }
}

/// The shortest way to a broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// Which promise.
    pub broken: String,
    /// The moves that lead there, one a line: for [`replay`].
    pub script: String,
    /// What was recorded at each.
    pub story: String,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            broken,
            script,
            story,
        } = self;
        write!(
            f,
            "{broken}\n\nthe script, for `replay`:\n{script}\n\nthe story:\n{story}"
        )
    }
}

/// Looks at every order of what may happen to a saga, within bounds.
///
/// # Errors
///
/// The shortest way to a broken promise.
pub fn search(given: &Given, bounds: &Bounds) -> Result<Explored, Box<Counterexample>> {
    Search::over(&bounds.capped(given), bounds)
}

/// [`search`], for a `#[test]`: prints what it saw, and fails with the counterexample.
///
/// # Panics
///
/// If a promise is broken, or the bounds hold more states than the search may look at.
#[track_caller]
pub fn explore(given: &Given, bounds: &Bounds) -> Explored {
    match search(given, bounds) {
        Ok(explored) => {
            println!(
                "{} version {}: {explored}",
                given.plan.name, given.plan.version
            );
            assert!(
                explored.exhausted,
                "there are more than {} states within these bounds: narrow the bounds, or allow more states",
                bounds.states
            );
            explored
        }
        Err(counterexample) => panic!("{counterexample}"),
    }
}

/// Plays a script as a [`Counterexample`] has it, under the bounds it was found with.
///
/// # Errors
///
/// The counterexample again, if the promise is still broken.
///
/// # Panics
///
/// If a line of the script is not possible where it stands.
#[track_caller]
pub fn replay(given: &Given, bounds: &Bounds, script: &str) -> Result<String, Box<Counterexample>> {
    let given = bounds.capped(given);
    let mut told = Timeline::default();
    let mut played: Vec<Move> = Vec::new();
    let (mut scene, decision) = match Scene::begin(&given, Allowance::ANYTHING) {
        Ok(begun) => begun,
        Err(stopped) => return Err(told_until(stopped, &[], None, &told)),
    };
    told.recorded(&decision.events);
    let lines = script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    for line in lines {
        scene.allowance = Allowance::ANYTHING;
        let possible = scene.moves(&given);
        let Some(next) = possible.iter().find(|next| next.to_string() == line) else {
            let possible: Vec<_> = possible.iter().map(ToString::to_string).collect();
            panic!(
                "`{line}` is not possible here; possible is\n  {}\n\nthe story so far:\n{}",
                possible.join("\n  "),
                told.told(&scene.course.instance)
            )
        };
        played.push(next.clone());
        if let Err(stopped) = scene.play(&given, next, Some(&mut told)) {
            return Err(told_until(stopped, &played, Some(&scene), &told));
        }
    }
    if scene.moves(&given).is_empty() && scene.is_forgotten() {
        let stopped = Stopped::Broken(FORGOTTEN.to_owned());
        return Err(told_until(stopped, &played, Some(&scene), &told));
    }
    Ok(told.told(&scene.course.instance))
}

const FORGOTTEN: &str =
    "nothing is in flight, no timer is set, and it neither ended nor waits for a person";

/// A broken promise with the way there.
pub(crate) fn told_until(
    stopped: Stopped,
    moves: &[Move],
    scene: Option<&Scene>,
    told: &Timeline,
) -> Box<Counterexample> {
    let script: Vec<_> = moves.iter().map(ToString::to_string).collect();
    Box::new(Counterexample {
        broken: stopped.reason(),
        script: script.join("\n"),
        story: scene.map_or_else(String::new, |scene| told.told(&scene.course.instance)),
    })
}

/// Each state's predecessor, and the move between them.
struct Search<'g> {
    given: &'g Given,
    came_from: Vec<Option<(usize, Move)>>,
    seen: HashSet<u128>,
    open: VecDeque<(usize, Scene)>,
    explored: Explored,
    /// What a completed saga knows, by what took effect: it must not depend on the order.
    outcomes: BTreeMap<Vec<String>, Value>,
    memory: Memory,
}

impl<'g> Search<'g> {
    fn over(given: &'g Given, bounds: &Bounds) -> Result<Explored, Box<Counterexample>> {
        let begun = Scene::begin(given, bounds.allowance());
        let (scene, _) = begun.map_err(|s| told_until(s, &[], None, &Timeline::default()))?;
        let mut search = Self {
            given,
            came_from: vec![None],
            seen: HashSet::from([scene.fingerprint()]),
            open: VecDeque::from([(0, scene)]),
            explored: Explored {
                states: 1,
                moves: 0,
                endings: BTreeMap::new(),
                exhausted: true,
            },
            outcomes: BTreeMap::new(),
            memory: Memory::default(),
        };
        while let Some((index, scene)) = search.open.pop_front() {
            let moves = scene.moves(given);
            search.note_ending(index, &scene, &moves)?;
            for next in moves {
                search.explored.moves += 1;
                let mut after = scene.clone();
                let played = after.remembering(given, &next, &mut search.memory);
                if let Err(stopped) = played.and_then(|_| after.promises(given)) {
                    return Err(search.counterexample(index, Some(next), stopped));
                }
                if !search.seen.insert(after.fingerprint()) {
                    continue;
                }
                if search.came_from.len() >= bounds.states {
                    search.explored.exhausted = false;
                    search.explored.states = search.came_from.len();
                    return Ok(search.explored);
                }
                search.came_from.push(Some((index, next)));
                search.open.push_back((search.came_from.len() - 1, after));
            }
        }
        search.explored.states = search.came_from.len();
        Ok(search.explored)
    }

    /// Counts the ends, and what comes to rest short of one.
    fn note_ending(
        &mut self,
        index: usize,
        scene: &Scene,
        moves: &[Move],
    ) -> Result<(), Box<Counterexample>> {
        if !moves.is_empty() {
            return Ok(());
        }
        if scene.is_forgotten() {
            let stopped = Stopped::Broken(FORGOTTEN.to_owned());
            return Err(self.counterexample(index, None, stopped));
        }
        *self.explored.endings.entry(scene.ending()).or_default() += 1;
        let now = &scene.course.instance;
        if now.status == Status::Completed {
            let took_effect = now.steps.iter();
            let took_effect = took_effect.filter(|step| step.status == StepStatus::Succeeded);
            let took_effect = took_effect.map(|step| step.name.clone()).collect();
            let known = self
                .outcomes
                .entry(took_effect)
                .or_insert_with(|| now.data.clone());
            if *known != now.data {
                let what = format!(
                    "what the saga knows in the end depends on the order of the replies: {known} or {}",
                    now.data
                );
                return Err(self.counterexample(index, None, Stopped::Broken(what)));
            }
        }
        Ok(())
    }

    fn counterexample(
        &self,
        index: usize,
        last: Option<Move>,
        stopped: Stopped,
    ) -> Box<Counterexample> {
        let mut moves: Vec<Move> = last.into_iter().collect();
        let mut at = index;
        while let Some((before, next)) = &self.came_from[at] {
            moves.push(next.clone());
            at = *before;
        }
        moves.reverse();
        let mut told = Timeline::default();
        let Ok((mut scene, decision)) = Scene::begin(self.given, Allowance::ANYTHING) else {
            return told_until(stopped, &moves, None, &told);
        };
        told.recorded(&decision.events);
        for next in &moves {
            scene.allowance = Allowance::ANYTHING;
            if scene.play(self.given, next, Some(&mut told)).is_err() {
                break;
            }
        }
        told_until(stopped, &moves, Some(&scene), &told)
    }
}
