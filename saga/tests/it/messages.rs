//! What a saga asked and what it was answered.

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use saga::{Phase, wire::Outcome};
use serde_json::{Value, json};
use sqlx::PgPool;
use tower::ServiceExt;
use uuid::Uuid;

use crate::support::*;

async fn messages(pool: &PgPool, id: Uuid, query: &str) -> (StatusCode, Value) {
    let uri = format!("/v1/sagas/{id}/messages{query}");
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = routes(pool, coordinator()).oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 1_000_000).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

fn some(message: &Value, names: &[&str]) -> Value {
    let members = names
        .iter()
        .map(|name| ((*name).to_owned(), message[name].clone()));
    members.collect()
}

async fn succeed(pool: &PgPool) {
    let command = sent(pool, "trip.commands").await.pop().unwrap();
    let reply = answer(&command, Outcome::Succeeded);
    deliver(pool, &coordinator().replies(), &reply)
        .await
        .unwrap();
}

#[tokio::test]
async fn each_command_and_each_reply_is_told_in_order_and_in_pages() {
    let pool = database("messages").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    succeed(&pool).await;
    let command = sent(&pool, "trip.commands").await.pop().unwrap();
    let refusal = answer(&command, Outcome::Failed);
    deliver(&pool, &coordinator().replies(), &refusal)
        .await
        .unwrap();
    // It comes twice.
    deliver(&pool, &coordinator().replies(), &refusal)
        .await
        .unwrap();

    let (status, body) = messages(&pool, saga.id, "").await;
    assert_eq!(status, StatusCode::OK);
    let told = body["messages"].as_array().unwrap();
    let names = [
        "direction",
        "step",
        "phase",
        "attempt",
        "outcome",
        "counted",
        "topic",
        "kind",
    ];
    let told: Vec<Value> = told.iter().map(|message| some(message, &names)).collect();
    let command = |step: &str, phase: &str, kind: &str| {
        json!({"direction": "command", "step": step, "phase": phase, "attempt": 1,
               "outcome": null, "counted": true, "topic": "trip.commands", "kind": kind})
    };
    let reply = |step: &str, outcome: &str, counted: bool| {
        json!({"direction": "reply", "step": step, "phase": "action", "attempt": null,
               "outcome": outcome, "counted": counted, "topic": REPLIES, "kind": null})
    };
    let expected = [
        command("hold", "action", "trip.do.v1"),
        reply("hold", "succeeded", true),
        command("book", "action", "trip.do.v1"),
        reply("book", "failed", true),
        command("hold", "compensation", "trip.undo.v1"),
        reply("book", "failed", false),
    ];
    assert_eq!(told, expected);
    let key = saga.operation("hold", Phase::Compensation, 1).key();
    assert_eq!(body["messages"][4]["op_key"], key.to_string());
    assert_eq!(body["messages"][4]["key"], saga.id.to_string());

    let mut paged = Vec::new();
    let mut after = json!(0);
    loop {
        let (_, page) = messages(&pool, saga.id, &format!("?limit=4&after={after}")).await;
        paged.extend(page["messages"].as_array().unwrap().clone());
        after = page["next_after"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(&paged, body["messages"].as_array().unwrap());
    assert_eq!(
        messages(&pool, Uuid::now_v7(), "").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        messages(&pool, saga.id, "?limit=0").await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn parked_messages_say_where_they_lie() {
    let pool = database("parked_messages").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    let other = start(&coordinator(), &pool, &Trip::default()).await;
    // As a relay parks what the broker refuses, and a consumer what it cannot handle.
    let parked = "insert into outbox.parked (seq, message_id, topic, key, kind, payload, headers,
                                             created_at, class, reason)
                  select seq, message_id, topic, key, kind, payload, headers, created_at, 'poison',
                         'too large'
                  from outbox.log where key = $1";
    let key = saga.id.to_string();
    sqlx::query(parked).bind(&key).execute(&pool).await.unwrap();
    let hex = |text: &str| {
        text.bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let headers = json!([
        ["saga-step", hex("hold")],
        ["saga-phase", hex("action")],
        ["saga-round", hex("1")],
        ["saga-outcome", hex("succeeded")],
        ["ce_type", hex("trip.done.v1")]
    ]);
    let refused =
        "insert into outbox.inbox_parked (consumer, message_id, topic, partition, \"offset\",
                                                    key, payload, headers, class, reason, attempts)
                   values ('sagas', $1, $2, 3, 14, $3, '{}', $4, 'refused', 'unreadable', 1)";
    sqlx::query(refused)
        .bind(Uuid::now_v7())
        .bind(REPLIES)
        .bind(key.as_bytes())
        .bind(headers)
        .execute(&pool)
        .await
        .unwrap();

    let (_, body) = messages(&pool, saga.id, "").await;
    let told = body["messages"].as_array().unwrap();
    assert_eq!(told.len(), 2, "{body}");
    let seq: i64 = sqlx::query_scalar("select seq from outbox.parked")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(told[0]["parked"], format!("outbox-{seq}"));
    let names = [
        "direction",
        "seq",
        "step",
        "outcome",
        "counted",
        "kind",
        "parked",
        "partition",
        "offset",
    ];
    let expected = json!({"direction": "reply", "seq": null, "step": "hold", "outcome": "succeeded",
        "counted": false, "kind": "trip.done.v1", "parked": "inbox-1", "partition": 3, "offset": 14});
    assert_eq!(some(&told[1], &names), expected);
    let (_, body) = messages(&pool, other.id, "").await;
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    assert_eq!(body["messages"][0]["parked"], Value::Null);
}
