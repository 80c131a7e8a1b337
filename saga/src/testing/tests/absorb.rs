//! Sagas of any shape, under anything that may happen and much that may not: an end absorbs
//! everything, and every state survives being stored and going on from there.
//!
//! After each decision the course checks by itself that the state folds from its events, survives
//! JSON, and that the same question gets the same decision.

use std::time::Duration;

use outbox::Payload;
use proptest::prelude::*;
use uuid::Uuid;

use super::sagas::{Do, Done, Trip, Undo, data};
use crate::{
    decide::allowed,
    definition::{Definition, Replied, Step},
    event::{Answer, Attempt, Event, Input, LockAnswer, Reply, Timer},
    instance::Instance,
    intervention::What,
    locks::Claim,
    operation::{Operation, Phase},
    testing::{
        Given,
        course::{Course, Stopped},
        scene::{ALONE, person},
    },
    wire::Refusal,
};

/// The steps of a shape have these names, in this order.
const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

/// A definition in numbers.
#[derive(Debug, Clone)]
struct Shape {
    /// Compensatable stages: how many steps stand side by side in each.
    stages: Vec<usize>,
    pivot: bool,
    retriable: usize,
    /// Steps whose condition does not hold, by bit; and those that have one that does.
    left_out: u8,
    conditional: u8,
    locks: usize,
    deadline: bool,
    probes: i32,
    attempts: i32,
}

fn shape() -> impl Strategy<Value = Shape> {
    let order = (
        prop::collection::vec(1..3_usize, 0..3),
        any::<bool>(),
        0..3_usize,
    );
    let marks = (any::<u8>(), any::<u8>(), 0..3_usize, any::<bool>());
    (order, marks, 0..3_i32, 1..3_i32).prop_map(|(order, marks, probes, attempts)| {
        let (stages, pivot, retriable) = order;
        let (left_out, conditional, locks, deadline) = marks;
        let nothing = stages.is_empty() && !pivot && retriable == 0;
        Shape {
            stages,
            pivot: pivot || nothing,
            retriable,
            // Left out now and then, not every other time.
            left_out: left_out & conditional & (left_out >> 3),
            conditional,
            locks,
            deadline,
            probes,
            attempts,
        }
    })
}

impl Shape {
    fn definition(&self, version: i32) -> Definition<Trip> {
        let mut names = NAMES.iter().enumerate();
        let mut step = || {
            let (index, name) = names.next().expect("a name for each step");
            let step = self.step(name);
            let bit = 1_u8 << index;
            let left_out = self.left_out & bit != 0;
            match self.conditional & bit != 0 {
                true => step.when(move |_: &Trip| !left_out),
                false => step,
            }
        };
        let mut builder = Definition::<Trip>::builder("shape", version)
            .migrates_from(version - 1, |trip: Trip| trip);
        for lock in 0..self.locks {
            builder = builder.lock(move |_: &Trip| Claim::exclusive(format!("lock-{lock}")));
        }
        if self.deadline {
            builder = builder.deadline(Duration::from_secs(60));
        }
        for side_by_side in &self.stages {
            let steps: Vec<_> = (0..*side_by_side)
                .map(|_| {
                    let undone = step().compensation(|_: &Trip| Undo { number: 0 });
                    undone.compensation_attempts(self.attempts)
                })
                .collect();
            builder = builder.parallel(steps);
        }
        let mut retriable = (0..self.retriable).collect::<Vec<_>>().into_iter();
        let mut builder = match (self.pivot, retriable.next()) {
            (true, first) => {
                let builder = builder.pivot(step().probes(self.probes));
                match first {
                    Some(_) => builder.retriable(step().rounds(2)),
                    None => return builder.build().unwrap(),
                }
            }
            (false, Some(_)) => builder.retriable(step().rounds(2)),
            (false, None) => return builder.build().unwrap(),
        };
        for _ in retriable {
            builder = builder.retriable(step().rounds(2));
        }
        builder.build().unwrap()
    }

    fn step(&self, name: &'static str) -> Replied<Trip> {
        Step::new(name)
            .command("commands", |_: &Trip| Do { number: 0 })
            .reply(|trip: &mut Trip, done: Done| {
                trip.paid = Some(trip.paid.unwrap_or_default() + done.number);
            })
            .timeout(Duration::from_secs(1))
            .attempts(self.attempts)
            .backoff(Duration::from_secs(1), Duration::from_secs(2))
    }

    fn given(&self, version: i32) -> Given {
        let definition = self.definition(version);
        let given = Given::new(&definition, &data(false));
        let given = given.listens("commands", [Do::KIND, Undo::KIND]);
        let names = given.plan.steps.iter().map(|step| step.name.clone());
        let names: Vec<_> = names.collect();
        names
            .iter()
            .fold(given, |given, name| given.reply(name, &Done { number: 1 }))
    }
}

