//! Actions, and what they are answered.

use serde_json::Value;
use uuid::Uuid;

use crate::{
    testing::conformance::{
        reply::Reply,
        room::{Room, Stop, Tried, deviates},
    },
    wire::{Outcome, Refusal},
};

pub(crate) async fn action_succeeds(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    let reply = saga.ask(&saga.action, Outcome::Succeeded).await?;
    is_well_formed(&reply, saga.id)?;
    saga.effects(1, 1).await
}

pub(crate) async fn action_repeated(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    let (second, third) = (saga.action.again(), saga.action.again());
    room.send(&[&saga.action, &second, &third]).await?;
    saga.answered(&saga.action, Outcome::Succeeded, 3).await?;
    saga.effects(1, 1).await
}

/// Whoever remembers message ids need not answer again.
pub(crate) async fn action_redelivered(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    room.send(&[&saga.action; 3]).await?;
    saga.fence().await?;
    saga.answered(&saga.action, Outcome::Succeeded, 1).await?;
    saga.effects(1, 1).await
}

pub(crate) async fn refusal_stored(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    let reply = saga.ask(&saga.refused, Outcome::Failed).await?;
    refusal(&reply)?;
    // The third would be welcome, but this operation has its answer.
    let (second, third) = (saga.refused.again(), saga.action.again());
    room.send(&[&second, &third]).await?;
    saga.answered(&saga.refused, Outcome::Failed, 3).await?;
    saga.effects(0, 0).await
}

pub(crate) async fn new_round_after_refusal(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    saga.ask(&saga.refused, Outcome::Failed).await?;
    let next = saga.action.next_round();
    saga.ask(&next, Outcome::Succeeded).await?;
    saga.effects(1, 1).await
}

pub(crate) async fn action_stumbles(room: &Room<'_>) -> Tried {
    let saga = room.saga()?;
    let (action, again) = (&saga.stumbling, saga.stumbling.again());
    saga.ask(action, Outcome::Succeeded).await?;
    room.send(&[&again]).await?;
    saga.answered(action, Outcome::Succeeded, 2).await?;
    saga.effects(1, 1).await
}

/// What was refused and why, if it can be read.
pub(crate) fn refusal(reply: &Reply) -> Result<Refusal, Stop> {
    let payload = reply.payload.as_deref().unwrap_or_default();
    serde_json::from_slice(payload).map_err(|_| {
        let expected = "a refusal whose payload has the texts `code` and `message`";
        deviates(expected, reply.to_string())
    })
}

/// What a coordinator does not look at, but its consumer and its relay's order depend on.
fn is_well_formed(reply: &Reply, saga_id: Uuid) -> Tried {
    let header = |name: &str| reply.headers.get(name).map_or("", String::as_str);
    let payload = reply.payload.as_deref().unwrap_or_default();
    let is_json = serde_json::from_slice::<Value>(payload).is_ok();
    for (is_so, expected) in [
        (
            reply.key.as_deref() == Some(&saga_id.to_string()),
            "a reply whose record key is the saga's id",
        ),
        (
            header("ce_specversion") == "1.0",
            "a reply with the header ce_specversion 1.0",
        ),
        (
            header("ce_id").parse::<Uuid>().is_ok(),
            "a reply with a UUID in the header ce_id",
        ),
        (
            !header("ce_source").is_empty(),
            "a reply with the header ce_source",
        ),
        (
            !header("ce_type").is_empty(),
            "a reply with its kind in the header ce_type",
        ),
        (is_json, "a reply whose payload is JSON"),
    ] {
        if !is_so {
            return Err(deviates(expected, reply.to_string()));
        }
    }
    Ok(())
}
