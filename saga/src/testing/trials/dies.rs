//! The coordinator dies around each of its commits.
//!
//! Before the commit nothing has happened, and the same input comes again. After it, before anybody
//! knows: what was sent may be sent again, because the relay's cursor lags; what was received comes
//! again, because its offset was not committed; and whoever goes on reads the saga from its rows.

use crate::{
    decide::{Decision, Effect},
    event::{Event, Input},
    instance::{Instance, Status},
    testing::{
        given::Given,
        moves::Move,
        scene::{Scene, counted},
        trials::{
            Tried,
            play::{Played, lose_command, nothing, refuse},
        },
    },
};

/// Lets the coordinator die around each commit of the saga, and around all of them: of the whole way,
/// of the ways on which one step is refused, and of those on which one never answers. Whoever goes on
/// decides the same again from what is stored, and the saga ends as if nobody had died.
///
/// # Panics
///
/// If a promise is broken, or something is another than if nobody had died; with the story.
#[track_caller]
pub fn dies_after_each_commit(given: &Given) -> Tried {
    let mut tried = Tried::default();
    let steps = given.plan.steps.iter().map(|step| step.name.as_str());
    let ways = steps.flat_map(|step| [Way::Refused(step), Way::Silent(step)]);
    for way in std::iter::once(Way::Whole).chain(ways) {
        let base = Played::to_rest(given, "nobody dies", |scene: &_, moves: &[_]| {
            way.next(scene, moves)
        });
        if matches!(way, Way::Whole) {
            base.expect(Status::Completed);
        }
        tried.note(&base);
        let commits = base.decisions.len();
        for deadly in (0..commits).map(Some).chain([None]) {
            let about = match deadly {
                Some(commit) => format!("the coordinator dies after commit {}", commit + 1),
                None => "the coordinator dies after every commit".to_owned(),
            };
            let played = dying(given, about, &base, way, deadly);
            played.expect_as(&base);
            tried.note(&played);
        }
    }
    tried
}

/// What goes wrong besides.
#[derive(Clone, Copy)]
enum Way<'g> {
    Whole,
    Refused(&'g str),
    Silent(&'g str),
}

impl Way<'_> {
    fn next(self, scene: &Scene, moves: &[Move]) -> Option<Move> {
        match self {
            Self::Whole => nothing(scene, moves),
            Self::Refused(step) => refuse(step, moves),
            Self::Silent(step) => lose_command(step, crate::Phase::Action, moves),
        }
    }
}

/// Plays the same moves again, the coordinator dying around some commits. What was sent twice arrives
/// when everything else is over.
#[track_caller]
fn dying(
    given: &Given,
    about: String,
    base: &Played,
    way: Way<'_>,
    deadly: Option<usize>,
) -> Played {
    let mut played = Played::begun(given, about);
    let dies = |commit: usize| deadly.is_none_or(|deadly| deadly == commit);
    if dies(0) {
        die(given, &mut played, None, 0);
    }
    for next in &base.moves {
        let before = played.decisions.len();
        let input = heard(&played.scene, next);
        if let Some(input) = input.as_ref().filter(|_| dies(before)) {
            decided_again(given, &mut played, input);
        }
        played.play(given, next);
        if played.decisions.len() > before && dies(before) {
            die(given, &mut played, input.as_ref(), before);
        }
    }
    played.go_on(given, &mut |scene: &Scene, moves: &[Move]| {
        way.next(scene, moves)
    });
    played
}

/// What the saga will hear by a move, unless it is a person.
fn heard(scene: &Scene, next: &Move) -> Option<Input> {
    match next {
        Move::Reply { place, outcome, .. } => {
            let (_, reply) = scene.replies.get(&(place.clone(), outcome.as_str()))?;
            Some(Input::Reply(reply.clone()))
        }
        Move::Timer { step, phase } => {
            let (timer, _) = scene.course.timers.get(&(step.clone(), *phase))?;
            Some(Input::Timer(timer.clone()))
        }
        _ => None,
    }
}

/// Before the commit: what is decided is gone, and is decided again from what is stored.
#[track_caller]
fn decided_again(given: &Given, played: &mut Played, input: &Input) {
    let stored = stored(played);
    let decided = |now: &Instance| given.decide(now, input).ok().and_then(Result::ok);
    let (again, first) = (decided(&stored), decided(played.now()));
    if again != first {
        played.fail("another decision is made from what is stored");
    }
}

/// After the commit: the saga is read from its rows, its commands are sent once more, and what it
/// heard it hears once more.
#[track_caller]
fn die(given: &Given, played: &mut Played, heard: Option<&Input>, commit: usize) {
    played.note("the coordinator dies, another one goes on");
    let stored = stored(played);
    if stored != *played.now() {
        played.fail("the saga is another one when it is read from its history");
    }
    let decision = played.decisions[commit].1.clone();
    let sent = decision.effects.iter();
    let sent = sent.filter(|effect| matches!(effect, Effect::Send(_)));
    let sent_again = Decision {
        events: Vec::new(),
        effects: sent.cloned().collect(),
    };
    played.scene.send(&sent_again);
    // A timer is a row of the same transaction: it does not come again.
    if let Some(heard @ Input::Reply(_)) = heard {
        let again = played.hears(given, heard);
        if !again.effects.is_empty() || counted(&again) {
            played.fail("what it heard before counts a second time");
        }
    }
}

/// The saga as another coordinator reads it.
#[track_caller]
fn stored(played: &Played) -> Instance {
    let stored = played.history.iter().map(|event| {
        let text = serde_json::to_string(event).ok()?;
        serde_json::from_str::<Event>(&text).ok()
    });
    let Some(stored) = stored.collect::<Option<Vec<Event>>>() else {
        played.fail("an event of its history cannot be read")
    };
    match Instance::from_history(played.now().id, &stored) {
        Some(instance) => instance,
        None => played.fail("its history does not begin with a start"),
    }
}