/// One thing that happens: something awaited, a person's wish that is allowed, or anything.
#[derive(Debug, Clone)]
enum Happening {
    Awaited(u8, bool),
    Timer(u8),
    Lock,
    Person(u8),
    Migrate,
    Anything(Input),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(which, good)| Happening::Awaited(which, good)),
        5 => any::<u8>().prop_map(Happening::Timer),
        2 => Just(Happening::Lock),
        2 => any::<u8>().prop_map(Happening::Person),
        1 => Just(Happening::Migrate),
        4 => anything().prop_map(Happening::Anything),
    ]
}

fn anything() -> impl Strategy<Value = Input> {
    let step = prop::sample::select([&NAMES[..], &["x"]].concat());
    let phase = prop::sample::select(Phase::ALL);
    (step, phase, 0..4_i32, 0..4_i32, 0..12_u8).prop_map(|(step, phase, round, attempt, what)| {
        let step = step.to_owned();
        let answer = match what {
            0 => Answer::Succeeded {
                kind: "done.v1".into(),
                payload: br#"{"number":1}"#.to_vec(),
            },
            1 => Answer::Succeeded {
                kind: "done.v1".into(),
                payload: b"?".to_vec(),
            },
            2 => Answer::Failed(Refusal::new("no", "no")),
            3 => Answer::Compensated,
            4 => Answer::NullCompensated,
            5 => Answer::Tombstoned,
            6 => return Input::Timer(Timer::Deadline),
            7 => {
                let (resource, granted) = (format!("lock-{}", round % 3), attempt % 2 == 0);
                return Input::Lock(LockAnswer { resource, granted });
            }
            8 => return Input::Intervention(person(What::Retry { step: Some(step) })),
            9 => return Input::Intervention(person(What::SkipCompensation { step })),
            10 => {
                let reply = serde_json::json!({"number": 1});
                return Input::Intervention(person(What::CompleteStep { step, reply }));
            }
            _ => {
                return Input::Timer(Timer::Attempt(Attempt {
                    step,
                    phase,
                    round,
                    attempt,
                }));
            }
        };
        let operation = Operation {
            saga_id: ALONE,
            step,
            phase,
            round,
        };
        Input::Reply(Reply { operation, answer })
    })
}

/// A saga of some shape, with its whole history.
struct Tale {
    versions: [Given; 2],
    course: Course,
    history: Vec<Event>,
    /// How many events were written by each commit.
    commits: Vec<(usize, Instance)>,
}

impl Tale {
    fn begun(shape: &Shape) -> Self {
        let versions = [shape.given(1), shape.given(2)];
        let (course, decision) = Course::begin(&versions[0], ALONE)
            .map_err(Stopped::reason)
            .unwrap();
        let mut tale = Self {
            versions,
            commits: Vec::new(),
            history: Vec::new(),
            course,
        };
        tale.note(decision.events);
        tale
    }

    fn given(&self) -> &Given {
        &self.versions[usize::try_from(self.course.instance.version - 1).unwrap()]
    }

    fn note(&mut self, events: Vec<Event>) {
        self.history.extend(events);
        self.commits
            .push((self.history.len(), self.course.instance.clone()));
    }

    /// What it means here; none if it means nothing.
    fn input(&self, what: &Happening) -> Option<Input> {
        let now = &self.course.instance;
        let nth = |which: u8, of: usize| usize::from(which) % of.max(1);
        match what {
            Happening::Anything(input) => Some(input.clone()),
            Happening::Lock => now.locks.iter().find(|lock| !lock.held).map(|lock| {
                let resource = lock.resource.clone();
                Input::Lock(LockAnswer {
                    resource,
                    granted: true,
                })
            }),
            Happening::Timer(which) => {
                let timers = self.course.timers.values();
                let timers: Vec<_> = timers.map(|(timer, _)| timer.clone()).collect();
                timers
                    .get(nth(*which, timers.len()))
                    .cloned()
                    .map(Input::Timer)
            }
            Happening::Awaited(which, good) => {
                let waiting: Vec<_> = now.steps.iter().filter(|s| s.waiting.is_some()).collect();
                let step = waiting.get(nth(*which, waiting.len()))?;
                let answer = match (step.phase(), good) {
                    (Phase::Action, true) => self.given().success(&step.name),
                    (Phase::Action, false) => Answer::Failed(Refusal::new("no", "no")),
                    (Phase::Compensation, true) => Answer::Compensated,
                    (Phase::Compensation, false) => Answer::NullCompensated,
                };
                let operation = now.operation(&step.name, step.phase(), step.round);
                Some(Input::Reply(Reply { operation, answer }))
            }
            Happening::Person(which) => {
                let wishes = [
                    What::Pause {},
                    What::Resume {},
                    What::Cancel {},
                    What::Retry { step: None },
                    What::Resume {},
                    What::Retry { step: None },
                ];
                Some(Input::Intervention(person(
                    wishes[nth(*which, wishes.len())].clone(),
                )))
            }
            Happening::Migrate => None,
        }
    }

