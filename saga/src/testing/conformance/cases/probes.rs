//! What became of an operation?

use crate::{
    testing::conformance::room::{Room, Tried},
    wire::Outcome,
};

pub(crate) async fn probe_of_answered(room: &Room<'_>) -> Tried {
    let done = room.saga()?;
    done.ask(&done.action, Outcome::Succeeded).await?;
    room.send(&[&done.action.probe()]).await?;
    done.answered(&done.action, Outcome::Succeeded, 2).await?;
    done.effects(1, 1).await?;

    let refused = room.saga()?;
    refused.ask(&refused.refused, Outcome::Failed).await?;
    room.send(&[&refused.refused.probe()]).await?;
    refused
        .answered(&refused.refused, Outcome::Failed, 2)
        .await?;
    refused.effects(0, 0).await
}

/// The answer must stay true: whoever asked goes on as if the action had never been sent.
pub(crate) async fn probe_of_unknown(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    saga.ask(&saga.action.probe(), Outcome::Tombstoned).await?;
    room.send(&[&saga.action]).await?;
    saga.answered(&saga.action, Outcome::Tombstoned, 2).await?;
    saga.ask(&saga.compensation, Outcome::NullCompensated)
        .await?;
    saga.effects(0, 0).await
}
