//! What must hold of a saga whatever order its commands came in.

use crate::{
    testing::conformance::{
        draft::Draft,
        room::{Saga, Stop, Tried, deviates},
    },
    wire::Outcome,
};

/// How often a saga's first round was asked for what.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) actions: usize,
    pub(crate) probes: usize,
    pub(crate) compensations: usize,
}

/// Waits for all replies. Each operation has one answer, the two fit each other and the effects
/// fit both.
pub(crate) async fn consistent(saga: &Saga<'_>, asked: Asked) -> Tried {
    let forth = outcome(saga, &saga.action, asked.actions + asked.probes).await?;
    let back = outcome(saga, &saga.compensation, asked.compensations).await?;
    let called_off = saga.room.options.calls_off && called_off(asked, forth, back);
    if !called_off && !fits(asked, forth, back) {
        let expected = "`succeeded` with `compensated`, or `tombstoned` with `null_compensated`";
        return Err(deviates(expected, saga.told().await?));
    }
    let executed = i64::from(forth == Some(Outcome::Succeeded));
    let remaining = match back {
        None => executed,
        Some(_) => 0,
    };
    saga.effects(executed, remaining).await
}

async fn outcome(saga: &Saga<'_>, draft: &Draft, count: usize) -> Result<Option<Outcome>, Stop> {
    if count == 0 {
        return Ok(None);
    }
    let reply = saga.answer(draft, count).await?;
    Ok(reply.read.ok().map(|reply| reply.outcome))
}

/// Nothing succeeds that was not asked for, and nothing is tombstoned without a reason.
fn fits(asked: Asked, forth: Option<Outcome>, back: Option<Outcome>) -> bool {
    match (forth, back) {
        (None, back) => matches!(back, None | Some(Outcome::NullCompensated)),
        (Some(Outcome::Succeeded), None | Some(Outcome::Compensated)) => asked.actions > 0,
        (Some(Outcome::Tombstoned), None) => asked.probes > 0,
        (Some(Outcome::Tombstoned), Some(Outcome::NullCompensated)) => true,
        _ => false,
    }
}

/// Refused, because somebody who does not want it any more was faster outside.
fn called_off(asked: Asked, forth: Option<Outcome>, back: Option<Outcome>) -> bool {
    let unwanted = asked.probes > 0 || asked.compensations > 0;
    forth == Some(Outcome::Failed)
        && unwanted
        && matches!(back, None | Some(Outcome::NullCompensated))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Compensated, Failed, NullCompensated, Succeeded, Tombstoned};

    #[test]
    fn an_effect_that_was_compensated_was_there_and_one_that_was_not_was_not() {
        let asked = Asked {
            actions: 1,
            probes: 0,
            compensations: 1,
        };
        assert!(fits(asked, Some(Succeeded), Some(Compensated)));
        assert!(fits(asked, Some(Tombstoned), Some(NullCompensated)));
        assert!(!fits(asked, Some(Succeeded), Some(NullCompensated)));
        assert!(!fits(asked, Some(Tombstoned), Some(Compensated)));
        assert!(!fits(asked, Some(Failed), Some(NullCompensated)));
    }

    #[test]
    fn what_was_not_asked_for_does_not_happen() {
        let asked = |actions, probes| Asked {
            actions,
            probes,
            compensations: 0,
        };
        assert!(fits(asked(1, 0), Some(Succeeded), None));
        assert!(!fits(asked(0, 1), Some(Succeeded), None));
        assert!(fits(asked(1, 1), Some(Tombstoned), None));
        assert!(!fits(asked(1, 0), Some(Tombstoned), None));
        assert!(!fits(asked(0, 0), None, Some(Compensated)));
    }

    #[test]
    fn only_what_somebody_did_not_want_is_called_off() {
        let asked = |probes, compensations| Asked {
            actions: 1,
            probes,
            compensations,
        };
        assert!(called_off(asked(0, 1), Some(Failed), Some(NullCompensated)));
        assert!(called_off(asked(1, 0), Some(Failed), None));
        assert!(!called_off(asked(0, 0), Some(Failed), None));
        assert!(!called_off(asked(0, 1), Some(Failed), Some(Compensated)));
        assert!(!called_off(
            asked(0, 1),
            Some(Tombstoned),
            Some(Compensated)
        ));
    }
}
