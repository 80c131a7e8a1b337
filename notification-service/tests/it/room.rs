//! One service in a database of its own, spoken to as its consumer and its clients do.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use contracts::topic;
use notification_service::OrderEvents;
use outbox::{Error, Handler, Message, Payload, Received};
use serde_json::Value;
use sqlx::PgPool;
use testbed::Database;
use tower::ServiceExt;
use uuid::Uuid;

pub(crate) struct Room {
    pub(crate) pool: PgPool,
}

impl Room {
    pub(crate) async fn open() -> Self {
        let database = Database::fresh("notifications").await;
        let pool = database.pool(8).await.expect("a pool");
        notification_service::migrate(&pool)
            .await
            .expect("migrations");
        Self { pool }
    }

    /// Delivers an event as the consumer does: one transaction, rolled back on an error.
    pub(crate) async fn deliver(&self, event: &Received) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        OrderEvents.handle(&mut tx, event).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What the order's customer was told.
    pub(crate) async fn told(&self, order_id: Uuid) -> Vec<Value> {
        let (_, list) = self
            .request("GET", &format!("/v1/notifications?order_id={order_id}"))
            .await;
        list["items"].as_array().expect("items").clone()
    }

    pub(crate) async fn request(&self, method: &str, uri: &str) -> (StatusCode, Value) {
        let router = chassis::http::guard(notification_service::app(self.pool.clone()));
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
}

/// An event of an order, as it arrives.
pub(crate) fn event<P: Payload>(order_id: Uuid, payload: &P) -> Received {
    let sent = Message::new(topic::ORDER_EVENTS, order_id, payload).expect("JSON");
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
