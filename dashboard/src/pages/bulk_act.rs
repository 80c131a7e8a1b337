//! `/bulk-operations/new` and `POST /bulk-operations`: something for all the sagas of a filter, counted
//! first; and `POST /bulk-operations/{id}/cancel`.

use askama::Template;
use axum::{
    Form,
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    api::{Bulk, Expected, Refused, Visitor},
    house::Dashboard,
    pages::{
        bulk::path_of,
        filter::Filter,
        filters,
        frame::{Frame, lead, refuse, refuse_part, show, wants_part},
        saga::described,
        saga_act::Pairs,
        sagas::SELECTION,
    },
    words,
};

/// What is to happen, with what belongs to it.
const WHAT: [&str; 8] = [
    "operation",
    "step",
    "reply",
    "to",
    "actor",
    "reason",
    "per_second",
    "allow_changed",
];
const OPERATIONS: [&str; 8] = [
    "retry",
    "pause",
    "resume",
    "cancel",
    "complete_step",
    "skip_compensation",
    "abandon",
    "migrate",
];

#[derive(Template)]
#[template(path = "bulk_new.html")]
struct NewPage {
    frame: Frame,
    filter: Filter,
    operations: [(&'static str, &'static str, &'static str); 8],
    actor: Option<String>,
}

/// What would happen, and a form that makes it happen.
#[derive(Template)]
#[template(path = "bulk_counted.html")]
struct CountedPart {
    expected: Expected,
    label: &'static str,
    takes: String,
    reason: String,
    /// All that was said, to be said again.
    pairs: Vec<(String, String)>,
    key: String,
}

#[derive(Template)]
#[template(path = "bulk_counted_page.html")]
struct CountedPage {
    frame: Frame,
    counted: CountedPart,
}

enum Asked {
    Counted(CountedPart),
    Started(Bulk),
}

/// Something for all the sagas of a filter
///
/// Takes the filters of `GET /v1/sagas`.
#[utoipa::path(get, path = "/bulk-operations/new", tag = "pages", operation_id = "bulk_operation_form_page",
    params(
        ("status" = Option<String>, Query, description = "As in GET /v1/sagas, and so the other filters"),
        ("definition" = Option<String>, Query, description = "Of that definition"),
        ("waiting_for" = Option<String>, Query, description = "That wait for that")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn form(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    show(&NewPage {
        frame: Frame::new(&dashboard, &visitor, "/bulk-operations"),
        filter: Filter::of(query.as_deref(), &SELECTION),
        operations: OPERATIONS.map(|name| {
            let (label, about) = described(name);
            (name, label, about)
        }),
        actor: visitor.name(),
    })
}

/// Counts the sagas that something would be done to, or begins to do it, as `POST /v1/bulk-operations`
///
/// It begins only for the number of sagas that was counted.
#[utoipa::path(post, path = "/bulk-operations", tag = "pages", operation_id = "bulk_operation_form",
    security(("bearer" = ["admin"])),
    request_body(content_type = "application/x-www-form-urlencoded", content = String),
    responses(
        (status = 200, description = "What would happen: a part of a page",
            content_type = "text/html", body = String),
        (status = 303, description = "It has begun: to its page")))]
pub(crate) async fn ask(
    State(dashboard): State<Dashboard>,
    visitor: Visitor,
    headers: HeaderMap,
    form: Pairs,
) -> Response {
    match (
        carry_out(&dashboard, &visitor, form).await,
        wants_part(&headers),
    ) {
        (Ok(Asked::Started(bulk)), _) => lead(&headers, &format!("/bulk-operations/{}", bulk.id)),
        (Ok(Asked::Counted(counted)), true) => show(&counted),
        (Ok(Asked::Counted(counted)), false) => show(&CountedPage {
            frame: Frame::new(&dashboard, &visitor, "/bulk-operations"),
            counted,
        }),
        (Err(refused), true) => refuse_part(refused),
        (Err(refused), false) => refuse(&dashboard, &visitor, refused),
    }
}

/// Stops a bulk operation, as `POST /v1/bulk-operations/{id}/cancel`
#[utoipa::path(post, path = "/bulk-operations/{id}/cancel", tag = "pages",
    operation_id = "cancel_bulk_operation_form", security(("bearer" = ["admin"])),
    params(("id" = Uuid, Path, description = "Which")),
    request_body(content_type = "application/x-www-form-urlencoded", content = String),
    responses((status = 303, description = "Back to its page")))]
