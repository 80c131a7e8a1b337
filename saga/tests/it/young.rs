//! A database that has just been made: nobody has analyzed its tables, and plans are made while they
//! are small and kept when they have grown.

use std::collections::BTreeMap;

use outbox::{BatchHandler, Received};
use saga::Operation;
use sqlx::PgTransaction;

use crate::support::*;

/// How often each table of sagas was read from end to end, and looked up in. What this connection did
/// just before this transaction counts too, so the difference tells.
async fn reads(tx: &mut PgTransaction<'_>) -> BTreeMap<String, (i64, i64)> {
    let reads: Vec<(String, i64, i64)> = sqlx::query_as(
        "select relname::text, seq_scan, idx_scan
         from pg_stat_xact_user_tables where schemaname = 'saga' and idx_scan is not null",
    )
    .fetch_all(&mut **tx)
    .await
    .unwrap();
    let reads = reads.into_iter();
    reads
        .map(|(table, whole, ups)| (table, (whole, ups)))
        .collect()
}

/// The tables that were read from end to end since, and those that were looked up in.
async fn since(
    tx: &mut PgTransaction<'_>,
    before: &BTreeMap<String, (i64, i64)>,
) -> (Vec<String>, Vec<String>) {
    let after = reads(tx).await;
    let of = |more: fn((i64, i64), (i64, i64)) -> bool| {
        let known = |table: &String| before.get(table).copied().unwrap_or_default();
        let more = after
            .iter()
            .filter(|(table, now)| more(**now, known(table)));
        more.map(|(table, _)| table.clone()).collect()
    };
    (
        of(|now, before| now.0 > before.0),
        of(|now, before| now.1 > before.1),
    )
}

/// Pairs, one after another: a plan is kept from the sixth time on.
async fn handle_in_pairs<H: BatchHandler>(
    tx: &mut PgTransaction<'_>,
    handler: &H,
    messages: &[Received],
) {
    assert!(messages.len() >= 16);
    for pair in messages.chunks(2) {
        handler.handle_batch(tx, pair).await.unwrap();
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
    let before = reads(&mut tx).await;
    handle_in_pairs(&mut tx, &coordinator.replies(), &replies).await;
    // Again: they change nothing, which is another statement.
    handle_in_pairs(&mut tx, &coordinator.replies(), &replies).await;
    let (whole, looked_up) = since(&mut tx, &before).await;
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
    let before = reads(&mut tx).await;
    handle_in_pairs(&mut tx, &participant(), &actions).await;
    handle_in_pairs(&mut tx, &participant(), &undone).await;
    let (whole, looked_up) = since(&mut tx, &before).await;
    // Which has one row.
    assert_eq!(whole, ["barrier_horizon"]);
    assert_eq!(looked_up, ["barrier"]);
}
