//! `recompense saga …` against a service's routes on a real database.

use saga::operator::bulk::Bulks;
use serde_json::json;
use uuid::Uuid;

use crate::{
    room::{column, fact, recompense},
    served::Service,
};

#[tokio::test]
async fn a_person_looks_at_sagas() {
    let service = Service::open("saga_look").await;
    let (one, other) = (service.start().await, service.start().await);
    let list = service.says("ls --status running").await;
    assert_eq!(column(&list, "id"), [other.to_string(), one.to_string()]);
    assert_eq!(column(&list, "waits for"), ["reply", "reply"]);
    let page = service.says("ls --limit 1").await;
    assert!(page.contains("there is more after "), "{page}");
    let shown = service.says(&format!("show {one}")).await;
    assert_eq!(fact(&shown, "status"), "running");
    assert_eq!(
        fact(&shown, "allowed"),
        "pause, cancel, complete_step, abandon"
    );
    assert_eq!(column(&shown, "step"), ["hold"]);
    let allowed = service.says(&format!("allowed {one}")).await;
    assert_eq!(column(&allowed, "because")[1], "it is not paused");
    let events = service.says(&format!("events {one}")).await;
    assert_eq!(column(&events, "event"), ["started", "command_sent"]);
    let messages = service.says(&format!("messages {one}")).await;
    assert_eq!(column(&messages, "way"), ["→"]);
    assert_eq!(column(&messages, "step"), ["hold"]);
    let graph = service.says(&format!("graph {one}")).await;
    assert!(graph.starts_with("flowchart "), "{graph}");
    assert!(graph.contains("hold"), "{graph}");
    let graph = service.says(&format!("graph {one} --format svg")).await;
    assert!(
        graph.starts_with("<svg ") && graph.ends_with("</svg>\n"),
        "{graph}"
    );
    let count = service.json("count --by waiting_for").await;
    assert_eq!(
        count["groups"],
        json!([{"value": "reply", "count": 2, "exact": true}])
    );
    assert_eq!(column(&service.says("definitions").await, "open"), ["2"]);
    assert_eq!(
        service.json("anomalies --kind contradiction").await["items"],
        json!([])
    );
    assert_eq!(service.json("locks --waiting").await["items"], json!([]));
}

#[tokio::test]
async fn a_person_tries_it_dry_does_it_and_is_told_why_it_cannot_be_done_again() {
    let service = Service::open("saga_act").await;
    let id = service.start().await;
    let cancel = format!("cancel {id} --reason mistake");
    let would = service.says(&format!("{cancel} --dry-run")).await;
    assert!(
        would.contains("would be compensating at event 6"),
        "{would}"
    );
    assert!(
        would.contains("trip.release.v1 to trip.commands (hold, compensation"),
        "{would}"
    );
    let unsure = service.run(&cancel).await;
    unsure.is_refusal(&cancel, 1, "say --yes to do it");
    assert_eq!(
        service.room.number("select max(seq) from saga.event").await,
        2
    );

    let did = service.json(&format!("{cancel} --yes --key one")).await;
    assert_eq!((&did["outcome"], &did["seq"]), (&json!("done"), &json!(6)));
    let again = service.says(&format!("{cancel} --yes --key one")).await;
    assert!(again.contains("done before, under the same key"), "{again}");
    let events = service.says(&format!("events {id}")).await;
    assert!(
        events.contains("operation=cancel actor=ann reason=mistake"),
        "{events}"
    );
    let refused = service.run(&format!("{cancel} --yes")).await;
    refused.is_refusal(
        &cancel,
        1,
        "cancel is not possible: it has turned back already (409)",
    );
    let stale = service
        .run(&format!(
            "abandon {id} --reason mistake --yes --expected-seq 2"
        ))
        .await;
    stale.is_refusal("abandon", 1, "its last event is 6, not 2 (409)");
    let skipped = service
        .says(&format!("skip {id} hold --reason byhand --yes"))
        .await;
    assert!(skipped.contains("is compensated"), "{skipped}");

    let other = service.start().await;
    let complete = format!("complete {other} hold --reason byhand --yes --reply");
    let wrong = service.run(&format!("{complete} nonsense")).await;
    wrong.is_refusal("complete", 2, "--reply is not JSON");
    let done = service.says(&format!("{complete} {{}}")).await;
    assert!(done.contains("is completed"), "{done}");
}

#[tokio::test]
async fn a_person_does_it_to_many() {
    let service = Service::open("saga_bulk").await;
    let ids = [service.start().await, service.start().await];
    let start = "bulk start pause --definition trip --reason closed";
    let would = service.json(&format!("{start} --dry-run")).await;
    assert_eq!(
        (&would["count"], &would["sample"][0]["allowed"]),
        (&json!(2), &json!(true))
    );
    let nothing = service.run("bulk start pause --reason closed --yes").await;
    nothing.is_refusal("bulk start", 2, "by filters, or --all");
    let bulk = service
        .json(&format!("{start} --yes --per-second 1000"))
        .await;
    let id = bulk["id"].as_str().unwrap();
    let bulks = Bulks::new(service.coordinator.clone(), service.room.pool.clone());
    bulks.run_once().await.unwrap();
    let shown = service.says(&format!("bulk show {id}")).await;
    assert_eq!((fact(&shown, "done"), fact(&shown, "pending")), ("1", "1"));
    let items = service.says(&format!("bulk items {id}")).await;
    assert_eq!(column(&items, "saga"), ids.map(|id| id.to_string()));
    assert_eq!(column(&items, "result"), ["done", ""]);
    let stopped = service
        .says(&format!("bulk cancel {id} --reason enough"))
        .await;
    assert_eq!(fact(&stopped, "cancelled_by"), "ann");
    assert_eq!(
        column(&service.says("bulk ls").await, "status"),
        ["cancelled"]
    );
}

#[tokio::test]
async fn a_service_that_is_away_or_is_none_is_said_in_one_line() {
    let service = Service::open("saga_away").await;
    let unknown = format!("show {}", Uuid::now_v7());
    service
        .run(&unknown)
        .await
        .is_refusal(&unknown, 1, "there is no saga with this id (404)");
    let wrong = service.run("ls --status odd").await;
    wrong.is_refusal("ls", 1, "status: not one of running, ");
    let nobody = ["saga", "ls", "--url", "http://127.0.0.1:9"];
    let ran = recompense(&service.room.url, nobody).await;
    ran.is_refusal("ls", 1, "does not answer; check --url");
    let reason = service
        .run(&format!("pause {} --yes", Uuid::now_v7()))
        .await;
    assert_eq!(
        reason.status,
        Some(2),
        "a reason is not optional: {}",
        reason.stderr
    );
}