pub(crate) async fn cancel(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    visitor: Visitor,
    headers: HeaderMap,
    form: Pairs,
) -> Response {
    match (
        stop(&dashboard, &visitor, &id, form).await,
        wants_part(&headers),
    ) {
        (Ok(path), _) => lead(&headers, &path),
        (Err(refused), true) => refuse_part(refused),
        (Err(refused), false) => refuse(&dashboard, &visitor, refused),
    }
}

async fn carry_out(
    dashboard: &Dashboard,
    visitor: &Visitor,
    form: Pairs,
) -> Result<Asked, Refused> {
    let Form(pairs) = form.map_err(|error| Refused::form(error.body_text()))?;
    let said = [&SELECTION[..], &WHAT, &["all"]].concat();
    let said = Filter::from_pairs(&pairs, &said);
    let how = Filter::from_pairs(&pairs, &["dry_run", "expected_count", "key"]);
    let mut body = body(&said)?;
    let api = dashboard.own();
    if how.is("dry_run", "true") {
        let path = "/bulk-operations?dry_run=true";
        let expected: Expected = api.post(visitor, path, None, &body).await?;
        return Ok(Asked::Counted(CountedPart::of(expected, &said)));
    }
    if how.get("expected_count").is_empty() {
        return Err(Refused::form("count the sagas first"));
    }
    body["expected_count"] = number(&how, "expected_count")?;
    let key = Some(how.get("key")).filter(|key| !key.is_empty());
    let started = api.post(visitor, "/bulk-operations", key, &body).await?;
    Ok(Asked::Started(started))
}

async fn stop(
    dashboard: &Dashboard,
    visitor: &Visitor,
    id: &str,
    form: Pairs,
) -> Result<String, Refused> {
    let path = path_of(id)?;
    let Form(pairs) = form.map_err(|error| Refused::form(error.body_text()))?;
    let said = Filter::from_pairs(&pairs, &["actor", "reason"]);
    let body = Value::Object(texts(&said));
    let api = dashboard.own();
    let cancel = format!("{path}/cancel");
    let _: Bulk = api.post(visitor, &cancel, None, &body).await?;
    Ok(path)
}

/// As the API wants it. Every saga is meant only where that is said, never because no filter came along.
fn body(said: &Filter) -> Result<Value, Refused> {
    let mut selection = texts(&said.only(&SELECTION));
    if said.is("all", "true") {
        selection.insert("all".to_owned(), json!(true));
    }
    let mut body = Map::new();
    for (name, value) in said.only(&WHAT).pairs() {
        let value = match name.as_str() {
            "to" | "per_second" => number(said, name)?,
            "allow_changed" => json!(value == "true"),
            "reply" => serde_json::from_str(value)
                .map_err(|error| Refused::form(format!("the answer is not JSON: {error}")))?,
            _ => json!(value),
        };
        body.insert(name.clone(), value);
    }
    body.insert("selection".to_owned(), Value::Object(selection));
    Ok(Value::Object(body))
}

fn texts(form: &Filter) -> Map<String, Value> {
    let pairs = form.pairs().iter();
    pairs
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect()
}

fn number(form: &Filter, name: &str) -> Result<Value, Refused> {
    let number: i64 = form
        .get(name)
        .parse()
        .map_err(|_| Refused::form(format!("{name} is no whole number")))?;
    Ok(json!(number))
}

