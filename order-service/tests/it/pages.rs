//! What a press of a button on a page does to the database.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use chassis::http::auth::Auth;
use chassis::http::{described, guard_described};
use clap::Parser;
use dashboard::Dashboard;
use saga::http::Streams;
use tower::ServiceExt;

use crate::auditing::Callers;
use crate::room::{Room, order};

fn pages(room: &Room) -> Router {
    pages_with(room, None)
}

fn pages_with(room: &Room, traces: Option<&str>) -> Router {
    pages_of(room, traces, Auth::open())
}

fn pages_of(room: &Room, traces: Option<&str>, auth: Auth) -> Router {
    let (pool, coordinator) = (room.pool.clone(), room.coordinator.clone());
    let api = order_service::app(pool.clone(), coordinator, Streams::new(pool));
    let dashboard = Dashboard::new("order-service", api.clone());
    let dashboard = dashboard.with_traces(traces.map(ToOwned::to_owned));
    let app = api.merge(dashboard.router());
    guard_described(described("order-service", "For a test.", "1", app), auth)
}

/// As htmx sends a form.
async fn press(pages: &Router, uri: &str, form: &str) -> (StatusCode, String) {
    let request = Request::post(uri)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header("HX-Request", "true")
        .body(Body::from(form.to_owned()))
        .expect("a request");
    let answer = pages.clone().oneshot(request).await.expect("an answer");
    let (head, body) = answer.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    (head.status, String::from_utf8(body.into()).expect("text"))
}

/// A refused message of the outbox and those that wait behind it, oldest first.
async fn park(room: &Room, from: i64, to: i64) {
    sqlx::query(
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         select seq, gen_random_uuid(), 't', 'k', 'kind', now(),
                case when seq = $1 then 'poison' else 'blocked' end, 'no'
         from generate_series($1, $2) as seq",
    )
    .bind(from)
    .bind(to)
    .execute(&room.pool)
    .await
    .expect("parked");
}

/// In the order in which they were given up.
async fn discarded(room: &Room) -> Vec<String> {
    sqlx::query_scalar(
        "select subject from outbox.audit where action = 'parked.discard' order by id",
    )
    .fetch_all(&room.pool)
    .await
    .expect("the audit")
}

const WHO: &str = "service=order-service&actor=ann&reason=enough";