    fn happens(&mut self, what: &Happening) {
        if let Happening::Migrate = what
            && self.course.instance.version == 1
        {
            let wish = person(What::Migrate { to: 2 });
            let [from, to] = &self.versions;
            match self.course.migrate(from, to, &wish) {
                Ok(decision) => self.note(decision.events),
                Err(Stopped::NotAllowed(_)) => {}
                Err(Stopped::Broken(what)) => panic!("{what}: {:#?}", self.history),
            }
        }
        let Some(input) = self.input(what) else {
            return;
        };
        self.hears(&input);
    }

    fn hears(&mut self, input: &Input) {
        let wish = match input {
            Input::Intervention(wish) => Some(wish.what.name()),
            _ => None,
        };
        let refused = allowed(&self.given().plan, &self.course.instance);
        let refused = refused.into_iter().find(|one| Some(one.operation) == wish);
        let refused = refused.and_then(|one| one.refused_because);
        let given = self.given().clone();
        match self.course.take(&given, input) {
            Ok(decision) => {
                assert_eq!(refused, None, "what is not allowed is not done");
                self.note(decision.events);
            }
            Err(Stopped::NotAllowed(_)) if wish.is_some() => {}
            Err(stopped) => panic!("{}: {input:?} after {:#?}", stopped.reason(), self.history),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_state_of_any_saga_survives_being_stored_and_goes_on_from_each_prefix(
        shape in shape(),
        happenings in prop::collection::vec(happening(), 1..40),
    ) {
        let mut tale = Tale::begun(&shape);
        for what in &happenings {
            tale.happens(what);
        }
        // As rows: each event by itself.
        let rows: Vec<_> = tale.history.iter().map(|e| serde_json::to_string(e).unwrap()).collect();
        let read: Vec<Event> = rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        prop_assert_eq!(&read, &tale.history);
        for prefix in 1..=read.len() {
            let folded = Instance::from_history(ALONE, &read[..prefix]).unwrap();
            prop_assert_eq!(folded.seq, i64::try_from(prefix).unwrap());
            let text = serde_json::to_string(&folded).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Instance>(&text).unwrap(), &folded);
            // From the middle as from the start: a stored state plus what came after it.
            let mut resumed: Instance = serde_json::from_str(&text).unwrap();
            read[prefix..].iter().for_each(|event| resumed.apply(event));
            prop_assert_eq!(&resumed, &tale.course.instance);
        }
        for (written, instance) in &tale.commits {
            let folded = Instance::from_history(ALONE, &read[..*written]);
            prop_assert_eq!(folded.as_ref(), Some(instance));
        }
    }

    #[test]
    fn an_end_of_any_saga_absorbs_everything(
        shape in shape(),
        happenings in prop::collection::vec(happening(), 0..25),
        way in 0..4_u8,
        later in prop::collection::vec(anything(), 1..15),
    ) {
        let mut tale = Tale::begun(&shape);
        for what in &happenings {
            tale.happens(what);
        }
        // Then to one of the ends, whichever is still open.
        tale.hears(&Input::Intervention(person(What::Resume {})));
        for _ in 0..80 {
            tale.happens(&Happening::Lock);
            let next = match way {
                0 => Happening::Awaited(0, true),
                1 => Happening::Awaited(0, false),
                2 => Happening::Timer(0),
                _ => break,
            };
            tale.happens(&next);
        }
        if !tale.course.instance.status.is_terminal() {
            tale.hears(&Input::Intervention(person(What::Abandon {})));
        }
        prop_assert!(tale.course.instance.status.is_terminal());
        let stranger = Operation {
            saga_id: Uuid::from_u128(99),
            step: "a".to_owned(),
            phase: Phase::Action,
            round: 1,
        };
        let stranger = Reply { operation: stranger, answer: Answer::Tombstoned };
        for input in later.iter().chain([&Input::Reply(stranger)]) {
            let before = tale.course.instance.clone();
            // That it does nothing is for the course to check; that it stays what it was is said here.
            tale.hears(input);
            let mut now = tale.course.instance.clone();
            now.seq = before.seq;
            prop_assert_eq!(now, before);
            prop_assert!(tale.course.timers.is_empty());
        }
    }
}