impl CountedPart {
    fn of(expected: Expected, said: &Filter) -> Self {
        let per_second: f64 = said.get("per_second").parse().unwrap_or(10.0);
        Self {
            takes: words::length(expected.count as f64 / per_second.max(1.0)),
            label: described(said.get("operation")).0,
            reason: said.get("reason").to_owned(),
            pairs: said.pairs().to_vec(),
            key: Uuid::now_v7().to_string(),
            expected,
        }
    }

    /// Of those that were looked at.
    fn refused(&self) -> usize {
        let sample = self.expected.sample.iter();
        sample.filter(|one| !one.allowed).count()
    }
}

#[cfg(test)]
mod tests {
    use chassis::http::auth::Role;

    use crate::pages::probe::{Fake, HOSTILE, Probe};

    use super::*;

    const ID: &str = "018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b";
    const FORM: [(&str, &str); 8] = [
        ("status", "parked"),
        ("tag", HOSTILE),
        ("operation", "retry"),
        ("step", ""),
        ("actor", "ann"),
        ("reason", HOSTILE),
        ("per_second", "20"),
        ("allow_changed", "true"),
    ];

    fn bulk(status: &str) -> Value {
        json!({
            "id": ID, "operation": "retry", "status": status, "selection": {"tag": HOSTILE},
            "actor": HOSTILE, "reason": HOSTILE, "per_second": 20, "allow_changed": false,
            "created_at": "2026-01-31T12:00:00Z", "ended_at": null, "cancelled_by": null,
            "cancel_reason": null,
            "sagas": {"total": 9, "pending": 4, "done": 2, "refused": 1, "changed": 1, "gone": 0, "failed": 1},
        })
    }

    fn api() -> (Fake, Dashboard) {
        let api = Fake::new();
        let sample = [
            json!({"saga_id": ID, "allowed": true}),
            json!({"saga_id": ID, "allowed": false, "because": HOSTILE}),
        ];
        let expected = json!({"count": 1234, "sample": sample});
        api.answers("/v1/bulk-operations?dry_run=true", 200, expected);
        api.answers("/v1/bulk-operations", 202, bulk("running"));
        let dashboard = Dashboard::new("orders", api.router());
        (api, dashboard)
    }

    fn is_inert(page: &str) {
        assert!(page.contains("window.hostile"), "it is there: {page}");
        assert!(!page.contains("<script>"), "{page}");
        assert!(!page.contains("<img src=x"), "{page}");
    }

    /// What the form in a page would send.
    fn hidden(page: &str) -> Vec<(String, String)> {
        let inputs = page.split("<input type=\"hidden\" ").skip(1);
        let part = |input: &str, name: &str| {
            let rest = input.split(&format!("{name}=\"")).nth(1).unwrap();
            let text = rest.split('"').next().unwrap();
            let text = text.replace("&#34;", "\"").replace("&#60;", "<");
            text.replace("&#62;", ">").replace("&#38;", "&")
        };
        inputs
            .map(|input| (part(input, "name"), part(input, "value")))
            .collect()
    }

