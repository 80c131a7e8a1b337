//! Simulated participants of one saga, behind their barrier, and their own record of what they did.
//!
//! The record is what the promises are checked against: not what the saga believes. Promised: an
//! operation is carried out once and answered the same each time, a compensation that comes first
//! keeps its action from ever taking effect, a probe settles what never came. Not promised with
//! [`Given::without_barrier`](crate::testing::Given::without_barrier), which is for seeing trials fail.

use std::collections::BTreeMap;

use crate::{
    event::Answer,
    operation::Phase,
    testing::{
        closures::watched,
        course::{Stopped, broken},
        given::Given,
        ledger::Ledger,
        moves::Place,
    },
    wire::Refusal,
};

/// The barriers of all participants of one saga, by step and round.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Participants {
    rows: BTreeMap<(String, i32), Row>,
}

/// What one participant knows of one round of one step, and what it did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    acted: Option<Acted>,
    undone: Option<Undone>,
    /// How often the action took effect.
    pub(crate) effects: u8,
    /// How often it was undone.
    pub(crate) undos: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Acted {
    /// An effect outside of the database is under way.
    Running(Vec<u8>),
    Succeeded,
    Refused(String, String),
    Tombstoned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Undone {
    Compensated,
    NothingToUndo,
}

/// Whether an action that can be carried out is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Will {
    Succeed,
    Refuse,
}

/// What came of a command.
#[derive(Debug, Clone)]
pub(crate) enum Carried {
    Answered(Answer),
    /// An effect outside of the database began; the answer comes when it ends.
    Began,
    /// It meets one that is under way and has to come again.
    Later,
}

impl Participants {
    /// Whether what an action is answered is settled already.
    pub(crate) fn knows(&self, place: &Place) -> bool {
        let row = self.rows.get(&(place.step.clone(), place.round));
        row.is_some_and(|row| match place.phase() {
            Phase::Action => row.acted.is_some(),
            Phase::Compensation => row.undone.is_some(),
        })
    }

