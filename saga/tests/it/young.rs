//! A database that has just been made: nobody has analyzed its tables, and plans are made while they
//! are small and kept when they have grown.

use outbox::{Handler, Received};
use saga::Operation;
use sqlx::PgTransaction;

use crate::support::*;

/// The tables of sagas that this transaction has read from end to end, and those it has looked
/// something up in.
async fn read(tx: &mut PgTransaction<'_>) -> (Vec<String>, Vec<String>) {
    sqlx::query_as(
        "select coalesce(array_agg(relname::text) filter (where seq_scan > 0), '{}'),
                coalesce(array_agg(relname::text) filter (where idx_scan > 0), '{}')
         from pg_stat_xact_user_tables where schemaname = 'saga'",
    )
    .fetch_one(&mut **tx)
    .await
    .unwrap()
}

/// Pairs, one after another: a plan is kept from the sixth time on.
async fn handle_in_pairs<H: Handler>(
    tx: &mut PgTransaction<'_>,
    handler: &H,
    messages: &[Received],
) {
    assert!(messages.len() >= 16);
    for pair in messages.chunks(2) {
        handler.prepare(tx, pair).await.unwrap();
        for message in pair {
            handler.handle(tx, message).await.unwrap();
        }
    }
}

#[tokio::test]
async fn replies_look_up_their_sagas() {
    let orders = database("young_orders").await;
    let coordinator = coordinator();
    for _ in 0..20 {
        start(&coordinator, &orders, &Trip::default()).await;
    }
    let commands = sent(&orders, "trip.commands").await;
    let replies = commands
        .iter()
        .map(|command| answer(command, saga::wire::Outcome::Succeeded));
    let replies: Vec<_> = replies.collect();
    let mut tx = orders.begin().await.unwrap();
    handle_in_pairs(&mut tx, &coordinator.replies(), &replies).await;
    // Again: they change nothing, which is another statement.
    handle_in_pairs(&mut tx, &coordinator.replies(), &replies).await;
    let (whole, looked_up) = read(&mut tx).await;
    assert_eq!(whole, [""; 0]);
    assert!(looked_up.contains(&"instance".to_owned()), "{looked_up:?}");
}

#[tokio::test]
async fn a_participant_looks_up_what_it_has_done() {
    let services = database("young_services").await;
    let operations: Vec<Operation> = (0..20).map(|_| action()).collect();
    let actions: Vec<_> = operations.iter().map(|o| command(o, "")).collect();
    let undone = operations.iter().map(|o| command(&undoing(o), ""));
    let undone: Vec<_> = undone.collect();
    let mut tx = services.begin().await.unwrap();
    handle_in_pairs(&mut tx, &participant(), &actions).await;
    handle_in_pairs(&mut tx, &participant(), &undone).await;
    let (whole, looked_up) = read(&mut tx).await;
    assert_eq!(whole, [""; 0]);
    assert_eq!(looked_up, ["barrier"]);
}
