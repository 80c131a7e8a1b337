//! One service in a database of its own, spoken to as its clients and its participants do.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use order_service::fulfilment::{self, Patience};
use outbox::{BatchHandler, Message, Payload, Received};
use saga::Coordinator;
use saga::wire::{Command, Outcome};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::types::Json;
use testbed::Database;
use tower::ServiceExt;
use uuid::Uuid;

pub(crate) struct Room {
    pub(crate) pool: PgPool,
    pub(crate) coordinator: Coordinator,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The fields that a problem names.
    pub(crate) fn fields(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array().into_iter().flatten();
        errors.filter_map(|error| error["field"].as_str()).collect()
    }
}

impl Room {
    pub(crate) async fn open() -> Self {
        Self::patient(Duration::from_secs(10), 2).await
    }

    pub(crate) async fn patient(timeout: Duration, attempts: i32) -> Self {
        Self::furnished(Patience { timeout, attempts }, 10_000_000).await
    }

    /// With a credit limit of so many minor units.
    pub(crate) async fn thrifty(credit_limit: i64) -> Self {
        let patience = Patience {
            timeout: Duration::from_secs(10),
            attempts: 2,
        };
        Self::furnished(patience, credit_limit).await
    }

    async fn furnished(patience: Patience, credit_limit: i64) -> Self {
        let database = Database::fresh("orders").await;
        let pool = database.pool(24).await.expect("a pool");
        order_service::migrate(&pool).await.expect("migrations");
        let coordinator = fulfilment::coordinator(patience, credit_limit);
        let coordinator = coordinator.expect("a coordinator");
        coordinator.register(&pool).await.expect("registered");
        Self { pool, coordinator }
    }

    pub(crate) async fn place(&self, order: &Value) -> Answer {
        self.place_with(order, &[]).await
    }

    pub(crate) async fn place_with(&self, order: &Value, headers: &[(&str, &str)]) -> Answer {
        self.post("/v1/orders", order, headers).await
    }

    pub(crate) async fn post(&self, uri: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let request = Request::post(uri).header(header::CONTENT_TYPE, "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        self.send(
            request
                .body(Body::from(body.to_string()))
                .expect("a request"),
        )
        .await
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.send(Request::get(uri).body(Body::empty()).expect("a request"))
            .await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let router = order_service::app(
            self.pool.clone(),
            self.coordinator.clone(),
            saga::http::Streams::new(self.pool.clone()),
        );
        let response = chassis::http::guard(router).oneshot(request).await;
        let (head, body) = response.expect("an answer").into_parts();
        if !head.status.is_success() {
            let content_type = &head.headers[header::CONTENT_TYPE];
            assert_eq!(content_type, "application/problem+json");
        }
        let body = to_bytes(body, usize::MAX).await.expect("a body");
        Answer {
            status: head.status,
            headers: head.headers,
            body: serde_json::from_slice(&body).expect("JSON"),
        }
    }

    pub(crate) async fn order(&self, order: &Value) -> Value {
        let id = order["id"].as_str().expect("an id");
        self.get(&format!("/v1/orders/{id}")).await.body
    }

    pub(crate) async fn count(&self, table: &'static str) -> i64 {
        let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar(count)
            .fetch_one(&self.pool)
            .await
            .expect("a count")
    }

    /// What an order's listeners heard last: kind and payload.
    pub(crate) async fn last_event(&self, order: &Value) -> (String, Value) {
        let sent = self.last("orders.events", &order["id"]).await;
        (
            sent.kind,
            serde_json::from_slice(&sent.payload.unwrap_or_default()).expect("JSON"),
        )
    }

    /// The kind of the last command of the order's saga.
    pub(crate) async fn last_command(&self, order: &Value) -> String {
        self.last("%.commands", &order["saga_id"]).await.kind
    }

    /// The participant of the last command does what was asked.
    pub(crate) async fn succeed<P: Payload>(&self, order: &Value, reply: &P) {
        let payload = serde_json::to_vec(reply).expect("JSON");
        self.reply(order, Outcome::Succeeded, P::KIND, payload)
            .await;
    }

    /// The participant of the last command answers that.
    pub(crate) async fn reply(
        &self,
        order: &Value,
        outcome: Outcome,
        kind: &str,
        payload: Vec<u8>,
    ) {
        let asked = self.last("%.commands", &order["saga_id"]).await;
        let command = Command::parse(&asked).expect("a command");
        let reply = received(command.reply(&asked, outcome, kind, payload));
        let mut tx = self.pool.begin().await.expect("a transaction");
        let replies = self.coordinator.replies();
        let batch = std::slice::from_ref(&reply);
        replies.handle_batch(&mut tx, batch).await.expect("handled");
        tx.commit().await.expect("committed");
    }

    async fn last(&self, topic: &str, key: &Value) -> Received {
        type Row = (
            Uuid,
            String,
            String,
            String,
            Vec<u8>,
            Option<Json<BTreeMap<String, String>>>,
        );
        let row: Option<Row> = sqlx::query_as(
            "select message_id, topic, key, kind, payload, headers from outbox.log
             where topic like $1 and key = $2 order by seq desc limit 1",
        )
        .bind(topic)
        .bind(key.as_str())
        .fetch_optional(&self.pool)
        .await
        .expect("the log");
        let (id, topic, key, kind, payload, headers) = row.expect("a message");
        let mut message = Message::raw(topic, key, kind, payload).with_id(id);
        message.headers = headers.map(|Json(headers)| headers).unwrap_or_default();
        received(message)
    }
}

/// A message as it arrives.
fn received(sent: Message) -> Received {
    Received {
        id: sent.id,
        topic: sent.topic,
        partition: 0,
        offset: 0,
        key: sent.key,
        kind: sent.kind,
        source: "test".to_owned(),
        time: None,
        payload: sent.payload,
        headers: sent.headers,
    }
}

/// An order with nothing wrong.
pub(crate) fn order() -> Value {
    json!({
        "customer_id": "01930c4e-7a00-7000-8000-000000000002",
        "currency": "EUR",
        "items": [
            {"sku": "BOOK-1", "quantity": 2, "unit_price": 1250},
            {"sku": "PEN-7", "quantity": 1, "unit_price": 99},
        ],
        "payment_method": "pm_card_visa",
        "delivery": {
            "name": "Ada Lovelace",
            "street": "Chausseestraße 1",
            "postcode": "10115",
            "city": "Berlin",
            "country": "DE",
        },
    })
}

/// The same order with one value changed, by JSON pointer; null takes the field away.
pub(crate) fn order_with(pointer: &str, value: Value) -> Value {
    let mut order = order();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = order.pointer_mut(parent).expect("a place");
    match (parent, value) {
        (Value::Object(fields), Value::Null) => drop(fields.remove(name)),
        (parent, value) => match name.parse::<usize>() {
            Ok(index) => parent[index] = value,
            Err(_) => parent[name] = value,
        },
    }
    order
}
