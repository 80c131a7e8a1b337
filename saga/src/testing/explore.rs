//! Every order of what may happen, within bounds: breadth first, so that the first broken promise
//! found is the shortest way to one.
//!
//! When everything within the bounds was seen, the search walks back from the ends: a state from which
//! no way without a further fault and without a person leads to an end or a visible stop (parked,
//! paused) is broken, and so is a saga that no way completes.
//!
//! What a state is: where the saga stands, which timers are set, what is in flight, what the
//! participants did, and how much may still go wrong. Two ways to the same state are one. Promised:
//! an [`Explored`] that is [exhausted](Explored::exhausted) has seen every state there is within its
//! bounds. Not promised: anything beyond them; [`wander`](crate::testing::wander) goes there.
//!
//! Time passes while something is in flight only as often as [`Bounds::early_timeouts`] says; when
//! nothing is, it always does, so that every way has an end. Budgets of the definition are cut down
//! for the search ([`Bounds::attempts`]); that a budget is spent to its end, and not beyond it, is
//! checked at each timeout.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
};

use serde_json::Value;

use crate::{
    instance::{Status, StepStatus},
    testing::{
        course::{Memory, Stopped},
        given::Given,
        lengths,
        moves::Move,
        scene::{Allowance, Scene},
        timeline::{Timeline, cut},
        undisturbed,
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
    /// Two losses, one of each other fault, three attempts, one intervention, a quarter of a million
    /// states.
    fn default() -> Self {
        Self {
            refusals: 1,
            losses: 2,
            duplicates: 1,
            early_timeouts: 1,
            interventions: 1,
            attempts: 3,
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
    /// The moves that lead there, one a line: for [`replay`]. What is displayed of a long one is cut.
    pub script: String,
    /// What was recorded at each, cut to what somebody reads.
    pub story: String,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            broken,
            script,
            story,
        } = self;
        let script: Vec<String> = script.lines().map(str::to_owned).collect();
        let script = cut(&script).join("\n");
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
    if let Err(stopped) = lengths::sensible(&given.plan) {
        return Err(told_until(stopped, &[], None, &Timeline::default()));
    }
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
    let given = &given;
    let mut told = Timeline::default();
    let mut played: Vec<Move> = Vec::new();
    let (mut scene, decision) = match Scene::begin(given, Allowance::ANYTHING) {
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
        let possible = scene.moves(given);
        let Some(next) = possible.iter().find(|next| next.to_string() == line) else {
            let possible: Vec<_> = possible.iter().map(ToString::to_string).collect();
            panic!(
                "`{line}` is not possible here; possible is\n  {}\n\nthe story so far:\n{}",
                possible.join("\n  "),
                told.told(&scene.course.instance)
            )
        };
        played.push(next.clone());
        if let Err(stopped) = scene.play(given, next, Some(&mut told)) {
            return Err(told_until(stopped, &played, Some(&scene), &told));
        }
    }
    if scene.moves(given).is_empty() && scene.is_forgotten() {
        let stopped = Stopped::Broken(FORGOTTEN.to_owned());
        return Err(told_until(stopped, &played, Some(&scene), &told));
    }
    Ok(told.told(&scene.course.instance))
}

pub(crate) const FORGOTTEN: &str =
    "nothing is in flight, no timer is set, and it neither ended nor waits for a person";

const LOST: &str = "from here it comes neither to an end nor to a stop that anybody sees, though nothing \
                    more goes wrong";

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
    seen: HashMap<u128, usize>,
    open: VecDeque<(usize, Scene)>,
    /// The moves by which nothing goes wrong, from state to state.
    harmless: Vec<(usize, usize)>,
    /// The states that are an end or a stop that somebody sees.
    at_rest: Vec<usize>,
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
            seen: HashMap::from([(scene.fingerprint(), 0)]),
            open: VecDeque::from([(0, scene)]),
            harmless: Vec::new(),
            at_rest: Vec::new(),
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
            if scene.course.is_at_rest() {
                search.at_rest.push(index);
            }
            for next in moves {
                search.explored.moves += 1;
                let mut after = scene.clone();
                let played = after.remembering(given, &next, &mut search.memory);
                if let Err(stopped) = played.and_then(|_| after.promises(given)) {
                    return Err(search.counterexample(index, Some(next), stopped));
                }
                let new = search.came_from.len();
                let known = *search.seen.entry(after.fingerprint()).or_insert(new);
                if next.is_harmless() {
                    search.harmless.push((index, known));
                }
                if known != new {
                    continue;
                }
                if new >= bounds.states {
                    search.explored.exhausted = false;
                    search.explored.states = new;
                    return Ok(search.explored);
                }
                search.came_from.push(Some((index, next)));
                search.open.push_back((new, after));
            }
        }
        search.explored.states = search.came_from.len();
        if let Some(lost) = search.lost() {
            return Err(search.counterexample(lost, None, Stopped::Broken(LOST.to_owned())));
        }
        if !search.explored.ends("completed") {
            undisturbed::completes(given)?;
        }
        Ok(search.explored)
    }

    /// The first state from which nothing but a fault or a person leads to where the saga may rest.
    fn lost(&self) -> Option<usize> {
        let mut into = vec![Vec::new(); self.came_from.len()];
        for (from, to) in &self.harmless {
            into[*to].push(*from);
        }
        let mut comes_to_rest = vec![false; self.came_from.len()];
        let mut open = self.at_rest.clone();
        while let Some(state) = open.pop() {
            if !std::mem::replace(&mut comes_to_rest[state], true) {
                open.extend(&into[state]);
            }
        }
        comes_to_rest.iter().position(|rests| !rests)
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
        told.happened("the saga starts");
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
