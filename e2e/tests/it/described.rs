//! What the services say of themselves is what they do: routes, methods, problems.
//!
//! The routers are those of the services, without a database: what is asked here is only whether
//! a route is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use chassis::health::{self, Readiness};
use chassis::http::{Described, OpenApiRouter, described, guard, sections};
use clap::Parser;
use dashboard::POLICY;
use metrics_exporter_prometheus::PrometheusBuilder;
use order_service::fulfilment::{Patience, coordinator};
use saga::http::Streams;
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tower::ServiceExt;

const METHODS: [&str; 6] = ["get", "put", "post", "delete", "patch", "options"];

/// Of a database that is not there.
fn nowhere() -> PgPool {
    PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(10))
        .connect_lazy("postgres://nobody@127.0.0.1:1/nothing")
        .expect("an address")
}

/// Every service, whole.
pub(crate) fn whole_services() -> Vec<(&'static str, Described)> {
    let patience = Patience {
        timeout: Duration::from_secs(10),
        attempts: 2,
    };
    let coordinator = coordinator(patience, 1).expect("a sound definition");
    let whole = |name, app: OpenApiRouter| {
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let router = app.merge(health::router(Readiness::new(), metrics));
        (name, described(name, "For a test.", "1", router))
    };
    let orders = order_service::app(nowhere(), coordinator, Streams::new(nowhere()));
    let pages = order_service::dashboard(&orders_config(), orders.clone());
    vec![
        whole(order_service::NAME, orders.merge(pages.router())),
        whole(payment_service::NAME, payment_service::app(nowhere())),
        whole(delivery_service::NAME, delivery_service::app(nowhere())),
        whole(
            notification_service::NAME,
            notification_service::app(nowhere()),
        ),
    ]
}

fn orders_config() -> order_service::Config {
    order_service::Config::parse_from([
        "order-service",
        "--database-url=postgres://nobody@127.0.0.1:1/nothing",
        "--kafka-brokers=127.0.0.1:1",
    ])
}

fn services() -> Vec<(&'static str, Router)> {
    let all = whole_services().into_iter();
    all.map(|(name, described)| (name, described.into()))
        .collect()
}

async fn ask(router: &Router, method: &str, uri: &str) -> (StatusCode, String, Vec<u8>) {
    let request = Request::builder().method(method.to_uppercase().as_str());
    let request = request.uri(uri).body(Body::empty()).expect("a request");
    let answer = guard(router.clone()).oneshot(request).await;
    let (head, body) = answer.expect("an answer").into_parts();
    let kind = head.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let body = match kind.contains("event-stream") {
        true => Vec::new(),
        false => to_bytes(body, 10_000_000).await.expect("a body").to_vec(),
    };
    (head.status, kind.to_owned(), body)
}

async fn document(router: &Router) -> Value {
    let (status, kind, body) = ask(router, "get", "/openapi.json").await;
    assert_eq!(
        (status, kind.as_str()),
        (StatusCode::OK, "application/json")
    );
    serde_json::from_slice(&body).expect("JSON")
}

/// The paths that a router has, as it says itself.
fn served(router: &Router) -> BTreeSet<String> {
    let said = format!("{router:?}");
    let places = said.split("RouteId(").skip(1);
    let paths = places.filter_map(|place| {
        let (number, rest) = place.split_once("): \"")?;
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| rest.split('"').next().unwrap_or_default().to_owned())
    });
    paths.collect()
}

fn paths(document: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let paths = document["paths"].as_object().expect("paths");
    let methods = |item: &Value| item.as_object().expect("methods").keys().cloned().collect();
    let paths = paths.iter();
    paths
        .map(|(path, item)| (path.clone(), methods(item)))
        .collect()
}

