//! What came while a consumer was away is handled before its process goes on.

use std::sync::Arc;

use outbox::{Error, Handler, Received, incoming::caught_up};
use sqlx::PgTransaction;
use tokio_util::sync::CancellationToken;

use crate::{
    reading::{Effects, Reading, config},
    world::{Counted, SOON, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_goes_on_when_the_group_has_handled_what_was_there() {
    let world = World::kafka("caught_up").await;
    let effects = Effects::default();
    effects.hold(4);
    let stop = CancellationToken::new();
    let group = world.reader();
    let wait = || {
        let (broker, stop) = (Arc::clone(&world.broker), stop.clone());
        let (group, topic) = (group.clone(), world.topic.clone());
        tokio::spawn(async move { caught_up(&*broker, &group, &[&topic], &stop).await })
    };
    // Nothing is there.
    assert!(tokio::time::timeout(SOON, wait()).await.unwrap().unwrap());
    for n in 0..5 {
        world.produce(&world.message(&format!("k{n}"), n), 1).await;
    }
    let topics = [world.topic.clone()];
    let progress = world
        .broker
        .progress(&group, &topics)
        .await
        .unwrap()
        .unwrap();
    let missing = progress.iter().map(|p| p.end - p.next);
    assert_eq!((progress.len(), missing.sum::<i64>()), (4, 5));
    let waiting = wait();
    let reading = Reading::start(&world, &effects);
    effects.wait_until_entered(4, 1).await;
    assert!(!waiting.is_finished(), "one is not handled");
    effects.let_go(4);
    assert!(tokio::time::timeout(SOON, waiting).await.unwrap().unwrap());
    world.wait_for_effects(&[0, 1, 2, 3, 4]).await;
    reading.stop().await;
    // Nobody reads: who is told to stop need not wait.
    world.produce(&world.message("k", 5), 1).await;
    let waiting = wait();
    stop.cancel();
    assert!(!tokio::time::timeout(SOON, waiting).await.unwrap().unwrap());
}

/// Refuses odd numbers, and keeps those above ten itself.
struct Keeper;

impl Handler for Keeper {
    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        let Counted { n } = message.decode()?;
        sqlx::query("insert into effect values ($1)")
            .bind(n)
            .execute(&mut **tx)
            .await?;
        match n % 2 {
            0 => Ok(()),
            _ => Err(Error::permanent("odd")),
        }
    }

    async fn keep_refused(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Received,
        error: &Error,
    ) -> Result<bool, Error> {
        let Counted { n } = message.decode()?;
        sqlx::query("insert into keyed values ($1, $2)")
            .bind(error.to_string())
            .bind(n)
            .execute(&mut **tx)
            .await?;
        match n {
            13 => panic!("kept by nobody"),
            n => Ok(n > 10),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_may_keep_what_it_refused_and_what_it_does_not_keep_is_parked() {
    let world = World::kafka("kept").await;
    for n in [2, 7, 11, 13, 4] {
        world.produce(&world.message("k", n), 2).await;
    }
    let reading = Reading::with(
        &world,
        Keeper,
        config(outbox::incoming::OnPoison::SkipMessage),
    );
    world.wait_for_effects(&[2, 4]).await;
    testbed::until(SOON, "two parked messages", async || {
        (world.sick().await.len() == 2).then_some(())
    })
    .await;
    reading.stop().await;
    let parked = world.sick().await;
    assert!(
        parked
            .iter()
            .all(|(class, reason)| class == "refused" && reason == "odd"),
        "{parked:?}"
    );
    let kept: Vec<(String, i64)> = sqlx::query_as("select key, n from keyed")
        .fetch_all(&world.pool)
        .await
        .unwrap();
    assert_eq!(kept, [("odd".to_owned(), 11)], "once, though it came twice");
}
