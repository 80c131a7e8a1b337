//! Every operation of the API that changes something leaves one row in the audit, in its transaction, under
//! the caller's name. The recipes here are held against `/openapi.json`: a new operation needs its own.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use chassis::http::auth::{Auth, Role, Settings, mint};
use chassis::http::{described, guard_described};
use clap::Parser;
use order_service::Config;
use outbox::audit::{self, Entry, Filter};
use saga::http::Streams;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tower::ServiceExt;

use crate::room::{Room, order};

#[derive(Debug, Parser)]
pub(crate) struct Callers {
    #[command(flatten)]
    pub(crate) auth: Settings,
}

/// The service with its door, and somebody who may do everything.
struct Shop {
    room: Room,
    router: Router,
    token: String,
}

impl Shop {
    async fn open() -> Self {
        let room = Room::open().await;
        let minted = mint("ada", Role::Admin, None).expect("a token");
        let file = testbed::target_folder().join(format!("tokens-{}", uuid::Uuid::now_v7()));
        std::fs::write(&file, minted.line).expect("a file");
        let flag = format!("--auth-tokens={}", file.display());
        let callers = Callers::try_parse_from(["orders", &flag]).expect("settings");
        let auth = Auth::new(&callers.auth, "127.0.0.1:0".parse().expect("an address"));
        std::fs::remove_file(&file).expect("the file goes");
        let (pool, coordinator) = (room.pool.clone(), room.coordinator.clone());
        let streams = Streams::new(pool.clone());
        let app = order_service::app(pool, coordinator, streams);
        let app = described("order-service", "For a test.", "1", app);
        Self {
            room,
            router: guard_described(app, auth.expect("tokens")),
            token: minted.token,
        }
    }

    async fn ask(&self, method: &str, uri: &str, key: &str, body: &Value) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(uri);
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        let request = match key.is_empty() {
            true => request,
            false => request.header("Idempotency-Key", key),
        };
        let request = request
            .body(Body::from(body.to_string()))
            .expect("a request");
        let answer = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("an answer");
        let (head, body) = answer.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a body");
        (head.status, serde_json::from_slice(&body).expect("JSON"))
    }

    async fn place(&self, key: &str) -> Value {
        let (status, placed) = self.ask("POST", "/v1/orders", key, &order()).await;
        assert_eq!(status, StatusCode::CREATED, "{placed}");
        placed
    }

    async fn entries(&self) -> Vec<Entry> {
        let mut all = audit::list(&self.room.pool, &Filter::default(), None, 1_000)
            .await
            .expect("a list");
        all.reverse();
        all
    }

    async fn run(&self, sql: &str) {
        run(&self.room.pool, sql).await;
    }
}

