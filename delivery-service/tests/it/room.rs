//! One service in a database of its own, spoken to as its consumer and its clients do.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use chrono::{TimeDelta, Utc};
use contracts::delivery::{CancelDelivery, HandOverDelivery, ScheduleDelivery};
use contracts::{Address, topic};
use outbox::{BatchHandler, Error, Payload, Received};
use saga::wire::Command;
use saga::{Operation, Participant, Phase};
use serde_json::Value;
use sqlx::PgPool;
use testbed::Database;
use tower::ServiceExt;
use uuid::Uuid;

pub(crate) struct Room {
    pub(crate) pool: PgPool,
    participant: Participant,
}

/// What was answered: the outcome, and the payload.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) outcome: String,
    pub(crate) payload: Value,
}

impl Room {
    pub(crate) async fn open() -> Self {
        let database = Database::fresh("deliveries").await;
        let pool = database.pool(8).await.expect("a pool");
        delivery_service::migrate(&pool).await.expect("migrations");
        let participant = delivery_service::participant();
        Self { pool, participant }
    }

    /// Delivers a command as the consumer does: one transaction, rolled back on an error. `None`
    /// when nothing was answered.
    pub(crate) async fn deliver(&self, command: &Received) -> Result<Option<Answer>, Error> {
        let before = self.count("outbox.log").await;
        let mut tx = self.pool.begin().await?;
        self.participant
            .handle_batch(&mut tx, std::slice::from_ref(command))
            .await?;
        tx.commit().await?;
        if self.count("outbox.log").await == before {
            return Ok(None);
        }
        let (outcome, payload): (String, Vec<u8>) = sqlx::query_as(
            "select headers ->> 'saga-outcome', payload from outbox.log order by seq desc limit 1",
        )
        .fetch_one(&self.pool)
        .await?;
        let payload = serde_json::from_slice(&payload).expect("a reply is JSON");
        Ok(Some(Answer { outcome, payload }))
    }

    /// Delivers a batch, in one transaction.
    pub(crate) async fn deliver_all(&self, batch: &[Received]) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        self.participant.handle_batch(&mut tx, batch).await?;
        Ok(tx.commit().await?)
    }

    /// As [`Room::deliver`], for a command that is answered.
    pub(crate) async fn answer(&self, command: &Received) -> Answer {
        let answer = self.deliver(command).await.expect("no error");
        answer.expect("an answer")
    }

    pub(crate) async fn count(&self, table: &'static str) -> i64 {
        let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar(count)
            .fetch_one(&self.pool)
            .await
            .expect("a count")
    }

    pub(crate) async fn get(&self, uri: &str) -> (StatusCode, Value) {
        self.request("GET", uri).await
    }

    pub(crate) async fn request(&self, method: &str, uri: &str) -> (StatusCode, Value) {
        let router = chassis::http::guard(delivery_service::app(self.pool.clone()));
        let request = Request::builder().method(method).uri(uri);
        let request = request.body(Body::empty()).expect("a request");
        let response = router.oneshot(request).await.expect("an answer");
        let status = response.status();
        if !status.is_success() {
            let content_type = &response.headers()[header::CONTENT_TYPE];
            assert_eq!(content_type, "application/problem+json");
        }
        let body = to_bytes(response.into_body(), usize::MAX).await;
        let body = body.expect("a body");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    /// The order's delivery, as HTTP shows it.
    pub(crate) async fn delivery(&self, order: &Order) -> Value {
        let (_, list) = self
            .get(&format!("/v1/deliveries?order_id={}", order.order_id))
            .await;
        list["items"][0].clone()
    }

    /// Gives every day room for this many parcels.
    pub(crate) async fn capacity(&self, capacity: i32) {
        sqlx::query(
            "insert into deliveries.day (day, capacity)
             select (now() at time zone 'utc')::date + ahead, $1 from generate_series(1, 20) ahead
             on conflict (day) do update set capacity = excluded.capacity",
        )
        .bind(capacity)
        .execute(&self.pool)
        .await
        .expect("days");
    }

    /// The day that many days from today, by the database's calendar.
    pub(crate) async fn day(&self, ahead: i32) -> String {
        sqlx::query_scalar("select ((now() at time zone 'utc')::date + $1)::text")
            .bind(ahead)
            .fetch_one(&self.pool)
            .await
            .expect("a day")
    }

    /// Places taken, on all days together.
    pub(crate) async fn taken(&self) -> i64 {
        sqlx::query_scalar("select coalesce(sum(taken), 0)::bigint from deliveries.day")
            .fetch_one(&self.pool)
            .await
            .expect("a sum")
    }
}

/// An order and the saga that delivers it.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) saga_id: Uuid,
    pub(crate) order_id: Uuid,
    pub(crate) postcode: String,
}

impl Order {
    pub(crate) fn to(postcode: &str) -> Self {
        Self {
            saga_id: Uuid::now_v7(),
            order_id: Uuid::now_v7(),
            postcode: postcode.to_owned(),
        }
    }

    pub(crate) fn schedule(&self) -> Received {
        let command = ScheduleDelivery {
            order_id: self.order_id,
            address: Address {
                name: "Ada Lovelace".to_owned(),
                street: "Chausseestraße 1".to_owned(),
                postcode: self.postcode.clone(),
                city: "Berlin".to_owned(),
                country: "DE".to_owned(),
            },
        };
        self.command("schedule-delivery", Phase::Action, 1, &command)
    }

    pub(crate) fn cancel(&self) -> Received {
        let order_id = self.order_id;
        let command = CancelDelivery { order_id };
        self.command("schedule-delivery", Phase::Compensation, 1, &command)
    }

    pub(crate) fn hand_over(&self, round: i32) -> Received {
        let order_id = self.order_id;
        let command = HandOverDelivery { order_id };
        self.command("hand-over", Phase::Action, round, &command)
    }

    fn command<P: Payload>(&self, step: &str, phase: Phase, round: i32, payload: &P) -> Received {
        let operation = Operation {
            saga_id: self.saga_id,
            step: step.to_owned(),
            phase,
            round,
        };
        let command = Command {
            op_key: operation.key(),
            operation,
            definition: "order-fulfilment".to_owned(),
            attempt: 1,
            reply_topic: topic::ORDER_REPLIES.to_owned(),
            expires_at: Utc::now() + TimeDelta::hours(1),
            begun_at: Some(Utc::now()),
            probe: false,
        };
        let payload = serde_json::to_vec(payload).expect("JSON");
        let sent = command.message(topic::DELIVERY_COMMANDS, P::KIND, payload);
        Received {
            id: sent.id,
            topic: sent.topic,
            partition: 0,
            offset: 0,
            key: sent.key,
            kind: sent.kind,
            source: "orders".to_owned(),
            time: None,
            payload: sent.payload,
            headers: sent.headers,
        }
    }
}
