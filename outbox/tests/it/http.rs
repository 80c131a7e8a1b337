//! The outbox and what is parked, over HTTP.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use chassis::http::guard;
use serde_json::{Value, json};
use sqlx::PgPool;
use tower::ServiceExt;

use crate::{operating::run, world::World};

struct Door {
    pool: PgPool,
    router: Router,
}

impl Door {
    /// Outbox: a key `k` with a head 10 and followers 11 and 12, and `held` 30. Inbox: 1 refused
    /// with a follower 2, and 3 unreadable.
    async fn open(name: &str) -> Self {
        let World { pool, .. } = World::embedded(name).await;
        run(
            &pool,
            "insert into outbox.blocked_key values ('t', 'k', 10)",
        )
        .await;
        run(
            &pool,
            "insert into outbox.parked (seq, message_id, topic, key, kind, payload, created_at, class, reason)
             values (10, gen_random_uuid(), 't', 'k', 'kind', 'secret', now(), 'poison', 'refused'),
                    (11, gen_random_uuid(), 't', 'k', 'kind', 'secret', now(), 'blocked', 'behind'),
                    (12, gen_random_uuid(), 't', 'k', 'kind', 'secret', now(), 'blocked', 'behind'),
                    (30, gen_random_uuid(), 'u', 'held', 'kind', 'secret', now(), 'held', 'no topic')",
        )
        .await;
        run(
            &pool,
            "insert into outbox.inbox_blocked values ('c', 't', 'k')",
        )
        .await;
        run(
            &pool,
            r#"insert into outbox.inbox_parked
                   (consumer, message_id, topic, partition, "offset", key, payload, headers, class, reason, attempts)
               values ('c', gen_random_uuid(), 't', 3, 14, 'k', 'secret', '[["a", "62"]]', 'refused', 'no', 5),
                      ('c', gen_random_uuid(), 't', 3, 15, 'k', 'secret', '[]', 'blocked', 'behind', 0),
                      ('d', gen_random_uuid(), 't', 3, 16, '\x00ff', '\x00ff', '[]', 'unreadable', 'what', 0)"#,
        )
        .await;
        let outbox = outbox::http::router(pool.clone());
        let router = guard(Router::new().nest("/v1", outbox.into()));
        Self { pool, router }
    }

    async fn send(&self, method: &str, uri: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(format!("/v1{uri}"));
        let request = request.header("content-type", "application/json");
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1_000_000).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, uri: &str) -> Value {
        let (status, body) = self.send("GET", uri, None).await;
        assert_eq!(status, StatusCode::OK, "{uri}: {body}");
        body
    }

    async fn ids(&self, query: &str) -> Vec<String> {
        let page = self.get(&format!("/parked?{query}")).await;
        let items = page["items"].as_array().unwrap().iter();
        let ids: Vec<String> = items
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect();
        if page["next_cursor"].is_null() && !query.contains("cursor") {
            assert_eq!(page["total"], ids.len(), "{query}");
        }
        ids
    }

    async fn post(&self, uri: &str) -> (StatusCode, Value) {
        let wish = json!({"actor": "ann", "reason": "it should work now"});
        self.send("POST", uri, Some(wish)).await
    }

    /// What came of it, and how many follow.
    async fn asked(&self, uri: &str) -> (String, i64) {
        let (status, body) = self.post(uri).await;
        assert_eq!(status, StatusCode::OK, "{uri}: {body}");
        let outcome = body["outcome"].as_str().unwrap().to_owned();
        assert_eq!(body["dry_run"], uri.contains("dry_run=true"));
        (outcome, body["followers"].as_i64().unwrap())
    }

    /// Everything that asking could change.
    async fn state(&self) -> Vec<(String, Option<String>)> {
        let rows = "select 'outbox-' || seq, replay_by from outbox.parked
                    union all select 'inbox-' || id, replay_by from outbox.inbox_parked order by 1";
        sqlx::query_as(rows).fetch_all(&self.pool).await.unwrap()
    }
}