async fn run(pool: &PgPool, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// An operation, ready to be asked for.
struct Recipe {
    operation: &'static str,
    method: &'static str,
    uri: String,
    /// It is once per key; none if it needs no such.
    key: &'static str,
    body: Value,
    action: &'static str,
    subject: String,
    /// Whether it can be tried dry.
    dry: bool,
}

/// Something for each operation to act on.
async fn recipes(shop: &Shop) -> Vec<Recipe> {
    let placed = shop.place("made-before").await;
    let saga = placed["saga_id"].as_str().expect("a saga").to_owned();
    let reason = json!({"reason": "why not", "actor": "somebody else"});
    let bulk = json!({
        "operation": "pause", "selection": {"business_key": "nothing"}, "reason": "why not",
    });
    let (status, made) = shop
        .ask("POST", "/v1/bulk-operations", "made-before", &bulk)
        .await;
    assert_eq!(status, StatusCode::ACCEPTED, "{made}");
    let made = made["id"].as_str().expect("an id").to_owned();
    shop.run(
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         values (-10, gen_random_uuid(), 't', 'k', 'kind', now(), 'held', 'no topic'),
                (-9, gen_random_uuid(), 't', 'k', 'kind', now(), 'held', 'no topic')",
    )
    .await;
    shop.run(
        "insert into outbox.inbox_parked
             (consumer, message_id, topic, partition, \"offset\", key, headers, class, reason, attempts)
         values ('c', gen_random_uuid(), 't', 1, 1, null, '[]', 'refused', 'no', 1),
                ('c', gen_random_uuid(), 't', 1, 2, null, '[]', 'refused', 'no', 1)",
    )
    .await;
    // What an id may be begins with 0.
    shop.run("update outbox.parked set seq = seq + 1000").await;
    shop.run("truncate outbox.audit").await;
    let parked = |operation, act: &str, id: &str| Recipe {
        operation,
        method: "POST",
        uri: format!("/v1/parked/{id}/{act}"),
        key: "",
        body: reason.clone(),
        action: match act {
            "replay" => "parked.replay",
            _ => "parked.discard",
        },
        subject: format!("parked/{id}"),
        dry: true,
    };
    vec![
        Recipe {
            operation: "place_order",
            method: "POST",
            uri: "/v1/orders".to_owned(),
            key: "placed-now",
            body: order(),
            action: "order.place",
            subject: "orders/".to_owned(),
            dry: false,
        },
        Recipe {
            operation: "operate_on_saga",
            method: "POST",
            uri: format!("/v1/sagas/{saga}/operations"),
            key: "operated",
            body: json!({"operation": "pause", "reason": "why not", "actor": "somebody else"}),
            action: "saga.pause",
            subject: format!("sagas/{saga}"),
            dry: true,
        },
        Recipe {
            operation: "create_bulk_operation",
            method: "POST",
            uri: "/v1/bulk-operations".to_owned(),
            key: "bulk",
            body: bulk,
            action: "bulk.create",
            subject: "bulk-operations/".to_owned(),
            dry: true,
        },
        Recipe {
            operation: "cancel_bulk_operation",
            method: "POST",
            uri: format!("/v1/bulk-operations/{made}/cancel"),
            key: "",
            body: reason.clone(),
            action: "bulk.cancel",
            subject: format!("bulk-operations/{made}"),
            dry: false,
        },
        parked("replay_parked", "replay", "outbox-990"),
        parked("replay_parked", "replay", "inbox-1"),
        parked("discard_parked", "discard", "outbox-991"),
        parked("discard_parked", "discard", "inbox-2"),
    ]
}

/// Everything that an operation may have changed, in one text.
async fn state(pool: &PgPool) -> String {
    let tables = [
        "orders.orders",
        "saga.instance",
        "saga.event",
        "saga.intervention",
        "saga.bulk",
        "outbox.log",
        "outbox.parked",
        "outbox.inbox_parked",
    ];
    let mut state = String::new();
    for table in tables {
        let rows = format!(
            "select coalesce(string_agg(t::text, ';' order by t::text), '') from {table} as t"
        );
        let rows: String = sqlx::query_scalar(AssertSqlSafe(rows))
            .fetch_one(pool)
            .await
            .expect("rows");
        state.push_str(&format!("{table}: {rows}\n"));
    }
    state
}

#[tokio::test]
async fn every_operation_that_changes_something_leaves_one_row_under_the_callers_name() {
    let shop = Shop::open().await;
    let recipes = recipes(&shop).await;
    let (_, document) = shop.ask("GET", "/openapi.json", "", &Value::Null).await;
    let items = document["paths"].as_object().expect("paths").values();
    let operations = items.flat_map(|item| item.as_object().expect("operations"));
    let changing = operations.filter(|(method, _)| *method != "get");
    let changing: BTreeSet<&str> = changing
        .filter_map(|(_, of)| of["operationId"].as_str())
        .collect();
    let known: BTreeSet<&str> = recipes.iter().map(|recipe| recipe.operation).collect();
    assert_eq!(
        changing, known,
        "an operation without a recipe, or the reverse"
    );
    for Recipe {
        operation,
        method,
        uri,
        key,
        body,
        action,
        subject,
        dry,
    } in recipes
    {
        shop.run("truncate outbox.audit").await;
        if dry {
            let before = state(&shop.room.pool).await;
            let (status, said) = shop
                .ask(method, &format!("{uri}?dry_run=true"), "", &body)
                .await;
            assert!(status.is_success(), "{operation}: {status} {said}");
            assert_eq!(state(&shop.room.pool).await, before, "{operation}, dry");
            assert_eq!(shop.entries().await, [], "{operation}, dry");
        }
        // And again, which is nothing new.
        for _ in 0..2 {
            let (status, said) = shop.ask(method, &uri, key, &body).await;
            assert!(status.is_success(), "{operation}: {status} {said}");
            let entries = shop.entries().await;
            let [entry] = &entries[..] else {
                panic!("{operation}: {entries:?}");
            };
            assert_eq!(entry.action, action, "{operation}");
            assert!(
                entry.subject.starts_with(&subject),
                "{operation}: {entry:?}"
            );
            assert_eq!(entry.actor, "ada", "{operation}: never whom the body names");
            assert_eq!(entry.role.as_deref(), Some("admin"), "{operation}");
            let reason = (operation != "place_order").then_some("why not");
            assert_eq!(entry.reason.as_deref(), reason, "{operation}");
        }
        // Refused: nothing is there, or the body is wrong.
        shop.run("truncate outbox.audit").await;
        let (status, said) = shop
            .ask(method, &uri, "another", &json!({"reason": 7}))
            .await;
        assert!(status.is_client_error(), "{operation}: {status} {said}");
        assert_eq!(shop.entries().await, [], "{operation}, refused");
    }
    let history = shop.ask("GET", "/v1/sagas", "", &Value::Null).await.1;
    assert!(!history.to_string().contains("somebody else"), "{history}");
    let noted: String = sqlx::query_scalar("select string_agg(actor, ' ') from saga.intervention")
        .fetch_one(&shop.room.pool)
        .await
        .expect("interventions");
    assert_eq!(noted, "ada");
}

/// The row and the change are one transaction: where no row can be written nothing is changed.
#[tokio::test]
async fn an_operation_that_cannot_be_told_is_not_done() {
    let shop = Shop::open().await;
    let recipes = recipes(&shop).await;
    shop.run(
        "create function outbox.refuse() returns trigger language plpgsql as
             $$ begin raise exception 'no room'; end $$;
         create trigger refuse before insert on outbox.audit
             for each row execute function outbox.refuse()",
    )
    .await;
    let before = state(&shop.room.pool).await;
    for Recipe {
        operation,
        method,
        uri,
        key,
        body,
        ..
    } in recipes
    {
        let (status, said) = shop.ask(method, &uri, key, &body).await;
        assert_eq!(
            status,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{operation}: {said}"
        );
        assert_eq!(state(&shop.room.pool).await, before, "{operation}");
    }
}

/// The reverse: what is told and then fails is not told.
#[tokio::test]
async fn an_operation_that_fails_leaves_no_row() {
    let shop = Shop::open().await;
    let recipes = recipes(&shop).await;
    // At the commit: after everything that an operation does has been done.
    shop.run(
        "create function outbox.refuse() returns trigger language plpgsql as
             $$ begin raise exception 'no room'; end $$;
         create constraint trigger refuse after insert on outbox.audit deferrable initially deferred
             for each row execute function outbox.refuse()",
    )
    .await;
    let before = state(&shop.room.pool).await;
    for Recipe {
        operation,
        method,
        uri,
        key,
        body,
        ..
    } in recipes
    {
        let (status, said) = shop.ask(method, &uri, key, &body).await;
        assert!(status.is_server_error(), "{operation}: {said}");
        assert_eq!(shop.entries().await, [], "{operation}");
        assert_eq!(state(&shop.room.pool).await, before, "{operation}");
    }
}

#[tokio::test]
async fn without_a_caller_the_body_says_who_acts_and_an_order_is_its_own_record() {
    let room = Room::open().await;
    let placed = room.place(&order()).await;
    assert_eq!(placed.status, StatusCode::CREATED);
    let uri = format!(
        "/v1/sagas/{}/operations",
        placed.body["saga_id"].as_str().expect("a saga")
    );
    let nobody = json!({"operation": "pause", "reason": "why not"});
    let refused = room.post(&uri, &nobody, &[("Idempotency-Key", "k")]).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.fields(), ["actor"]);
    let somebody = json!({"operation": "pause", "reason": "why not", "actor": "ann"});
    let done = room
        .post(&uri, &somebody, &[("Idempotency-Key", "k")])
        .await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.body);
    let all = audit::list(&room.pool, &Filter::default(), None, 10)
        .await
        .expect("a list");
    let [entry] = &all[..] else {
        panic!("{all:?}");
    };
    assert_eq!((entry.actor.as_str(), &entry.role), ("ann", &None));
}

