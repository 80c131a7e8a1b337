//! One service in a database of its own, spoken to as its consumer and its clients do.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use chrono::{TimeDelta, Utc};
use contracts::Money;
use contracts::payment::{AuthorizePayment, CapturePayment, ReleasePayment};
use contracts::topic;
use outbox::{BatchHandler, Error, Payload, Received};
use payment_service::gateway::Fake;
use saga::wire::Command;
use saga::{Operation, Participant, Phase};
use serde_json::Value;
use sqlx::PgPool;
use testbed::Database;
use tower::ServiceExt;
use uuid::Uuid;

pub(crate) struct Room {
    pub(crate) pool: PgPool,
    /// The card provider. It remembers what a rolled back transaction forgets.
    pub(crate) provider: Arc<Fake>,
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
        let database = Database::fresh("payments").await;
        let pool = database.pool(8).await.expect("a pool");
        payment_service::migrate(&pool).await.expect("migrations");
        let intents = database.pool(2).await.expect("a pool");
        let provider = Arc::new(Fake::default());
        let participant = payment_service::participant(provider.clone(), intents);
        Self {
            pool,
            provider,
            participant,
        }
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

    /// As [`Room::deliver`], for a command that is answered.
    pub(crate) async fn answer(&self, command: &Received) -> Answer {
        let answer = self.deliver(command).await.expect("no error");
        answer.expect("an answer")
    }

    /// A command whose transaction is rolled back after it was handled, as when the process dies, or
    /// another message of its batch is sick.
    pub(crate) async fn die_after(&self, command: &Received) {
        let mut tx = self.pool.begin().await.expect("a transaction");
        let handled = self
            .participant
            .handle_batch(&mut tx, std::slice::from_ref(command))
            .await;
        handled.expect("no error");
        tx.rollback().await.expect("rolled back");
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
        let router = chassis::http::guard(payment_service::app(self.pool.clone()));
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

    /// Balance by account; the whole must be zero.
    pub(crate) async fn balance(&self, account: &str) -> i64 {
        let (_, ledger) = self.get("/v1/ledger").await;
        assert_eq!(ledger["total"], 0);
        let accounts = ledger["accounts"].as_array().expect("accounts");
        let found = accounts.iter().find(|a| a["account"] == account);
        found.map_or(0, |a| a["balance"].as_i64().expect("a balance"))
    }
}

/// An order and the saga that pays for it.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) saga_id: Uuid,
    pub(crate) order_id: Uuid,
    pub(crate) customer_id: Uuid,
    pub(crate) payment_method: String,
}

impl Order {
    pub(crate) fn paid_with(payment_method: &str) -> Self {
        Self {
            saga_id: Uuid::now_v7(),
            order_id: Uuid::now_v7(),
            customer_id: Uuid::now_v7(),
            payment_method: payment_method.to_owned(),
        }
    }

    pub(crate) fn customer(&self) -> String {
        format!("customer:{}", self.customer_id)
    }

    pub(crate) fn held(&self) -> String {
        format!("held:{}", self.customer_id)
    }

    /// What the card provider knows the authorization by.
    pub(crate) fn authorization_key(&self) -> Uuid {
        self.operation("authorize-payment", Phase::Action).key()
    }

    /// What became of the authorization?
    pub(crate) fn probe(&self) -> Received {
        let mut question = self.authorize();
        question
            .headers
            .insert(saga::wire::PROBE.to_owned(), "true".to_owned());
        question
    }

    pub(crate) fn authorize(&self) -> Received {
        let command = AuthorizePayment {
            order_id: self.order_id,
            customer_id: self.customer_id,
            amount: Money {
                amount: 2500,
                currency: "EUR".parse().expect("a currency"),
            },
            payment_method: self.payment_method.clone(),
        };
        self.command("authorize-payment", Phase::Action, &command)
    }

    pub(crate) fn capture(&self) -> Received {
        let order_id = self.order_id;
        let command = CapturePayment { order_id };
        self.command("capture-payment", Phase::Action, &command)
    }

    pub(crate) fn release(&self) -> Received {
        let order_id = self.order_id;
        let command = ReleasePayment { order_id };
        self.command("authorize-payment", Phase::Compensation, &command)
    }

    fn command<P: Payload>(&self, step: &str, phase: Phase, payload: &P) -> Received {
        let operation = self.operation(step, phase);
        let command = Command {
            op_key: operation.key(),
            operation,
            definition: "order-fulfilment".to_owned(),
            attempt: 1,
            reply_topic: topic::ORDER_REPLIES.to_owned(),
            expires_at: Utc::now() + TimeDelta::hours(1),
            probe: false,
        };
        let payload = serde_json::to_vec(payload).expect("JSON");
        let sent = command.message(topic::PAYMENT_COMMANDS, P::KIND, payload);
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

    fn operation(&self, step: &str, phase: Phase) -> Operation {
        Operation {
            saga_id: self.saga_id,
            step: step.to_owned(),
            phase,
            round: 1,
        }
    }
}