const ALL: [&str; 7] = [
    "outbox-10",
    "outbox-11",
    "outbox-12",
    "outbox-30",
    "inbox-1",
    "inbox-2",
    "inbox-3",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_on_both_sides_is_one_list() {
    let door = Door::open("http_list").await;
    assert_eq!(door.ids("").await, ALL);
    for limit in 1..8 {
        let mut walked = Vec::new();
        let mut query = format!("limit={limit}");
        loop {
            let page = door.get(&format!("/parked?{query}")).await;
            assert_eq!(page["total"], 7);
            walked.extend(door.ids(&query).await);
            let Some(cursor) = page["next_cursor"].as_str() else {
                break;
            };
            query = format!("limit={limit}&cursor={cursor}");
        }
        assert_eq!(walked, ALL, "in pages of {limit}");
    }
    for (query, expected) in [
        ("side=outbox", &ALL[..4]),
        ("side=inbox", &ALL[4..]),
        ("class=blocked", &["outbox-11", "outbox-12", "inbox-2"]),
        ("class=poison", &["outbox-10"]),
        ("class=refused", &["inbox-1"]),
        ("topic=u", &["outbox-30"]),
        ("key=k&side=inbox", &["inbox-1", "inbox-2"]),
        ("consumer=d", &["inbox-3"]),
        ("side=outbox&class=refused", &[]),
        ("topic=%27%3B--", &[]),
    ] {
        assert_eq!(door.ids(query).await, expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_is_shown_only_where_it_is_asked_for() {
    let door = Door::open("http_show").await;
    let outbox = door.get("/parked/outbox-11").await;
    assert_eq!(
        (&outbox["head"], &outbox["bytes"]),
        (&"outbox-10".into(), &6.into())
    );
    let inbox = door.get("/parked/inbox-2").await;
    assert_eq!(
        (&inbox["head"], &inbox["offset"]),
        (&"inbox-1".into(), &15.into())
    );
    let list = door.get("/parked").await;
    for shown in [&outbox, &inbox, &list, &door.get("/outbox").await] {
        assert!(!shown.to_string().contains("secret"), "{shown}");
    }
    let outbox = door.get("/parked/outbox-11?payload=true").await;
    assert_eq!(outbox["payload"]["text"], "secret");
    let inbox = door.get("/parked/inbox-1?payload=true").await;
    assert_eq!(inbox["payload"]["text"], "secret");
    assert_eq!(
        inbox["headers"],
        json!([{"name": "a", "value": {"text": "b"}}])
    );
    let bytes = door.get("/parked/inbox-3?payload=true").await;
    assert_eq!(
        (&bytes["payload"]["hex"], &bytes["key"]),
        (&"00ff".into(), &"00ff".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_tried_dry_and_asked_for_once() {
    let door = Door::open("http_replay").await;
    let before = door.state().await;
    for (uri, outcome, followers) in [
        ("/parked/outbox-10/replay?dry_run=true", "requested", 2),
        ("/parked/outbox-30/replay?dry_run=true", "requested", 0),
        ("/parked/inbox-1/replay?dry_run=true", "requested", 1),
        ("/parked/inbox-3/replay?dry_run=true", "requested", 0),
        ("/parked/outbox-99/replay?dry_run=true", "not_parked", 0),
    ] {
        assert_eq!(
            door.asked(uri).await,
            (outcome.to_owned(), followers),
            "{uri}"
        );
    }
    for (uri, head) in [
        ("/parked/outbox-12", "outbox-10"),
        ("/parked/inbox-2", "inbox-1"),
    ] {
        for query in ["", "?dry_run=true"] {
            let (status, body) = door.post(&format!("{uri}/replay{query}")).await;
            assert_eq!(status, StatusCode::CONFLICT, "{uri}");
            assert!(body["detail"].as_str().unwrap().contains(head), "{body}");
        }
    }
    assert_eq!(door.state().await, before, "nothing was asked for");

    for id in ["outbox-10", "inbox-1"] {
        let uri = format!("/parked/{id}/replay");
        assert_eq!(door.asked(&uri).await.0, "requested");
        assert_eq!(door.asked(&uri).await.0, "already_requested");
        assert_eq!(
            door.asked(&format!("{uri}?dry_run=true")).await.0,
            "already_requested"
        );
        let shown = door.get(&format!("/parked/{id}")).await;
        assert_eq!(shown["replay"]["by"], "ann: it should work now");
    }
    assert_eq!(door.asked("/parked/inbox-99/replay").await.0, "not_parked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discard_is_tried_dry_and_done_once() {
    let door = Door::open("http_discard").await;
    let before = door.state().await;
    for id in ALL {
        let uri = format!("/parked/{id}/discard?dry_run=true");
        assert_eq!(door.asked(&uri).await.0, "discarded", "{id}");
    }
    assert_eq!(door.state().await, before, "nothing was given up");

    for (id, followers) in [("outbox-10", 2), ("inbox-1", 1), ("inbox-3", 0)] {
        let uri = format!("/parked/{id}/discard");
        assert_eq!(door.asked(&uri).await, ("discarded".to_owned(), followers));
        assert_eq!(
            door.asked(&uri).await,
            ("not_parked".to_owned(), 0),
            "as often as one likes"
        );
        assert_eq!(
            door.send("GET", &format!("/parked/{id}"), None).await.0,
            404
        );
    }
    let left = door.state().await;
    let left: Vec<_> = left.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(left, ["inbox-2", "outbox-11", "outbox-12", "outbox-30"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outbox_is_seen_at_a_glance() {
    let door = Door::open("http_outbox").await;
    let outbox = door.get("/outbox").await;
    assert_eq!(
        outbox["lag"],
        json!({"messages": 0, "at_least": false, "oldest_seconds": null, "topics": []})
    );
    assert_eq!(outbox["status"]["blocked_keys"], 1);
    let parked = outbox["status"]["parked"].as_array().unwrap().iter();
    let parked: Vec<_> = parked
        .map(|class| (class["class"].as_str().unwrap(), class["messages"].as_i64()))
        .collect();
    assert_eq!(
        parked,
        [("blocked", Some(2)), ("held", Some(1)), ("poison", Some(1))]
    );
    assert_eq!(outbox["status"]["inbox_parked"][0]["consumer"], "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_wish_is_named_and_changes_nothing() {
    let door = Door::open("http_wrong").await;
    let before = door.state().await;
    for (uri, field) in [
        ("/parked?side=both", "side"),
        ("/parked?class=sick", "class"),
        ("/parked?limit=0", "limit"),
        ("/parked?limit=201", "limit"),
        ("/parked?cursor=x", "cursor"),
        ("/parked?cursor=ImluYm94LTAxIg", "cursor"),
        ("/parked?topic=%00", "topic"),
        ("/parked?no_such=1", "no_such"),
        ("/parked/outbox-x", "id"),
        ("/parked/inbox-1?payload=maybe", "payload"),
    ] {
        let (status, body) = door.send("GET", uri, None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}: {body}");
        assert_eq!(body["errors"][0]["field"], field, "{uri}");
    }
    let good = json!({"actor": "ann", "reason": "why"});
    for act in ["replay", "discard"] {
        for (field, wrong) in [
            ("actor", json!({"reason": "why"})),
            ("reason", json!({"actor": "ann"})),
            ("actor", json!({"actor": " ", "reason": "why"})),
            (
                "reason",
                json!({"actor": "ann", "reason": "r".repeat(2001)}),
            ),
            ("reason", json!({"actor": "ann", "reason": "\0"})),
            (
                "force",
                json!({"actor": "ann", "reason": "why", "force": true}),
            ),
        ] {
            let (status, body) = door
                .send("POST", &format!("/parked/outbox-10/{act}"), Some(wrong))
                .await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
            assert_eq!(body["errors"][0]["field"], field);
        }
        let (status, _) = door
            .send("POST", &format!("/parked/x/{act}"), Some(good.clone()))
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let uri = format!("/parked/outbox-10/{act}?dry_run=1");
        let (status, _) = door.send("POST", &uri, Some(good.clone())).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
    assert_eq!(door.state().await, before);
}
