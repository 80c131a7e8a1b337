//! Many sagas at once: their participants, one ledger, one set of resources, and a clock of their own.
//!
//! What passes here: every message of every saga, each with a delay drawn by seed, so that they
//! overtake each other; timers at the definition's own times; faults, by script or by seed. Promised:
//! the same seed gives the same world. After every single thing that happens the promises are checked,
//! money first; when nothing more happens, each saga has ended or is parked for a person, and the
//! effects left are exactly those of the completed ones. Not promised: speed; this is one thread.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::{
    decide::{Command, Decision, Effect},
    event::{Answer, Input, LockAnswer, Reply, Timer},
    instance::{Instance, Status, StepStatus},
    intervention::What,
    operation::Phase,
    testing::{
        claims::{gives_back, still_claims},
        course::{Course, Stopped, broken, key},
        fault::Fault,
        given::Given,
        ledger::Ledger,
        moves::Place,
        participants::{Carried, Participants, Will},
        random::Random,
        resources::Resources,
        scene::person,
        timeline::{Timeline, input_line},
    },
    wire::Refusal,
};

/// How long a message is on its way at most, faults aside.
const SLOWEST: u64 = 200;
/// How long a late reply takes: longer than every patience there is.
const LATE: Duration = Duration::from_secs(24 * 60 * 60);
/// More happenings than this for one saga, and it will never end.
const ENDLESS: usize = 5_000;
/// How often a person helps a parked saga.
const HELP: usize = 3;

/// A world in which sagas live.
pub struct World {
    random: Random,
    seed: u64,
    now: Duration,
    sagas: BTreeMap<Uuid, Life>,
    ledger: Ledger,
    total: i64,
    resources: Resources,
    /// What is to come, by its moment and then by number.
    agenda: BTreeMap<(Duration, u64), Due>,
    number: u64,
    scripted: Vec<(String, Fault)>,
    per_mille: u64,
    fired: BTreeMap<&'static str, usize>,
    strangers: usize,
    happened: usize,
}

/// One saga and its participants.
struct Life {
    given: Arc<Given>,
    course: Course,
    participants: Participants,
    told: Timeline,
    helped: usize,
}

/// Something that is to come.
enum Due {
    Command {
        command: Command,
        fault: Option<Fault>,
        /// Deliveries that come to nothing before one does.
        failing: u8,
    },
    Reply {
        saga: Uuid,
        reply: Reply,
    },
    Timer {
        saga: Uuid,
        timer: Timer,
    },
    /// A claim is settled: at once, or when somebody else gave up theirs.
    Lock {
        saga: Uuid,
        input: Input,
    },
}

/// What became of a world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lived {
    /// How many sagas.
    pub sagas: usize,
    /// How they ended.
    pub endings: BTreeMap<String, usize>,
    /// Where each of them stands in the end.
    pub statuses: BTreeMap<Uuid, Status>,
    /// How often each fault fired, by its word.
    pub faults: BTreeMap<String, usize>,
    /// How many things happened.
    pub happenings: usize,
    /// How much time passed in it.
    pub time: Duration,
}

impl fmt::Display for Lived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sagas,
            happenings,
            time,
            ..
        } = self;
        writeln!(f, "{sagas} sagas, {happenings} happenings in {time:?}")?;
        for (ending, sagas) in &self.endings {
            writeln!(f, "{sagas:>8} {ending}")?;
        }
        for (fault, times) in &self.faults {
            writeln!(f, "{times:>8} × {fault}")?;
        }
        Ok(())
    }
}