    /// The effects outside of a database that are under way.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&str, i32)> {
        let running = |row: &Row| matches!(row.acted, Some(Acted::Running(_)));
        let rows = self.rows.iter().filter(move |(_, row)| running(row));
        rows.map(|((step, round), _)| (step.as_str(), *round))
    }

    pub(crate) fn is_running(&self, place: &Place) -> bool {
        self.running()
            .any(|(step, round)| step == place.step && round == place.round)
    }

    /// How often a step took effect and was not undone, over all rounds.
    pub(crate) fn effects_left(&self, step: &str) -> i32 {
        let rows = self.rows.iter().filter(|((name, _), _)| name == step);
        rows.map(|(_, row)| i32::from(row.effects) - i32::from(row.undos))
            .sum()
    }

    /// What a step's participant did, over all rounds.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&str, i32, &Row)> {
        let rows = self.rows.iter();
        rows.map(|((step, round), row)| (step.as_str(), *round, row))
    }

    /// A command arrives.
    pub(crate) fn carry_out(
        &mut self,
        given: &Given,
        ledger: &mut Ledger,
        place: &Place,
        probe: bool,
        payload: &[u8],
        will: Will,
    ) -> Result<Carried, Stopped> {
        if self.is_running(place) {
            return Ok(Carried::Later);
        }
        if !given.barrier {
            return self.carelessly(given, ledger, place, probe, payload, will);
        }
        match place.phase() {
            Phase::Action if probe => self.asked(given, place),
            Phase::Action => self.act(given, ledger, place, payload, will),
            Phase::Compensation => self.undo(given, ledger, place, payload),
        }
        .map(|answer| answer.map_or(Carried::Began, Carried::Answered))
    }

    /// An effect outside of the database has come to something.
    pub(crate) fn finish(
        &mut self,
        given: &Given,
        ledger: &mut Ledger,
        place: &Place,
        will: Will,
    ) -> Result<Answer, Stopped> {
        let Some(Acted::Running(payload)) = self.row(place).acted.take() else {
            return broken(format!("nothing of {place} is under way"));
        };
        self.perform(given, ledger, place, &payload, will)
    }

    fn act(
        &mut self,
        given: &Given,
        ledger: &mut Ledger,
        place: &Place,
        payload: &[u8],
        will: Will,
    ) -> Result<Option<Answer>, Stopped> {
        if let Some(acted) = &self.row(place).acted {
            return Ok(Some(answer(given, place, acted)));
        }
        if given.is_external(&place.step) {
            self.row(place).acted = Some(Acted::Running(payload.to_vec()));
            return Ok(None);
        }
        self.perform(given, ledger, place, payload, will).map(Some)
    }

    fn perform(
        &mut self,
        given: &Given,
        ledger: &mut Ledger,
        place: &Place,
        payload: &[u8],
        will: Will,
    ) -> Result<Answer, Stopped> {
        let refused = match will {
            Will::Refuse => Err(Refusal::new(
                "refused",
                format!("{} was refused", place.step),
            )),
            Will::Succeed => work(given, ledger, place, payload)?,
        };
        let row = self.row(place);
        let acted = match refused {
            Ok(()) => {
                row.effects += 1;
                Acted::Succeeded
            }
            Err(refusal) => Acted::Refused(refusal.code, refusal.message),
        };
        let answer = answer(given, place, &acted);
        row.acted = Some(acted);
        Ok(answer)
    }

    fn asked(&mut self, given: &Given, place: &Place) -> Result<Option<Answer>, Stopped> {
        let acted = self.row(place).acted.get_or_insert(Acted::Tombstoned);
        Ok(Some(answer(given, place, acted)))
    }

    fn undo(
        &mut self,
        given: &Given,
        ledger: &mut Ledger,
        place: &Place,
        payload: &[u8],
    ) -> Result<Option<Answer>, Stopped> {
        let row = self.row(place);
        let acted = row.acted.get_or_insert(Acted::Tombstoned);
        let took_effect = *acted == Acted::Succeeded;
        let undone = match row.undone {
            Some(undone) => undone,
            None if took_effect => {
                if let Err(refusal) = work(given, ledger, place, payload)? {
                    return broken(format!(
                        "the participant refused to undo {}, and a compensation must not be refused: {} ({})",
                        place.step, refusal.message, refusal.code
                    ));
                }
                self.row(place).undos += 1;
                Undone::Compensated
            }
            None => Undone::NothingToUndo,
        };
        self.row(place).undone = Some(undone);
        Ok(Some(match undone {
            Undone::Compensated => Answer::Compensated,
            Undone::NothingToUndo => Answer::NullCompensated,
        }))
    }

    /// Without a barrier: whatever comes is carried out, as often as it comes.
    fn carelessly(
        &mut self,
        given: &Given,
        ledger: &mut Ledger,
        place: &Place,
        probe: bool,
        payload: &[u8],
        will: Will,
    ) -> Result<Carried, Stopped> {
        if probe {
            return self
                .asked(given, place)
                .map(|answer| answer.map_or(Carried::Began, Carried::Answered));
        }
        if place.phase() == Phase::Action {
            return self
                .perform(given, ledger, place, payload, will)
                .map(Carried::Answered);
        }
        let _refusals_pass_unnoticed = work(given, ledger, place, payload)?;
        self.row(place).undos += 1;
        Ok(Carried::Answered(Answer::Compensated))
    }

    fn row(&mut self, place: &Place) -> &mut Row {
        self.rows
            .entry((place.step.clone(), place.round))
            .or_default()
    }
}

fn work(
    given: &Given,
    ledger: &mut Ledger,
    place: &Place,
    payload: &[u8],
) -> Result<Result<(), Refusal>, Stopped> {
    let Some(business) = given.business(&place.step, place.phase()) else {
        return Ok(Ok(()));
    };
    // As a savepoint: of a refusal nothing remains.
    let mut after = ledger.clone();
    let done = watched(|| business(&mut after, payload))?;
    if done.is_ok() {
        *ledger = after;
    }
    Ok(done)
}

fn answer(given: &Given, place: &Place, acted: &Acted) -> Answer {
    match acted {
        Acted::Succeeded => given.success(&place.step),
        Acted::Refused(code, message) => Answer::Failed(Refusal::new(code, message)),
        Acted::Tombstoned | Acted::Running(_) => Answer::Tombstoned,
    }
}
