//! What a saga asked and what it was answered.

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use outbox::Received;
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
        json!({"direction": "reply", "step": step, "phase": "action", "attempt": 1,
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

/// With other headers.
fn saying(reply: &Received, headers: &[(&str, Option<&str>)]) -> Received {
    let mut reply = reply.clone();
    for (name, value) in headers {
        match value {
            Some(value) => reply
                .headers
                .insert((*name).to_owned(), (*value).to_owned()),
            None => reply.headers.remove(*name),
        };
    }
    reply
}

#[tokio::test]
async fn records_are_told_as_far_as_the_answers_say_them() {
    let pool = database("records").await;
    let replies = coordinator().replies();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let plain = [
        ("saga-attempt", None),
        ("saga-in-reply-to", None),
        ("traceparent", Some(trace)),
    ];
    let wrong = [
        ("saga-attempt", Some("-1")),
        ("saga-in-reply-to", Some("3/fourteen")),
        ("traceparent", Some("none")),
    ];
    let right = [("saga-in-reply-to", Some("3/14"))];
    let places = |body: &Value| -> Vec<Value> {
        let names = ["attempt", "partition", "offset", "trace_id"];
        let told = body["messages"].as_array().unwrap().iter();
        told.map(|message| some(message, &names)).collect()
    };
    let place = |attempt: Option<i32>, partition: Option<i32>, offset: Option<i64>| json!({"attempt": attempt, "partition": partition, "offset": offset, "trace_id": null});
    let on_trace = |mut place: Value| {
        place["trace_id"] = json!("4bf92f3577b34da6a3ce929d0e0e4736");
        place
    };
    // The last command is sent in the turn of the answer, on its trace.
    let cases = [
        (
            &plain[..],
            [
                place(Some(1), None, None),
                on_trace(place(None, Some(5), Some(77))),
                on_trace(place(Some(1), None, None)),
            ],
        ),
        (
            &wrong[..],
            [
                place(Some(1), None, None),
                place(None, Some(5), Some(77)),
                place(Some(1), None, None),
            ],
        ),
        (
            &right[..],
            [
                place(Some(1), Some(3), Some(14)),
                place(Some(1), Some(5), Some(77)),
                place(Some(1), None, None),
            ],
        ),
    ];
    for (headers, expected) in cases {
        let saga = start(&coordinator(), &pool, &Trip::default()).await;
        let command = sent(&pool, "trip.commands").await.pop().unwrap();
        let mut reply = saying(&answer(&command, Outcome::Succeeded), headers);
        (reply.partition, reply.offset) = (5, 77);
        deliver(&pool, &replies, &reply).await.unwrap();
        let (_, body) = messages(&pool, saga.id, "").await;
        assert_eq!(places(&body), expected, "{headers:?}");
        // The answer stands on the next page.
        let (_, body) = messages(&pool, saga.id, "?limit=1").await;
        assert_eq!(places(&body), expected[..1], "{headers:?}");
    }
}

#[tokio::test]
async fn of_two_attempts_the_one_that_was_answered_has_a_record() {
    let pool = database("records_of_attempts").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    // It is overdue, then its pause is over.
    for _ in 0..2 {
        make_due(&pool, Some(saga.id)).await;
        coordinator().timers(pool.clone()).run_once().await.unwrap();
    }
    let commands = sent(&pool, "trip.commands").await;
    let [first, .., last] = &commands[..] else {
        panic!("it was not sent again: {commands:?}");
    };
    assert_eq!(last.header("saga-attempt"), Some("2"));
    assert_eq!(first.header("saga-op-key"), last.header("saga-op-key"));
    let reply = answer(last, Outcome::Succeeded);
    let replies = coordinator().replies();
    deliver(&pool, &replies, &reply).await.unwrap();
    let (_, body) = messages(&pool, saga.id, "").await;
    let told = body["messages"].as_array().unwrap();
    let offsets: Vec<Value> = told[..2].iter().map(|m| m["offset"].clone()).collect();
    assert_eq!(offsets, [Value::Null, json!(last.offset)]);
    assert_eq!(told[2]["attempt"], 2);
}
