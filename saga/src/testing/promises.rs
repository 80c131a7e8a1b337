//! What must hold in a scene at any time, and at an end: by the participants' own record of what they
//! did, never by the saga's word for it.

use std::collections::BTreeMap;

use crate::{
    instance::{Status, StepStatus},
    testing::{
        course::{Stopped, broken},
        given::Given,
        scene::Scene,
    },
};

impl Scene {
    /// How often each step was undone, over all rounds.
    pub(crate) fn undos(&self) -> BTreeMap<String, u32> {
        let mut undos = BTreeMap::new();
        for (step, _, row) in self.participants.rows() {
            *undos.entry(step.to_owned()).or_default() += u32::from(row.undos);
        }
        undos
    }

    /// In reverse: what is undone has no later stage's effect beside it.
    pub(crate) fn nothing_undone_too_early(
        &self,
        given: &Given,
        before: &BTreeMap<String, u32>,
    ) -> Result<(), Stopped> {
        let known = |step: &str| before.get(step).copied().unwrap_or_default();
        let undone = self
            .undos()
            .into_iter()
            .filter(|(step, now)| *now > known(step));
        for (step, _) in undone {
            let stage = given.stage_of(&step);
            let later = given.plan.steps.iter().filter(|later| later.stage > stage);
            for later in later {
                let status = self
                    .course
                    .instance
                    .step(&later.name)
                    .map(|step| step.status);
                let lived_with = status == Some(StepStatus::CompensationSkipped);
                if self.participants.effects_left(&later.name) > 0 && !lived_with {
                    return broken(format!(
                        "{step} was undone while the effect of {} remained",
                        later.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// What holds at any time.
    pub(crate) fn promises(&self, given: &Given) -> Result<(), Stopped> {
        let now = &self.course.instance;
        self.claims.promises(now)?;
        for (step, round, row) in self.participants.rows() {
            if row.effects > 1 {
                return broken(format!(
                    "{step} took effect {} times in round {round}",
                    row.effects
                ));
            }
            if row.undos > row.effects {
                return broken(format!(
                    "{step} was undone {} times and took effect {} times in round {round}",
                    row.undos, row.effects
                ));
            }
        }
        if self.ledger.total() != given.ledger.total() {
            return broken(format!(
                "there was {} in the ledger, now there is {}",
                given.ledger.total(),
                self.ledger.total()
            ));
        }
        for step in &given.version(now.version).plan.steps {
            let effects = self.participants.effects_left(&step.name);
            if effects > 1 {
                return broken(format!("{} has {effects} effects at once", step.name));
            }
            let back = matches!(now.status, Status::Compensating | Status::Compensated);
            if step.class.commits() && effects > 0 && back {
                return broken(format!(
                    "it turned back over {}, which took effect",
                    step.name
                ));
            }
        }
        match now.status {
            Status::Completed => self.everything_took_effect(),
            Status::Compensated => self.nothing_is_left(given),
            _ => Ok(()),
        }
    }

    fn everything_took_effect(&self) -> Result<(), Stopped> {
        for step in &self.course.instance.steps {
            let effects = self.participants.effects_left(&step.name);
            let by_hand = self.by_hand.contains(&step.name);
            let right = match step.status {
                StepStatus::Skipped => effects == 0,
                _ => effects == 1 || by_hand,
            };
            if !right {
                return broken(format!(
                    "it completed; {} is {} and has {effects} effects",
                    step.name, step.status
                ));
            }
        }
        Ok(())
    }

    /// Each step was never sent, is known to have had no effect, or was undone; or a person said
    /// that it stays.
    fn nothing_is_left(&self, given: &Given) -> Result<(), Stopped> {
        let mut lived_with = false;
        for step in &self.course.instance.steps {
            let stays = step.status == StepStatus::CompensationSkipped;
            lived_with |= stays;
            let effects = self.participants.effects_left(&step.name);
            if effects != 0 && !stays {
                return broken(format!(
                    "it counts as compensated, and the effect of {} ({}) is left",
                    step.name, step.status
                ));
            }
        }
        if !lived_with && self.ledger != given.ledger {
            return broken(format!(
                "it counts as compensated, and the ledger is not what it was before: {:?}, now {:?}",
                given.ledger, self.ledger
            ));
        }
        Ok(())
    }
}
