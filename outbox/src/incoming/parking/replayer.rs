//! Handles parked messages again, when somebody asks for it.
//!
//! A loop beside the workers: whatever happens to a message here, its partition flows on, except
//! that new messages of its key wait while it is being handled, which is what keeps their order. One
//! message at a time; a transient failure is waited for before the next is taken up.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    incoming::{
        Handler,
        budget::{Budget, Failed, Verdict},
        handling::{Concern, Handling},
        parking::{
            Sickness,
            table::{self, Place},
        },
        parse::parse,
        table::{Session, accept, begin},
    },
};

/// How soon a request is noticed.
const POLL: Duration = Duration::from_millis(500);

/// What became of an attempt.
enum Fate {
    Handled,
    /// Discarded, or handled by another replica.
    Gone,
    /// Not even readable, still.
    Unreadable(String),
}

/// Fulfils requests until `stop`; an attempt begun is finished.
pub(crate) async fn run<H: Handler>(handling: Handling<H>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let worked = match table::next_request(&handling.pool, &handling.name).await {
            Ok(Some(place)) => replay(&handling, &place, &stop).await.map(|()| true),
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        match worked {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, consumer = &*handling.name, "cannot replay parked messages");
            }
        }
        tokio::select! {
            () = sleep(POLL) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// One message, until it is handled, or parked anew.
async fn replay<H: Handler>(
    handling: &Handling<H>,
    place: &Place,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let config = &handling.config;
    let mut budget = Budget::new(config, place.message_id, 1);
    loop {
        let failed = match attempt(handling, place).await {
            Ok(Fate::Handled) => {
                handling.metrics.outcome("replayed", 1);
                tracing::info!(id = place.id, consumer = &*handling.name, message_id = %place.message_id,
                    "replayed a parked message");
                return Ok(());
            }
            Ok(Fate::Gone) => return Ok(()),
            Ok(Fate::Unreadable(reason)) => {
                return put_back(handling, place, &Sickness::unreadable(&reason)).await;
            }
            Err(failed) => failed,
        };
        if let Some(Verdict::Sick(sickness)) = handling.judge(&mut budget, &failed).await {
            return put_back(handling, place, &sickness).await;
        }
        tracing::warn!(error = %failed.error(), id = place.id, consumer = &*handling.name,
            "will try the replay again");
        tokio::select! {
            () = sleep(budget.pause(config)) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Handles it in the transaction that removes it and asks for the next of its key.
async fn attempt<H: Handler>(handling: &Handling<H>, place: &Place) -> Result<Fate, Failed> {
    let session = Session::open(&handling.pool).await;
    let mut session = session.map_err(Failed::Before)?;
    let fate = transact(handling, &mut session, place).await;
    fate.inspect_err(|failed| {
        session.failed(failed.error());
    })
}

async fn transact<H: Handler>(
    handling: &Handling<H>,
    session: &mut Session,
    place: &Place,
) -> Result<Fate, Failed> {
    let taking = async {
        let mut tx = session.begin().await?;
        table::lock(&mut tx, place).await?;
        let taken = table::take(&mut tx, place.id).await?;
        Ok((tx, taken))
    };
    let (mut tx, taken) = taking.await.map_err(Failed::Before)?;
    let Some(mut taken) = taken else {
        tx.rollback()
            .await
            .map_err(Error::from)
            .map_err(Failed::Before)?;
        return Ok(Fate::Gone);
    };
    let is_nobodys = handling.concern(&taken.record) == Concern::Nobodys;
    let message = match parse(&mut taken.record) {
        Ok(message) => message,
        Err(unreadable) => {
            tx.rollback()
                .await
                .map_err(Error::from)
                .map_err(Failed::Before)?;
            return Ok(Fate::Unreadable(unreadable.reason));
        }
    };
    // Its inbox row is there since it was parked. Only one that was unreadable then was noted under
    // another id, and may have come a second time since it can be read.
    let handled_already = message.id != place.message_id
        && accept(&mut tx, &handling.name, &[message.id])
            .await
            .map_err(Failed::Before)?
            .is_empty();
    // Parked by a version that looked at every kind.
    if !handled_already && !is_nobodys {
        let batch = std::slice::from_ref(&message);
        handling
            .handle(&mut tx, batch)
            .await
            .map_err(Failed::Within)?;
    }
    table::release(&mut tx, place, &taken.by)
        .await
        .map_err(Failed::Within)?;
    handling.commit(tx).await.map_err(Failed::Within)?;
    Ok(Fate::Handled)
}

/// It stays parked, with what is wrong now; what is behind it waits on.
async fn put_back<H: Handler>(
    handling: &Handling<H>,
    place: &Place,
    sickness: &Sickness,
) -> Result<(), Error> {
    let mut tx = begin(&handling.pool).await?;
    table::lock(&mut tx, place).await?;
    table::put_back(&mut tx, place.id, sickness).await?;
    tx.commit().await?;
    tracing::warn!(id = place.id, consumer = &*handling.name, class = %sickness.class,
        reason = sickness.reason, "a replayed message failed again");
    Ok(())
}
