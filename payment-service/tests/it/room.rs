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
        let provider = Arc::new(Fake::default());
        let participant = payment_service::participant(provider.clone());
        Self {
            pool,
            provider,
            participant,
        }
    }

    /// Delivers a command as the consumer does: one transaction, rolled back on an error; then has the
    /// card provider asked, once, as the runner beside it does. `None` when nothing was answered.
    pub(crate) async fn deliver(&self, command: &Received) -> Result<Option<Answer>, Error> {
        let before = self.count("outbox.log").await;
        let mut tx = self.pool.begin().await?;
        self.participant
            .handle_batch(&mut tx, std::slice::from_ref(command))
            .await?;
        tx.commit().await?;
        self.run().await;
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

    /// Has the runner work at what is due: a compensation after the action that it waited for.
    async fn run(&self) {
        let runner = self.participant.runner(self.pool.clone());
        for _ in 0..2 {
            runner.run_once().await.expect("a database");
        }
    }

    /// Has the runner try again what it put off.
    pub(crate) async fn again(&self) {
        sqlx::query("update saga.external set next_at = now()")
            .execute(&self.pool)
            .await
            .expect("an update");
        self.run().await;
    }

    /// Why the last try at the operation that has no answer yet came to nothing.
    pub(crate) async fn put_off_because(&self) -> String {
        let reason: Option<String> = sqlx::query_scalar("select last_error from saga.external")
            .fetch_one(&self.pool)
            .await
            .expect("an operation without an answer");
        reason.expect("a reason")
    }

    /// The provider is asked, and then the process dies before it can write down what it was told.
    pub(crate) async fn die_after_asking(&self, command: &Received) {
        let refuse =
            "alter table saga.barrier add constraint dying check (outcome is null) not valid";
        sqlx::query(refuse)
            .execute(&self.pool)
            .await
            .expect("a constraint");
        assert_eq!(self.deliver(command).await.expect("noted"), None);
        sqlx::query("alter table saga.barrier drop constraint dying")
            .execute(&self.pool)
            .await
            .expect("no constraint");
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
            begun_at: Some(Utc::now()),
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