    #[tokio::test]
    async fn what_is_started_is_what_was_counted() {
        let (api, dashboard) = api();
        let probe = Probe::of(&dashboard).with_script();
        let count = [&FORM[..], &[("dry_run", "true"), ("limit", "5")]].concat();
        let counted = probe.post("/bulk-operations", &count).await.is(200);
        let mut body = json!({
            "operation": "retry", "actor": "ann", "reason": HOSTILE, "per_second": 20,
            "allow_changed": true, "selection": {"status": "parked", "tag": HOSTILE},
        });
        assert_eq!(api.last().body, body);
        assert_eq!(api.last().key, None);
        is_inert(&counted);
        for told in [
            "1\u{202f}234 sagas",
            "takes 62 s or longer",
            "1 would be refused now",
        ] {
            assert!(counted.contains(told), "{told}: {counted}");
        }
        // And what the part of the page sends starts just that.
        let form = hidden(&counted);
        let form: Vec<_> = form.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let started = probe.post("/bulk-operations", &form).await;
        let place = format!("/bulk-operations/{ID}");
        assert_eq!(
            (started.status, started.header("HX-Redirect")),
            (200, &*place)
        );
        body["expected_count"] = json!(1234);
        let asked = api.last();
        assert_eq!(
            (asked.uri.as_str(), &asked.body),
            ("/v1/bulk-operations", &body)
        );
        let key = form.iter().find(|(name, _)| *name == "key").unwrap().1;
        assert_eq!(asked.key.as_deref(), Some(key));
        assert!(key.parse::<Uuid>().is_ok());
        // Without a script a browser goes there by itself.
        let started = Probe::of(&dashboard).post("/bulk-operations", &form).await;
        assert_eq!((started.status, started.header("Location")), (303, &*place));
        let counted = Probe::of(&dashboard).post("/bulk-operations", &count).await;
        assert!(counted.is(200).contains("<html"), "a whole page");
    }

    #[tokio::test]
    async fn nothing_is_started_that_was_not_counted_or_has_changed() {
        let (api, dashboard) = api();
        let probe = Probe::of(&dashboard);
        let page = probe.post("/bulk-operations", &FORM).await.is(422);
        assert!(page.contains("count the sagas first"), "{page}");
        assert_eq!(api.asked().len(), 0, "the API was not asked");
        let no = json!({"title": "It has changed", "detail": "3 sagas are selected now, not 2"});
        api.answers("/v1/bulk-operations", 409, no);
        let start = [&FORM[..], &[("expected_count", "2"), ("key", "k")]].concat();
        let page = probe.post("/bulk-operations", &start).await.is(409);
        assert!(page.contains("3 sagas are selected now, not 2"), "{page}");
        let probe = Probe::of(&dashboard).with_script();
        let part = probe.post("/bulk-operations", &start).await.is(409);
        assert!(
            part.contains("3 sagas are selected now") && !part.contains("<html"),
            "{part}"
        );
    }

    #[tokio::test]
    async fn every_saga_is_meant_only_where_that_is_said() {
        let (api, dashboard) = api();
        let probe = Probe::of(&dashboard);
        let form = [("operation", "pause"), ("reason", "r"), ("dry_run", "true")];
        for (all, selection) in [
            (&[][..], json!({})),
            (&[("all", "true")], json!({"all": true})),
        ] {
            let form = [&form[..], all].concat();
            probe.post("/bulk-operations", &form).await.is(200);
            assert_eq!(api.last().body["selection"], selection);
        }
        let page = probe.get("/bulk-operations/new").await.is(200);
        assert!(page.contains("<strong>every saga</strong>"), "{page}");
        assert_eq!(hidden(&page), [("all".to_owned(), "true".to_owned())]);
        let query =
            "tag=%22%3E%3Cscript%3Ewindow.hostile%3D1%3C/script%3E&status=parked&limit=5&cursor=x";
        let page = probe.get(&format!("/bulk-operations/new?{query}")).await;
        let page = page.is(200);
        is_inert(&page);
        let names: Vec<_> = hidden(&page).into_iter().map(|pair| pair.0).collect();
        assert_eq!(names, ["tag", "status"]);
    }

    #[tokio::test]
    async fn numbers_and_answers_that_are_none_are_told_before_the_api_is_asked() {
        let (api, dashboard) = api();
        let probe = Probe::of(&dashboard);
        for (name, value, told) in [
            ("per_second", "many", "per_second is no whole number"),
            ("to", "two", "to is no whole number"),
            ("reply", "{", "the answer is not JSON"),
        ] {
            let form = [("operation", "retry"), ("dry_run", "true"), (name, value)];
            let page = probe.post("/bulk-operations", &form).await.is(422);
            assert!(page.contains(told), "{page}");
        }
        assert_eq!(api.asked().len(), 0);
    }

