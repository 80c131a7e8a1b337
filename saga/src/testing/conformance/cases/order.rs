//! Compensations before, after and instead of their actions; and what comes too late.

use crate::{
    testing::conformance::{
        cases::answers::refusal,
        room::{Room, Tried, deviates},
    },
    wire::Outcome,
};

/// The code of a refusal that says: too late.
const EXPIRED: &str = "expired";

pub(crate) async fn compensation_undoes(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    saga.ask(&saga.action, Outcome::Succeeded).await?;
    saga.ask(&saga.compensation, Outcome::Compensated).await?;
    saga.effects(1, 0).await
}

pub(crate) async fn compensation_repeated(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    saga.ask(&saga.action, Outcome::Succeeded).await?;
    let undo = &saga.compensation;
    room.send(&[undo, &undo.again(), &undo.again()]).await?;
    saga.answered(undo, Outcome::Compensated, 3).await?;
    saga.effects(1, 0).await
}

pub(crate) async fn action_repeated_after_compensation(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    saga.ask(&saga.action, Outcome::Succeeded).await?;
    saga.ask(&saga.compensation, Outcome::Compensated).await?;
    room.send(&[&saga.action.again()]).await?;
    saga.answered(&saga.action, Outcome::Succeeded, 2).await?;
    saga.effects(1, 0).await
}

pub(crate) async fn compensation_first(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    let (action, undo) = (&saga.action, &saga.compensation);
    saga.ask(undo, Outcome::NullCompensated).await?;
    saga.ask(action, Outcome::Tombstoned).await?;
    room.send(&[&undo.again(), &action.again()]).await?;
    saga.answered(undo, Outcome::NullCompensated, 2).await?;
    saga.answered(action, Outcome::Tombstoned, 2).await?;
    saga.effects(0, 0).await
}

pub(crate) async fn new_round_after_compensation(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    saga.ask(&saga.compensation, Outcome::NullCompensated)
        .await?;
    let next = saga.action.next_round();
    saga.ask(&next, Outcome::Succeeded).await?;
    saga.effects(1, 1).await?;
    // The first round's action, late: it is not the second's.
    saga.ask(&saga.action, Outcome::Tombstoned).await?;
    saga.effects(1, 1).await?;
    let undo = saga.compensation.next_round();
    saga.ask(&undo, Outcome::Compensated).await?;
    saga.effects(1, 0).await
}

pub(crate) async fn refusal_compensated(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    saga.ask(&saga.refused, Outcome::Failed).await?;
    saga.ask(&saga.compensation, Outcome::NullCompensated)
        .await?;
    saga.effects(0, 0).await
}

pub(crate) async fn action_expired(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    let late = saga.action.clone().expired();
    let reply = saga.ask(&late, Outcome::Failed).await?;
    let refusal = refusal(&reply)?;
    if refusal.code != EXPIRED {
        let expected = format!("a refusal with the code `{EXPIRED}`");
        return Err(deviates(expected, "a refusal with another code"));
    }
    // Another attempt that is in time: the operation has its answer.
    room.send(&[&saga.action.again()]).await?;
    saga.answered(&saga.action, Outcome::Failed, 2).await?;
    saga.effects(0, 0).await
}

pub(crate) async fn compensation_never_expires(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    saga.ask(&saga.action, Outcome::Succeeded).await?;
    let late = saga.compensation.clone().expired();
    saga.ask(&late, Outcome::Compensated).await?;
    saga.effects(1, 0).await
}

/// Each is followed by the whole action, which succeeds as if it were the first.
pub(crate) async fn long_begun(room: &Room<'_>) -> Tried {
    for spoilt in 0..3 {
        let saga = room.saga()?;
        let long_begun = match spoilt {
            0 => saga.action.long_begun(),
            1 => saga.compensation.long_begun(),
            _ if room.options.probe => saga.action.probe().long_begun(),
            _ => continue,
        };
        room.send(&[&long_begun]).await?;
        // In one batch with the action it would find that.
        saga.fence().await?;
        saga.heard_only(0).await?;
        saga.ask(&saga.action.again(), Outcome::Succeeded).await?;
        saga.effects(1, 1).await?;
    }
    Ok(())
}
