//! What no coordinator sends. Nobody awaits an answer to it, and a wrong one would be believed.

use uuid::Uuid;

use crate::{
    testing::conformance::{
        draft::Draft,
        room::{Room, Tried},
    },
    wire::{self, Outcome},
};

/// Without these nobody can say what is asked, or whom to tell.
const NEEDED: [&str; 9] = [
    "ce_id",
    "ce_type",
    wire::SAGA_ID,
    wire::STEP,
    wire::PHASE,
    wire::ROUND,
    wire::OP_KEY,
    wire::REPLY_TOPIC,
    wire::EXPIRES_AT,
];

pub(crate) async fn unknown_kind(room: &Room<'_>) -> Tried {
    passed_over(
        room,
        &[|draft: Draft| draft.with_kind("conformance.unknown.v1")],
    )
    .await
}

pub(crate) async fn missing_header(room: &Room<'_>) -> Tried {
    let spoils = NEEDED.map(|name| move |draft: Draft| draft.without_header(name));
    passed_over(room, &spoils).await
}

pub(crate) async fn unreadable_header(room: &Room<'_>) -> Tried {
    let spoils = [
        (wire::SAGA_ID, "the first"),
        (wire::PHASE, "sideways"),
        (wire::ROUND, "one"),
        (wire::OP_KEY, "key"),
        (wire::EXPIRES_AT, "tomorrow"),
    ]
    .map(|(name, value)| move |draft: Draft| draft.with_header(name, value));
    passed_over(room, &spoils).await
}

/// Another operation's key: the sender is confused about what it asks.
pub(crate) async fn wrong_op_key(room: &Room<'_>) -> Tried {
    let other = Uuid::now_v7().to_string();
    passed_over(
        room,
        &[|draft: Draft| draft.with_header(wire::OP_KEY, &other)],
    )
    .await
}

pub(crate) async fn garbage_payload(room: &Room<'_>) -> Tried {
    let payloads: [Option<&[u8]>; 5] = [
        Some(b"{\"half\": "),
        Some(b""),
        Some(b"\"a text\""),
        Some(b"\xff\xfe"),
        None,
    ];
    let spoils = payloads.map(|payload| move |draft: Draft| draft.with_payload(payload));
    passed_over(room, &spoils).await
}

/// Each spoilt command is followed by the whole one on the same record key, which succeeds as if
/// it were the first; and that is all.
async fn passed_over(room: &Room<'_>, spoils: &[impl Fn(Draft) -> Draft]) -> Tried {
    let mut sagas = Vec::with_capacity(spoils.len());
    for spoil in spoils {
        let saga = room.saga()?;
        let spoilt = spoil(saga.action.clone());
        room.send(&[&spoilt, &saga.action.again()]).await?;
        sagas.push(saga);
    }
    for saga in sagas {
        saga.answered(&saga.action, Outcome::Succeeded, 1).await?;
        saga.fence().await?;
        saga.heard_only(1).await?;
        saga.effects(1, 1).await?;
    }
    Ok(())
}