#[tokio::test]
async fn whoever_is_given_up_goes_after_those_behind_him_who_would_be_sent_otherwise() {
    let room = Room::open().await;
    let pages = pages(&room);
    // Two digits and one: by number, not by letter.
    park(&room, 8, 12).await;
    let (status, told) = press(
        &pages,
        "/parked/discard",
        &format!("{WHO}&all=true&dry_run=true"),
    )
    .await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert!(told.contains("5 messages would be discarded"), "{told}");
    assert_eq!(discarded(&room).await, [""; 0]);
    let (status, told) = press(&pages, "/parked/discard", &format!("{WHO}&all=true")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert!(told.contains("5 messages were discarded"), "{told}");
    let expected = [12, 11, 10, 9, 8].map(|seq| format!("parked/outbox-{seq}"));
    assert_eq!(discarded(&room).await, expected);

    park(&room, 20, 22).await;
    let chosen = "&id=outbox-20&id=outbox-21&id=outbox-22";
    let (status, told) = press(&pages, "/parked/discard", &format!("{WHO}{chosen}")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let expected = [22, 21, 20].map(|seq| format!("parked/outbox-{seq}"));
    assert_eq!(discarded(&room).await[5..], expected);
}

#[tokio::test]
async fn of_more_than_can_go_at_once_none_is_given_up() {
    let room = Room::open().await;
    let pages = pages(&room);
    park(&room, 1, 1_001).await;
    let (status, told) = press(&pages, "/parked/discard", &format!("{WHO}&all=true")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{told}");
    assert!(told.contains("more than 1000"), "{told}");
    assert_eq!(room.count("outbox.parked").await, 1_001);
}

#[tokio::test]
async fn what_was_done_is_told_though_something_ended_it() {
    let room = Room::open().await;
    let pages = pages(&room);
    park(&room, 1, 3).await;
    // The second of them has a reason to fail.
    sqlx::raw_sql(
        "create function pg_temp_refuse() returns trigger language plpgsql as
         $$ begin if old.seq = 2 then raise exception 'not this one'; end if; return old; end $$;
         create trigger refuse before delete on outbox.parked
             for each row execute function pg_temp_refuse()",
    )
    .execute(&room.pool)
    .await
    .expect("a trigger");
    let (status, told) = press(&pages, "/parked/discard", &format!("{WHO}&all=true")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert!(told.contains("1 messages were discarded"), "{told}");
    assert!(told.contains("2 were not asked for"), "{told}");
    assert_eq!(room.count("outbox.parked").await, 2);
}

#[tokio::test]
async fn a_saga_leads_to_its_trace_and_each_message_says_where_it_stands() {
    let room = Room::open().await;
    let placed = room.place(&order()).await.body;
    let saga = placed["saga_id"].as_str().expect("a saga");
    sqlx::query(
        "update saga.event set origin = '{\"trace\":
             \"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\", \"record\": [3, 1234]}'
         where kind = 'command_sent'",
    )
    .execute(&room.pool)
    .await
    .expect("an origin");
    let leads = "href=\"http://zipkin.test/traces/4bf92f3577b34da6a3ce929d0e0e4736\"";
    for (traces, links) in [(None, 0), (Some("http://zipkin.test/traces/{trace_id}"), 2)] {
        let pages = pages_with(&room, traces);
        let page = Request::get(format!("/sagas/{saga}"));
        let page = page.body(Body::empty()).expect("a request");
        let answer = pages.oneshot(page).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let body = to_bytes(answer.into_body(), usize::MAX)
            .await
            .expect("a body");
        let body = String::from_utf8(body.into()).expect("text");
        // One of the saga, one of its message.
        assert_eq!(body.matches(leads).count(), links, "{body}");
        assert!(body.contains("partition 3, offset 1234"), "{body}");
    }
}

#[tokio::test]
async fn the_page_of_a_long_saga_shows_the_end_of_its_history() {
    let room = Room::open().await;
    let placed = room.place(&order()).await.body;
    let saga = placed["saga_id"].as_str().expect("a saga");
    // A saga that has been at it for long: a thousand events more.
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "insert into saga.event (saga_id, seq, kind, body)
         select '{saga}', seq + n, 'resumed', '{{\"type\": \"resumed\"}}'
         from saga.instance cross join generate_series(1, 1000) as n where id = '{saga}';
         update saga.instance set seq = seq + 1000 where id = '{saga}'"
    )))
    .execute(&room.pool)
    .await
    .expect("events");
    let body = shown(&pages(&room), &format!("/sagas/{saga}")).await;
    let last: i64 = sqlx::query_scalar("select max(seq) from saga.event")
        .fetch_one(&room.pool)
        .await
        .expect("a number");
    let is_shown = |seq: i64| body.contains(&format!("id=\"event-{seq}\""));
    assert!(is_shown(last), "what happens now");
    assert!(is_shown(last - 499));
    assert!(!is_shown(last - 500), "and not more than a page");
    assert!(body.contains("The latest 500 events"), "{body}");
}

#[tokio::test]
async fn a_saga_that_cannot_be_read_is_shown_as_such_on_every_page() {
    let room = Room::open().await;
    let healthy = room.place(&order()).await.body;
    let sick = room.place(&order()).await.body;
    let saga = sick["saga_id"].as_str().expect("a saga");
    sqlx::query("update saga.instance set steps = '[[\"authorize-payment\", \"flying\", 1, 1]]' where id = $1::text::uuid")
        .bind(saga)
        .execute(&room.pool)
        .await
        .expect("a sick row");
    let pages = pages(&room);
    let list = shown(&pages, "/sagas").await;
    for order in [&healthy, &sick] {
        assert!(
            list.contains(order["id"].as_str().expect("an id")),
            "{list}"
        );
    }
    assert_eq!(list.matches(">unreadable<").count(), 1, "{list}");
    let page = shown(&pages, &format!("/sagas/{saga}")).await;
    assert!(
        page.contains("unknown variant `flying`") || page.contains("flying"),
        "{page}"
    );
    for path in [
        "/",
        "/sagas/chips",
        "/definitions",
        "/bulk-operations",
        "/anomalies",
    ] {
        shown(&pages, path).await;
    }
}

/// A page, as it is shown to whoever is asked for nothing.
async fn shown(pages: &Router, uri: &str) -> String {
    let request = Request::get(uri).body(Body::empty()).expect("a request");
    let answer = pages.clone().oneshot(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK, "{uri}");
    let body = to_bytes(answer.into_body(), usize::MAX).await;
    String::from_utf8(body.expect("a body").into()).expect("text")
}

#[tokio::test]
async fn a_token_that_no_browser_would_keep_is_refused_with_that_reason() {
    use sha2::{Digest, Sha256};
    let room = Room::open().await;
    let (short, long) = ("s".repeat(3_900), "l".repeat(3_901));
    let line = |token: &str| {
        let hash = Sha256::digest(token);
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("ann{} admin sha256:{hash}\n", token.len())
    };
    let file = testbed::target_folder().join(format!("tokens-{}", uuid::Uuid::now_v7()));
    std::fs::write(&file, line(&short) + &line(&long)).expect("a file");
    let flag = format!("--auth-tokens={}", file.display());
    let callers = Callers::try_parse_from(["orders", &flag]).expect("settings");
    let auth = Auth::new(&callers.auth, "127.0.0.1:0".parse().expect("an address"));
    std::fs::remove_file(&file).expect("the file goes");
    let pages = pages_of(&room, None, auth.expect("tokens"));
    let (status, _) = press(&pages, "/login", &format!("token={short}")).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let (status, told) = press(&pages, "/login", &format!("token={long}")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(told.contains("too long for a browser"), "{told}");
}