    #[tokio::test]
    async fn one_that_runs_is_looked_at_again_until_it_has_ended_and_only_an_admin_may_stop_it() {
        let (api, dashboard) = api();
        let place = format!("/bulk-operations/{ID}");
        let items = [
            json!({"position": 1, "saga_id": ID, "expected_seq": 2, "result": "failed",
                "detail": HOSTILE, "failures": 8, "done_at": "2026-01-31T12:00:00Z"}),
            json!({"position": 2, "saga_id": ID, "expected_seq": 2, "result": null,
                "detail": null, "failures": 0, "done_at": null}),
        ];
        let items = json!({"items": items, "next_after": 2});
        api.answers(&format!("/v1{place}/items"), 200, items);
        api.answers(&format!("/v1{place}"), 200, bulk("running"));
        for (role, may) in [
            (Role::Viewer, false),
            (Role::Operator, false),
            (Role::Admin, true),
        ] {
            let probe = Probe::of(&dashboard).by(role);
            let page = probe
                .get(&format!("{place}?result=failed&x=y"))
                .await
                .is(200);
            is_inert(&page);
            assert_eq!(page.contains("Stop it"), may, "{role}");
            let again = format!("hx-get=\"{place}/progress?result=failed\" hx-trigger=\"every ");
            assert!(page.contains(&again), "{page}");
            for told in [
                "5 of 9 have had their turn",
                "value=\"5\"",
                "failed 8 times",
            ] {
                assert!(page.contains(told), "{told}: {page}");
            }
            let more = format!("href=\"{place}?result=failed&#38;after=2\"");
            assert!(page.contains(&more), "{page}");
            let new = probe.get("/bulk-operations/new").await.is(200);
            assert_eq!(new.contains("Count first"), may, "{role}");
        }
        let asked = api.asked().into_iter().map(|asked| asked.uri);
        let items = asked
            .filter(|uri| uri.contains("/items"))
            .collect::<Vec<_>>();
        assert_eq!(items, vec![format!("/v1{place}/items?result=failed"); 3]);
        api.answers(&format!("/v1{place}"), 200, bulk("done"));
        let probe = Probe::of(&dashboard).with_script();
        let part = probe.get(&format!("{place}/progress")).await.is(200);
        assert!(
            !part.contains("hx-get") && !part.contains("Stop it"),
            "{part}"
        );
        let none = probe.get("/bulk-operations/..%2Fsagas").await.is(404);
        assert!(none.contains("no such bulk operation"), "{none}");
    }

    #[tokio::test]
    async fn who_stops_one_says_why_and_comes_back_to_it() {
        let (api, dashboard) = api();
        let place = format!("/bulk-operations/{ID}");
        api.answers(&format!("/v1{place}/cancel"), 200, bulk("cancelled"));
        let form = [("actor", "ann"), ("reason", "enough"), ("x", "y")];
        let probe = Probe::of(&dashboard);
        let stopped = probe.post(&format!("{place}/cancel"), &form).await;
        assert_eq!((stopped.status, stopped.header("Location")), (303, &*place));
        let said = json!({"actor": "ann", "reason": "enough"});
        assert_eq!(api.last().body, said);
    }

    #[tokio::test]
    async fn the_list_shows_how_far_each_is() {
        let (api, dashboard) = api();
        api.answers(
            "/v1/bulk-operations",
            200,
            json!({"items": [bulk("running")]}),
        );
        let page = Probe::of(&dashboard).get("/bulk-operations").await.is(200);
        is_inert(&page);
        for told in [
            "retry 9 sagas",
            "max=\"9\" value=\"5\"",
            "<span class=\"badge alarm\">3</span>",
        ] {
            assert!(page.contains(told), "{told}: {page}");
        }
        let rows = Probe::of(&dashboard)
            .get("/bulk-operations/rows")
            .await
            .is(200);
        assert!(
            rows.contains("retry 9 sagas") && !rows.contains("<html"),
            "{rows}"
        );
    }
}