#[tokio::test]
async fn the_audit_is_read_over_http_page_by_page() {
    let shop = Shop::open().await;
    for n in 0..5 {
        shop.place(&format!("order-{n}")).await;
    }
    let (mut uri, mut seen) = (
        "/v1/audit?limit=2&actor=ada&action=order.place".to_owned(),
        Vec::new(),
    );
    loop {
        let (status, page) = shop.ask("GET", &uri, "", &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let items = page["items"].as_array().expect("items");
        seen.extend(items.iter().filter_map(|entry| entry["id"].as_i64()));
        match page["next_cursor"].as_str() {
            Some(cursor) => {
                uri = format!("/v1/audit?limit=2&actor=ada&action=order.place&cursor={cursor}")
            }
            None => break,
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|one, next| one > next), "{seen:?}");
    let (_, nothing) = shop
        .ask("GET", "/v1/audit?actor=bob", "", &Value::Null)
        .await;
    assert_eq!(nothing["items"], json!([]));
    let (_, nothing) = shop
        .ask(
            "GET",
            "/v1/audit?since=2999-01-01T00:00:00Z",
            "",
            &Value::Null,
        )
        .await;
    assert_eq!(nothing["items"], json!([]));
    for wrong in [
        "actor=%00",
        "since=today",
        // chrono has this year, PostgreSQL has not.
        "since=-10000-01-01T00:00:00Z",
        "limit=0",
        "cursor=x",
        "who=ada",
    ] {
        let (status, said) = shop
            .ask("GET", &format!("/v1/audit?{wrong}"), "", &Value::Null)
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {said}");
    }
}

#[test]
fn what_people_did_is_remembered_for_a_year_unless_told() {
    let parse = |further: &[&str]| {
        let needed = [
            "order-service",
            "--kafka-brokers=127.0.0.1:1",
            "--database-url=postgres://a@b/c",
        ];
        Config::try_parse_from([&needed[..], further].concat())
    };
    let days = |config: Config| config.auth.audit_retention.as_secs() / 86_400;
    assert_eq!(days(parse(&[]).expect("settings")), 365);
    assert_eq!(
        days(parse(&["--audit-retention=30d"]).expect("settings")),
        30
    );
    assert!(parse(&["--audit-retention=23h"]).is_err());
}
