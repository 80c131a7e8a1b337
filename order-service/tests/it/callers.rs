//! What one caller may not do, see or take from another.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use chassis::http::auth::{Auth, Role, mint};
use chassis::http::{described, guard_described};
use clap::Parser;
use outbox::audit::{self, Filter};
use saga::http::Streams;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::auditing::Callers;
use crate::room::{Room, order};

/// The service, and three who may call it.
struct Shop {
    room: Room,
    router: Router,
    tokens: [(&'static str, String); 3],
}

impl Shop {
    async fn open() -> Self {
        let room = Room::open().await;
        let people = [
            ("ada", Role::Admin),
            ("olga", Role::Operator),
            ("vera", Role::Viewer),
        ];
        let minted = people.map(|(name, role)| (name, mint(name, role, None).expect("a token")));
        let lines = minted
            .iter()
            .map(|(_, minted)| format!("{}\n", minted.line));
        let file = testbed::target_folder().join(format!("tokens-{}", uuid::Uuid::now_v7()));
        std::fs::write(&file, lines.collect::<String>()).expect("a file");
        let flag = format!("--auth-tokens={}", file.display());
        let callers = Callers::try_parse_from(["orders", &flag]).expect("settings");
        let auth = Auth::new(&callers.auth, "127.0.0.1:0".parse().expect("an address"));
        std::fs::remove_file(&file).expect("the file goes");
        let (pool, coordinator) = (room.pool.clone(), room.coordinator.clone());
        let app = order_service::app(pool.clone(), coordinator, Streams::new(pool));
        let app = described("order-service", "For a test.", "1", app);
        Self {
            room,
            router: guard_described(app, auth.expect("tokens")),
            tokens: minted.map(|(name, minted)| (name, minted.token)),
        }
    }

    async fn ask(
        &self,
        who: &str,
        request: axum::http::request::Builder,
        body: &Value,
    ) -> (StatusCode, Value) {
        let (_, token) = self
            .tokens
            .iter()
            .find(|(name, _)| *name == who)
            .expect("a caller");
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Body::from(body.to_string()))
            .expect("a request");
        let answer = self.router.clone().oneshot(request).await;
        let (head, body) = answer.expect("an answer").into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a body");
        (head.status, serde_json::from_slice(&body).expect("JSON"))
    }

    async fn place(&self, who: &str, key: &str, order: &Value) -> (StatusCode, Value) {
        let request = Request::post("/v1/orders").header("Idempotency-Key", key);
        self.ask(who, request, order).await
    }

    async fn operate(&self, who: &str, saga: &str, body: &Value) -> (StatusCode, Value) {
        let request = Request::post(format!("/v1/sagas/{saga}/operations"));
        let request = request.header("Idempotency-Key", uuid::Uuid::now_v7().to_string());
        self.ask(who, request, body).await
    }

    async fn get(&self, who: &str, uri: &str) -> (StatusCode, Value) {
        self.ask(who, Request::get(uri), &json!({})).await
    }

    /// Who read what, oldest first.
    async fn reads(&self) -> Vec<(String, String, String)> {
        let all = audit::list(&self.room.pool, &Filter::default(), None, 1_000).await;
        let mut all = all.expect("a list");
        all.reverse();
        let all = all
            .into_iter()
            .filter(|entry| entry.action.ends_with(".read"));
        all.map(|entry| (entry.actor, entry.action, entry.subject))
            .collect()
    }
}

#[tokio::test]
async fn two_callers_with_the_same_idempotency_key_place_two_orders() {
    let shop = Shop::open().await;
    let (status, adas) = shop.place("ada", "1", &order()).await;
    assert_eq!(status, StatusCode::CREATED, "{adas}");
    let (status, olgas) = shop.place("olga", "1", &order()).await;
    assert_eq!(status, StatusCode::CREATED, "{olgas}");
    assert_ne!(adas["id"], olgas["id"]);
    for (who, first) in [("ada", &adas), ("olga", &olgas)] {
        let (status, again) = shop.place(who, "1", &order()).await;
        assert_eq!(status, StatusCode::CREATED, "{again}");
        assert_eq!(again["id"], first["id"], "{who} repeats");
    }
    let mut other = order();
    other["items"][0]["quantity"] = json!(9);
    let (status, refused) = shop.place("ada", "1", &other).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    assert_eq!(shop.room.count("orders.orders").await, 2);
}

#[tokio::test]
async fn an_order_from_before_callers_were_recorded_is_still_found_by_its_key() {
    let shop = Shop::open().await;
    let (_, first) = shop.place("ada", "old", &order()).await;
    sqlx::query("update orders.orders set placed_by = null")
        .execute(&shop.room.pool)
        .await
        .expect("as it was");
    let (status, again) = shop.place("olga", "old", &order()).await;
    assert_eq!(status, StatusCode::CREATED, "{again}");
    assert_eq!(again["id"], first["id"]);
    assert_eq!(shop.room.count("orders.orders").await, 1);
}

#[tokio::test]
async fn only_an_admin_gives_work_up_for_good() {
    let shop = Shop::open().await;
    let (_, placed) = shop.place("ada", "1", &order()).await;
    let saga = placed["saga_id"].as_str().expect("a saga");
    let abandon = json!({"operation": "abandon", "reason": "settled by phone"});
    let skip = json!({
        "operation": "skip_compensation", "step": "authorize-payment", "reason": "settled by phone",
    });
    for body in [&abandon, &skip] {
        let (status, refused) = shop.operate("olga", saga, body).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{refused}");
        assert_eq!(refused["type"], "/problems/forbidden");
    }
    let pause = json!({"operation": "pause", "reason": "the bank is closed"});
    let (status, paused) = shop.operate("olga", saga, &pause).await;
    assert_eq!(status, StatusCode::OK, "{paused}");
    let (status, abandoned) = shop.operate("ada", saga, &abandon).await;
    assert_eq!(status, StatusCode::OK, "{abandoned}");
}

#[tokio::test]
async fn whoever_reads_data_or_a_parked_payload_is_on_record() {
    let shop = Shop::open().await;
    let (_, placed) = shop.place("ada", "1", &order()).await;
    let saga = placed["saga_id"].as_str().expect("a saga");
    for part in ["", "/events", "", "/messages"] {
        let (status, shown) = shop.get("vera", &format!("/v1/sagas/{saga}{part}")).await;
        assert_eq!(status, StatusCode::OK, "{shown}");
    }
    shop.get("olga", &format!("/v1/sagas/{saga}/events")).await;
    shop.get("vera", "/v1/sagas").await;
    sqlx::query(
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         values (7, gen_random_uuid(), 't', 'k', 'kind', now(), 'held', 'no topic')",
    )
    .execute(&shop.room.pool)
    .await
    .expect("parked");
    for payload in ["false", "true", "true"] {
        let uri = format!("/v1/parked/outbox-7?payload={payload}");
        let (status, shown) = shop.get("vera", &uri).await;
        assert_eq!(status, StatusCode::OK, "{shown}");
    }
    let subject = format!("sagas/{saga}");
    let parked = "parked/outbox-7";
    let expected = [
        ("vera", "saga.read", subject.as_str()),
        ("olga", "saga.read", subject.as_str()),
        ("vera", "parked.read", parked),
        ("vera", "parked.read", parked),
    ];
    let expected = expected.map(|(who, what, of)| (who.to_owned(), what.to_owned(), of.to_owned()));
    assert_eq!(shop.reads().await, expected);
}
