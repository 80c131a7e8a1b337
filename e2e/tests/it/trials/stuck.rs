//! Waits for the end of all sagas as long as some move; a person helps those that are parked. If nothing moves any more, it
//! fails at once, with what the tables say.

use std::{
    collections::HashMap,
    fmt::Write,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use testbed::shop::Department;
use uuid::Uuid;

use super::room::Room;
use crate::shop::{Client, database};

/// Longer than any backoff of the shop, and than a relay or consumer needs after any fault.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often a person helps one saga before giving up.
const HELP: usize = 5;
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Waits until every saga has ended. How often a person helped.
pub(crate) async fn all_end(room: &Room) -> usize {
    let client = Client::of(&room.shop);
    let mut orders = database(&room.shop.orders).await;
    let mut helped: HashMap<Uuid, usize> = HashMap::new();
    let (mut moved, mut last) = (Instant::now(), (-1, -1));
    loop {
        let now: (i64, i64) = sqlx::query_as(
            "select count(*) filter (where ended_at is null), coalesce(sum(seq), 0)::bigint
             from saga.instance",
        )
        .fetch_one(&mut orders)
        .await
        .expect("the orders' database answers");
        if now.0 == 0 {
            return helped.values().sum();
        }
        if now != last {
            (moved, last) = (Instant::now(), now);
        }
        if moved.elapsed() > PATIENCE {
            panic!("nothing moves for {PATIENCE:?}\n{}", tables(room).await);
        }
        for id in parked(&mut orders).await {
            let times = helped.entry(id).or_default();
            assert!(
                *times < HELP,
                "{id} is parked again\n{}",
                tables(room).await
            );
            *times += usize::from(retry(&client, id).await);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn parked(orders: &mut PgConnection) -> Vec<Uuid> {
    let parked = "select id from saga.instance where status = 'parked'";
    let parked = sqlx::query_scalar(parked).fetch_all(orders).await;
    parked.expect("the parked sagas")
}

/// As an operator would. False if a late reply helped first.
async fn retry(client: &Client, saga: Uuid) -> bool {
    let body = json!({"operation": "retry", "actor": "trial", "reason": "the fault is over"});
    let answer = client.operate(saga, &body).await;
    match answer.status() {
        StatusCode::CONFLICT => false,
        status => {
            assert!(status.is_success(), "{status}: {:?}", answer.text().await);
            true
        }
    }
}

/// What somebody needs who is to find out why.
async fn tables(room: &Room) -> String {
    let shop = &room.shop;
    let mut told = String::new();
    let sagas = [
        "select * from saga.instance where ended_at is null order by created_at limit 5",
        "select * from saga.timer order by fire_at limit 10",
        "select * from saga.lock_claim order by position limit 20",
        "select * from saga.pending limit 5",
        "select e.* from saga.event e join (select id from saga.instance where ended_at is null
         order by created_at limit 1) i on i.id = e.saga_id order by seq",
    ];
    for sql in sagas {
        tell(&mut told, &shop.orders, sql).await;
    }
    for department in [&shop.payments, &shop.deliveries] {
        let unsettled = "select * from saga.barrier where state <> 'answered' limit 10";
        tell(&mut told, department, unsettled).await;
    }
    for department in shop.departments() {
        for sql in [
            "select * from outbox.relay",
            "select count(*), max(seq) from outbox.log",
            "select class, topic, key, reason from outbox.parked limit 10",
            "select consumer, class, topic, reason from outbox.inbox_parked limit 10",
            "select pid, state, wait_event, query from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
        ] {
            tell(&mut told, department, sql).await;
        }
    }
    told
}

async fn tell(told: &mut String, department: &Department, sql: &str) {
    let rows = AssertSqlSafe(format!("select to_jsonb(r) from ({sql}) r"));
    let rows: Result<Vec<Value>, _> = sqlx::query_scalar(rows)
        .fetch_all(&mut database(department).await)
        .await;
    let _ = writeln!(told, "-- {}: {sql}", department.plan.name);
    match rows {
        Ok(rows) => rows.iter().for_each(|row| {
            let _ = writeln!(told, "{row}");
        }),
        Err(error) => {
            let _ = writeln!(told, "{error}");
        }
    }
}