impl World {
    /// An empty world with this ledger. `SAGA_SEED=n` puts another seed in the place of this one.
    #[must_use]
    pub fn new(seed: u64, ledger: Ledger) -> Self {
        let wanted = std::env::var("SAGA_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = wanted.unwrap_or(seed);
        Self {
            random: Random::seeded(seed),
            seed,
            now: Duration::ZERO,
            sagas: BTreeMap::new(),
            total: ledger.total(),
            ledger,
            resources: Resources::default(),
            agenda: BTreeMap::new(),
            number: 0,
            scripted: Vec::new(),
            per_mille: 0,
            fired: BTreeMap::new(),
            strangers: 0,
            happened: 0,
        }
    }

    /// A fault at the next command of this step, whichever saga's. Several at one step fire one after
    /// another.
    #[must_use]
    pub fn fault(mut self, step: impl Into<String>, fault: Fault) -> Self {
        self.scripted.push((step.into(), fault));
        self
    }

    /// Faults by seed, at so many of a thousand commands.
    #[must_use]
    pub fn faults(mut self, per_mille: u64) -> Self {
        self.per_mille = per_mille;
        self
    }

    /// A saga starts, at a moment drawn by seed within the next seconds. Its business works on the
    /// world's ledger; the `Given`'s own plays no part.
    ///
    /// # Panics
    ///
    /// If a promise is broken.
    #[track_caller]
    pub fn start(&mut self, given: &Arc<Given>) -> Uuid {
        let id = Uuid::from_u64_pair(self.random.next(), self.sagas.len() as u64 + 1);
        let (course, decision) = match Course::begin(given, id) {
            Ok(begun) => begun,
            Err(stopped) => panic!("seed {}: {}", self.seed, stopped.reason()),
        };
        let mut told = Timeline::default();
        told.happened("the saga starts");
        told.recorded(&decision.events);
        let life = Life {
            given: Arc::clone(given),
            course,
            participants: Participants::default(),
            told,
            helped: 0,
        };
        self.sagas.insert(id, life);
        self.carry_out(id, gives_back(None), &decision);
        id
    }

    /// Lets everything happen that is to come. A person helps a parked saga a few times by trying
    /// again; faults by seed spare it then.
    ///
    /// # Panics
    ///
    /// If a promise is broken, with the seed and the story of the saga it was broken for; or if a
    /// fault of the script never fired.
    #[track_caller]
    pub fn run(mut self) -> (Lived, Ledger) {
        let most = ENDLESS.saturating_mul(self.sagas.len());
        while let Some(((at, _), due)) = self.agenda.pop_first() {
            self.now = self.now.max(at);
            self.happened += 1;
            let saga = due.saga();
            if let Err(stopped) = self.happens(due) {
                self.fail(saga, stopped);
            }
            if self.happened > most {
                let what = format!("more than {most} happenings: this world does not end");
                self.fail(saga, Stopped::Broken(what));
            }
            if self.agenda.is_empty()
                && let Err(stopped) = self.help()
            {
                self.fail(saga, stopped);
            }
        }
        self.judge()
    }

    // --- inside ---

    fn happens(&mut self, due: Due) -> Result<(), Stopped> {
        match due {
            Due::Command {
                command,
                fault,
                failing: 0,
            } => self.command(command, fault)?,
            Due::Command {
                command,
                fault,
                failing,
            } => self.again(command, fault, failing - 1),
            Due::Reply { saga, reply } => self.hears(saga, &Input::Reply(reply))?,
            Due::Timer { saga, timer } => {
                let life = self.sagas.get(&saga);
                let set = life.and_then(|life| life.course.timers.get(&key(&timer)));
                if set.is_some_and(|(set, _)| *set == timer) {
                    self.hears(saga, &Input::Timer(timer))?;
                }
            }
            Due::Lock { saga, input } => self.hears(saga, &input)?,
        }
        if self.ledger.total() != self.total {
            let now = self.ledger.total();
            return broken(format!(
                "there was {} in the world, now there is {now}",
                self.total
            ));
        }
        match self.resources.overdrawn() {
            Some(resource) => broken(format!("more of {resource} is held than there is")),
            None => Ok(()),
        }
    }

    fn hears(&mut self, saga: Uuid, input: &Input) -> Result<(), Stopped> {
        let Some(life) = self.sagas.get_mut(&saga) else {
            self.strangers += 1;
            return Ok(());
        };
        life.told
            .happened(format!("{:?}: {}", self.now, input_line(input)));
        let gives_back = gives_back(Some(&life.course.instance));
        let decision = life.course.take(&life.given, input)?;
        life.told.recorded(&decision.events);
        self.carry_out(saga, gives_back, &decision);
        self.promises(saga)
    }

    fn carry_out(&mut self, saga: Uuid, gives_back: bool, decision: &Decision) {
        for effect in &decision.effects {
            match effect {
                Effect::Send(command) => self.sent(command),
                Effect::SetTimer { timer, after } => {
                    let timer = timer.clone();
                    self.plan(*after, Due::Timer { saga, timer });
                }
                Effect::Acquire(claims) => {
                    for claim in claims {
                        if let Some(answer) = self.resources.claim(saga, claim) {
                            let input = Input::Lock(answer);
                            self.plan(Duration::ZERO, Due::Lock { saga, input });
                        }
                    }
                }
                Effect::Ended(_) if gives_back => {
                    for (saga, LockAnswer { resource, .. }) in self.resources.release(saga) {
                        let input = Input::Timer(Timer::Lock { resource });
                        self.plan(Duration::ZERO, Due::Lock { saga, input });
                    }
                }
                Effect::Ended(_)
                | Effect::ClearTimer { .. }
                | Effect::StepSettled { .. }
                | Effect::Parked { .. } => {}
            }
        }
    }

    /// A command is on its way; a fault may strike it.
    fn sent(&mut self, command: &Command) {
        let fault = self.strikes(command);
        match fault {
            Some(Fault::TimeoutNotExecuted) => return,
            Some(Fault::DuplicateCommand) => self.again(command.clone(), None, 0),
            Some(Fault::WrongStep | Fault::UnknownSaga) => {
                if let Some(fault) = fault {
                    self.stray(command, fault);
                }
            }
            _ => {}
        }
        let failing = if fault == Some(Fault::Transient) {
            2
        } else {
            0
        };
        self.again(command.clone(), fault, failing);
    }

    fn again(&mut self, command: Command, fault: Option<Fault>, failing: u8) {
        let delay = self.delay();
        let due = Due::Command {
            command,
            fault,
            failing,
        };
        self.plan(delay, due);
    }

    /// A reply that is about something else arrives besides.
    fn stray(&mut self, command: &Command, fault: Fault) {
        let mut operation = command.operation.clone();
        let saga = operation.saga_id;
        if fault == Fault::UnknownSaga {
            operation.saga_id = Uuid::from_u64_pair(self.random.next(), 0);
        } else {
            let life = self.sagas.get(&saga);
            let steps = life.map(|life| life.course.instance.steps.as_slice());
            let mut steps = steps.unwrap_or_default().iter();
            let other = steps.find(|step| step.status == StepStatus::Pending);
            operation.step = other.map_or("no-such-step", |step| &step.name).to_owned();
            operation.phase = Phase::Action;
        }
        let answer = Answer::Failed(Refusal::new("stray", "This is about something else."));
        let saga = operation.saga_id;
        let reply = Reply { operation, answer };
        self.plan(Duration::ZERO, Due::Reply { saga, reply });
    }

    fn command(&mut self, command: Command, fault: Option<Fault>) -> Result<(), Stopped> {
        let saga = command.operation.saga_id;
        let place = Place::of(&command.operation);
        let Some(life) = self.sagas.get_mut(&saga) else {
            return broken("a command of a saga that does not exist");
        };
        let refuses = fault == Some(Fault::Refuses) && place.phase() == Phase::Action;
        let will = if refuses { Will::Refuse } else { Will::Succeed };
        let given = Arc::clone(&life.given);
        let (ledger, participants) = (&mut self.ledger, &mut life.participants);
        let payload = &command.payload;
        let carried =
            participants.carry_out(&given, ledger, &place, command.probe, payload, will)?;
        let answer = match carried {
            Carried::Answered(answer) => answer,
            // Nothing meets an effect outside of a database here: it ends where it began.
            Carried::Began => participants.finish(&given, ledger, &place, will)?,
            Carried::Later => {
                self.again(command, fault, 0);
                return Ok(());
            }
        };
        self.promises(saga)?;
        let operation = command.operation;
        let reply = Reply { operation, answer };
        let delay = self.delay();
        let due = |reply| Due::Reply { saga, reply };
        match fault {
            Some(Fault::TimeoutExecuted) => {}
            Some(Fault::LateReply) => self.plan(LATE, due(reply)),
            Some(Fault::DuplicateReply) => {
                self.plan(delay, due(reply.clone()));
                let again = self.delay();
                self.plan(delay + again, due(reply));
            }
            _ => self.plan(delay, due(reply)),
        }
        Ok(())
    }

    /// The fault that strikes this command, by script before by seed.
    fn strikes(&mut self, command: &Command) -> Option<Fault> {
        let step = &command.operation.step;
        let mine = |(name, fault): &(String, Fault)| {
            let about_actions = *fault == Fault::Refuses;
            let forward = command.operation.phase == Phase::Action && !command.probe;
            name == step && (forward || !about_actions)
        };
        let scripted = self.scripted.iter().position(mine);
        let scripted = scripted.map(|at| self.scripted.remove(at).1);
        let spared = self.sagas.get(&command.operation.saga_id);
        let spared = spared.is_some_and(|life| life.helped > 0);
        let fault = scripted.or_else(|| {
            let strikes = !spared && self.random.chance(self.per_mille);
            let all = Fault::ALL.len() as u64;
            strikes.then(|| Fault::ALL[usize::try_from(self.random.below(all)).unwrap_or(0)])
        })?;
        *self.fired.entry(fault.as_str()).or_default() += 1;
        Some(fault)
    }

    /// Nothing is to come. A person looks after what is parked.
    fn help(&mut self) -> Result<(), Stopped> {
        let parked = self.sagas.iter().filter(|(_, life)| {
            life.course.instance.status == Status::Parked && life.helped < HELP
        });
        let parked: Vec<Uuid> = parked.map(|(id, _)| *id).collect();
        for saga in parked {
            if let Some(life) = self.sagas.get_mut(&saga) {
                life.helped += 1;
            }
            let retry = person(What::Retry { step: None });
            self.hears(saga, &Input::Intervention(retry))?;
        }
        Ok(())
    }

    fn promises(&self, saga: Uuid) -> Result<(), Stopped> {
        let Some(life) = self.sagas.get(&saga) else {
            return Ok(());
        };
        for (step, round, row) in life.participants.rows() {
            if row.effects > 1 || row.undos > row.effects {
                return broken(format!(
                    "{step} took effect {} times and was undone {} times in round {round}",
                    row.effects, row.undos
                ));
            }
        }
        let now = &life.course.instance;
        if now.status.is_terminal()
            && let Some((resource, held)) = self.resources.claimed_by(saga)
        {
            return still_claims(now, resource, held);
        }
        for step in &now.steps {
            let effects = life.participants.effects_left(&step.name);
            let wanted = match now.status {
                Status::Completed => Some(i32::from(step.status == StepStatus::Succeeded)),
                Status::Compensated => Some(0),
                _ => None,
            };
            if wanted.is_some_and(|wanted| wanted != effects) {
                return broken(format!(
                    "it is {}, and {} has {effects} effects",
                    now.status, step.name
                ));
            }
        }
        Ok(())
    }

    /// Everything is over: nothing is forgotten, and no resource is held by what has ended.
    #[track_caller]
    fn judge(self) -> (Lived, Ledger) {
        let mut lived = Lived {
            sagas: self.sagas.len(),
            faults: self
                .fired
                .iter()
                .map(|(word, times)| ((*word).to_owned(), *times))
                .collect(),
            happenings: self.happened,
            time: self.now,
            ..Lived::default()
        };
        let mut open = 0;
        for (id, life) in &self.sagas {
            let now: &Instance = &life.course.instance;
            if !life.course.is_at_rest() {
                let what = "nothing is to come, and it neither ended nor waits for a person";
                self.fail(*id, Stopped::Broken(what.to_owned()));
            }
            lived.statuses.insert(*id, now.status);
            open += usize::from(!now.status.is_terminal());
            *lived.endings.entry(now.status.to_string()).or_default() += 1;
        }
        let seed = self.seed;
        assert!(
            open > 0 || self.resources.held() == 0,
            "seed {seed}: every saga has ended, and something is still held"
        );
        assert!(
            self.scripted.is_empty(),
            "seed {seed}: these faults never fired: {:?}",
            self.scripted
        );
        let unknown = self
            .fired
            .get(Fault::UnknownSaga.as_str())
            .copied()
            .unwrap_or_default();
        assert_eq!(
            self.strangers, unknown,
            "seed {seed}: each reply to an unknown saga is noticed"
        );
        println!("seed {seed}: {lived}");
        (lived, self.ledger)
    }

    #[track_caller]
    fn fail(&self, saga: Uuid, stopped: Stopped) -> ! {
        let story = self.sagas.get(&saga);
        let story = story
            .map(|life| life.told.told(&life.course.instance))
            .unwrap_or_default();
        panic!(
            "seed {} (SAGA_SEED replays it): {}\n\nthe story of saga {saga}:\n{story}",
            self.seed,
            stopped.reason()
        )
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(1 + self.random.below(SLOWEST))
    }

    fn plan(&mut self, after: Duration, due: Due) {
        self.number += 1;
        self.agenda.insert((self.now + after, self.number), due);
    }
}

impl Due {
    fn saga(&self) -> Uuid {
        match self {
            Self::Command { command, .. } => command.operation.saga_id,
            Self::Reply { saga, .. } | Self::Timer { saga, .. } | Self::Lock { saga, .. } => *saga,
        }
    }
}