/// With something in the place of each parameter.
pub(crate) fn concrete(path: &str) -> String {
    let parts = path.split('/').map(|part| match part.starts_with('{') {
        true => "018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b",
        false => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_route_that_is_served_is_described_and_the_reverse() {
    for (name, router) in services() {
        let described = paths(&document(&router).await);
        let mut served = served(&router);
        // Where nothing else is, this is what answers that nothing is there.
        let (root, _, _) = ask(&router, "get", "/").await;
        if root == StatusCode::NOT_FOUND {
            served.remove("/");
        }
        served.remove("/{*__private__axum_fallback}");
        assert!(served.len() > 6, "{name} says its routes: {served:?}");
        let written: BTreeSet<String> = described.keys().cloned().collect();
        assert_eq!(written, served, "{name}");
        for (path, methods) in &described {
            for method in METHODS {
                let (status, kind, _) = ask(&router, method, &concrete(path)).await;
                let is_there = status != StatusCode::METHOD_NOT_ALLOWED;
                let written = methods.contains(method);
                assert_eq!(is_there, written, "{name}: {method} {path} is {status}");
                if !is_there {
                    assert_eq!(kind, "application/problem+json", "{name}: {method} {path}");
                }
            }
        }
        let (status, kind, _) = ask(&router, "get", "/no/such/route").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{name}");
        assert_eq!(kind, "application/problem+json", "{name}");
    }
}

#[tokio::test]
async fn a_description_is_whole() {
    for (name, router) in services() {
        let document = document(&router).await;
        assert_eq!(document["openapi"], "3.1.0", "{name}");
        assert_eq!(document["info"]["title"], name);
        let schemas = document["components"]["schemas"].as_object();
        let schemas = schemas.expect("schemas");
        for reference in references(&document) {
            let schema = reference.strip_prefix("#/components/schemas/");
            let is_there = schema.is_some_and(|schema| schemas.contains_key(schema));
            assert!(is_there, "{name}: {reference} leads nowhere");
        }
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("methods") {
                let at = format!("{name}: {method} {path}");
                let id = operation["operationId"].as_str().expect("an id");
                assert!(ids.insert(id.to_owned()), "{at}: {id} is there twice");
                assert!(operation["summary"].is_string(), "{at}: no summary");
                let responses = operation["responses"].as_object().expect("responses");
                let problem = &responses["default"]["content"]["application/problem+json"];
                assert_eq!(
                    problem["schema"]["$ref"], "#/components/schemas/Problem",
                    "{at}"
                );
                let good = responses
                    .keys()
                    .any(|status| status.starts_with(['2', '3']));
                assert!(good, "{at}: no good answer");
                every_parameter_of_the_path_is_described(path, operation, &at);
            }
        }
    }
}

fn every_parameter_of_the_path_is_described(path: &str, operation: &Value, at: &str) {
    let written = operation["parameters"].as_array().into_iter().flatten();
    let written = written.filter(|parameter| parameter["in"] == "path");
    let written: BTreeSet<_> = written.filter_map(|p| p["name"].as_str()).collect();
    let parts = path.split('/');
    let named = parts.filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    assert_eq!(written, named.collect(), "{at}");
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(members) => {
            let own = members.get("$ref").and_then(Value::as_str);
            let own = own.map(ToOwned::to_owned).into_iter();
            own.chain(members.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn the_page_shows_every_route_and_runs_nothing() {
    for (name, router) in services() {
        let request = Request::get("/docs")
            .body(Body::empty())
            .expect("a request");
        let answer = guard(router.clone()).oneshot(request).await;
        let answer = answer.expect("an answer");
        let policy = &answer.headers()[header::CONTENT_SECURITY_POLICY];
        let policy = policy.to_str().expect("a policy").to_owned();
        assert!(
            policy.starts_with("default-src 'none'; style-src 'self'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        let body = to_bytes(answer.into_body(), 10_000_000).await;
        let page = String::from_utf8(body.expect("a body").to_vec()).expect("text");
        for path in paths(&document(&router).await).keys() {
            let shown = page.contains(&format!("<code>{path}</code>"));
            assert!(shown, "{name}: {path} is not on the page");
        }
        for inline in [
            "<script",
            "<style",
            " style=",
            " onclick=",
            "javascript:",
            "http://",
        ] {
            assert!(!page.contains(inline), "{name}: {inline}");
        }
        for link in page.split("href=\"#").skip(1) {
            let target = link.split('"').next().expect("a target");
            let is_there = page.contains(&format!("id=\"{target}\""));
            assert!(is_there, "{name}: #{target} leads nowhere");
        }
    }
}

/// The database is away, so each is the page of a refusal: around it stands what stands around all.
#[tokio::test]
async fn a_browser_runs_nothing_of_a_page_but_what_is_served() {
    for inline in ["unsafe", "data:", "*", "http"] {
        assert!(!POLICY.contains(inline), "{inline}");
    }
    let (_, router) = services().swap_remove(0);
    let document = document(&router).await;
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            if operation["tags"][0] != "pages" || path.starts_with("/assets") {
                continue;
            }
            seen += 1;
            let request = Request::builder().method(method.to_uppercase().as_str());
            let request = request.uri(concrete(path)).body(Body::empty());
            let answer = guard(router.clone()).oneshot(request.expect("a request"));
            let answer = answer.await.expect("an answer");
            let headers = answer.headers();
            let at = format!("{method} {path}");
            assert_eq!(headers[header::CONTENT_SECURITY_POLICY], POLICY, "{at}");
            assert_eq!(headers[header::CACHE_CONTROL], "no-store", "{at}");
            let body = to_bytes(answer.into_body(), 10_000_000).await;
            let page = String::from_utf8(body.expect("a body").to_vec()).expect("text");
            for inline in ["<style", " style=", " onclick=", "javascript:"] {
                assert!(!page.contains(inline), "{at}: {inline}");
            }
            let scripts = page.matches("<script").count();
            assert_eq!(
                scripts,
                page.matches("<script src=\"/assets/").count(),
                "{at}"
            );
        }
    }
    assert!(seen > 18, "{seen} pages and forms");
}

#[tokio::test]
async fn every_kind_of_problem_has_its_section_and_the_reverse() {
    let common = chassis::http::Kind::ALL.iter();
    let mut kinds: BTreeMap<&str, (Vec<u16>, &str)> = common
        .map(|kind| (kind.slug, (vec![kind.status], kind.title)))
        .collect();
    for kind in saga::http::Kind::ALL {
        let of_sagas = (kind.statuses.to_vec(), kind.title);
        let known = kinds.entry(kind.slug).or_insert_with(|| of_sagas.clone());
        assert_eq!(*known, of_sagas, "{} means two things", kind.slug);
    }
    let sections = sections();
    let written: BTreeMap<&str, &str> = sections.iter().map(|s| (s.slug, s.summary)).collect();
    assert_eq!(written.len(), sections.len(), "a section is there twice");
    let expected = kinds.iter().map(|(slug, (statuses, title))| {
        let statuses: Vec<String> = statuses.iter().map(ToString::to_string).collect();
        (*slug, format!("{} · {title}", statuses.join(" or ")))
    });
    let expected: BTreeMap<&str, String> = expected.collect();
    let written = written
        .into_iter()
        .map(|(slug, summary)| (slug, summary.to_owned()));
    assert_eq!(written.collect::<BTreeMap<_, _>>(), expected);

    let (_, router) = services().remove(0);
    for section in sections {
        let (status, _, body) = ask(&router, "get", &format!("/problems/{}", section.slug)).await;
        assert_eq!(status, StatusCode::OK, "{}", section.slug);
        let page = String::from_utf8_lossy(&body).into_owned();
        assert!(
            page.contains(&section.summary.replace('\'', "&#39;")),
            "{}",
            section.slug
        );
    }
    let (status, _, _) = ask(&router, "get", "/problems/no-such-kind").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
