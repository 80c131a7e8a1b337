//! `/audit`: what people did, in every service.

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use uuid::Uuid;

use crate::{
    api::{Act, Audit, Visitor},
    house::Dashboard,
    pages::{
        each::{self, Group},
        filter::Filter,
        filters,
        frame::{Frame, show},
        parked,
    },
};

/// What `GET /v1/audit` is asked.
const ASKED: [&str; 5] = ["actor", "action", "subject", "since", "limit"];
const KNOWN: [&str; 7] = [
    "service", "cursor", "actor", "action", "subject", "since", "limit",
];
/// What there may be, to choose from. Others may be typed.
const ACTIONS: [&str; 19] = [
    "saga.pause",
    "saga.resume",
    "saga.cancel",
    "saga.retry",
    "saga.complete_step",
    "saga.skip_compensation",
    "saga.abandon",
    "saga.migrate",
    "bulk.create",
    "bulk.cancel",
    "parked.replay",
    "parked.discard",
    "relay.pause",
    "relay.resume",
    "log.replay",
    "log.rebase",
    "order.place",
    "saga.read",
    "parked.read",
];

#[derive(Template)]
#[template(path = "audit.html")]
struct Page {
    frame: Frame,
    filter: Filter,
    names: Vec<String>,
    actions: [&'static str; 19],
    groups: Vec<Group<Acts>>,
}

struct Acts {
    rows: Vec<Row>,
    next: Option<String>,
}

struct Row {
    act: Act,
    /// The page of what it was done to, if there is one.
    link: Option<String>,
}

/// What people did
///
/// In this service and its neighbours, the newest first; filtered as `GET /v1/audit`.
#[utoipa::path(get, path = "/audit", tag = "pages", operation_id = "audit_page",
    security(("bearer" = ["admin"])),
    params(
        ("service" = Option<String>, Query, description = "Only in that service"),
        ("actor" = Option<String>, Query, description = "As in GET /v1/audit, and so the other filters"),
        ("action" = Option<String>, Query, description = "Of that kind"),
        ("subject" = Option<String>, Query, description = "To that"),
        ("since" = Option<String>, Query, description = "At that moment or later"),
        ("cursor" = Option<String>, Query, description = "Of the link to older ones")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn page(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    let filter = Filter::of(query.as_deref(), &KNOWN);
    let groups = each::ask::<Audit>(&dashboard, &visitor, &filter, &ASKED, "/audit").await;
    let own = dashboard.own().name();
    let acts =
        |group: Group<Audit>| group.map(|service, audit| Acts::of(audit, &filter, service, own));
    let groups = groups.into_iter().map(acts).collect();
    show(&Page {
        frame: Frame::new(&dashboard, &visitor, "/audit"),
        names: each::names(&dashboard),
        actions: ACTIONS,
        groups,
        filter: filter.without(&["cursor"]),
    })
}

impl Acts {
    fn of(audit: Audit, filter: &Filter, service: &str, own: &str) -> Self {
        let row = |act: Act| Row {
            link: link(&act.subject, service, service == own),
            act,
        };
        let next = audit.next_cursor.map(|cursor| {
            let next = filter.with("service", service).with("cursor", &cursor);
            format!("/audit{}", next.after_path())
        });
        Self {
            rows: audit.items.into_iter().map(row).collect(),
            next,
        }
    }
}

/// The page of a subject. Whatever a row says, the link leads to a page of ours.
fn link(subject: &str, service: &str, is_own: bool) -> Option<String> {
    let (kind, id) = subject.split_once('/')?;
    match kind {
        "parked" => {
            parked::path_of(id).ok()?;
            Some(format!("/parked/{service}/{id}"))
        }
        // Only the service that steers them has these pages.
        "sagas" | "bulk-operations" if is_own => {
            let id: Uuid = id.parse().ok()?;
            Some(format!("/{kind}/{id}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use chassis::http::auth::Role;
    use serde_json::{Value, json};

    use crate::{
        house::Neighbour,
        pages::probe::{Fake, HOSTILE, Probe},
    };

    use super::*;

    fn act(id: i64, actor: &str, subject: &str) -> Value {
        json!({
            "id": id, "at": "2026-01-31T12:00:00Z", "actor": actor, "role": "admin",
            "action": "saga.cancel", "subject": subject, "reason": HOSTILE,
            "details": {"note": HOSTILE},
        })
    }

    async fn two_services(neighbour: &Fake) -> (Fake, Dashboard) {
        let own = Fake::new();
        let acts = [
            act(9, HOSTILE, "sagas/018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b"),
            act(7, "bob", HOSTILE),
        ];
        own.answers(
            "/v1/audit",
            200,
            json!({"items": acts, "next_cursor": "Nw"}),
        );
        let url = neighbour.serve().await.parse().unwrap();
        let neighbour = Neighbour {
            name: "payments".to_owned(),
            url,
        };
        let dashboard = Dashboard::new("orders", own.router());
        (own, dashboard.with_neighbour(neighbour))
    }

    #[tokio::test]
    async fn each_service_says_what_people_did_in_it_and_nothing_hostile_is_markup() {
        let neighbour = Fake::new();
        let there = json!({"items": [act(3, "ann", "parked/inbox-7")], "next_cursor": null});
        neighbour.answers("/v1/audit", 200, there);
        let (own, dashboard) = two_services(&neighbour).await;
        let probe = Probe::of(&dashboard);
        let page = probe.get("/audit?actor=a%20b&since=&x=y&cursor=Mw").await;
        let page = page.is(200);
        assert!(page.contains(r#"href="/sagas/018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b""#));
        assert!(page.contains(r#"href="/parked/payments/inbox-7""#));
        let (newer, older) = (page.find(">9<").unwrap(), page.find(">7<").unwrap());
        assert!(newer < older, "the newest first");
        assert_eq!(page.matches("window.hostile").count(), 16, "{page}");
        assert!(
            !page.contains("<script>") && !page.contains("<img src=x"),
            "{page}"
        );
        let older = r#"href="/audit?actor=a+b&#38;service=orders&#38;cursor=Nw" rel="next""#;
        assert!(page.contains(older), "{page}");
        assert_eq!(page.matches("rel=\"next\"").count(), 1, "{page}");
        // A place in both lists is a place in none.
        for asked in [own.last(), neighbour.last()] {
            assert_eq!(asked.uri, "/v1/audit?actor=a+b");
        }
    }

    #[tokio::test]
    async fn the_older_ones_are_of_one_service() {
        let neighbour = Fake::new();
        let (own, dashboard) = two_services(&neighbour).await;
        let page = "/audit?service=orders&action=saga.cancel&subject=s&since=2026-01-31T12:00:00Z&limit=2&cursor=Nw";
        let page = Probe::of(&dashboard).get(page).await.is(200);
        let asked = "/v1/audit?action=saga.cancel&subject=s&since=2026-01-31T12%3A00%3A00Z&limit=2&cursor=Nw";
        assert_eq!(own.last().uri, asked);
        assert_eq!(neighbour.asked().len(), 0, "it was not asked");
        assert!(!page.contains("of-payments"), "{page}");
        assert!(
            page.contains(r#"value="saga.cancel""#),
            "the filter is shown"
        );
    }

    #[tokio::test]
    async fn a_service_that_says_too_much_is_not_heard_to_its_end() {
        let neighbour = Fake::new();
        let mut endless = act(3, "ann", "outbox");
        endless["reason"] = "x".repeat(17 * 1024 * 1024).into();
        let there = json!({"items": [endless], "next_cursor": null});
        neighbour.answers("/v1/audit", 200, there);
        let (_, dashboard) = two_services(&neighbour).await;
        let page = Probe::of(&dashboard).get("/audit").await.is(200);
        assert!(page.contains("The answer is too long"), "it was read");
        assert!(page.contains(">9<"), "the others are shown");
    }

    #[tokio::test]
    async fn a_service_that_refuses_says_so_in_its_place() {
        let neighbour = Fake::new();
        let no = json!({"title": "Forbidden", "detail": "viewer may not do that"});
        neighbour.answers("/v1/audit", 403, no);
        let (_, dashboard) = two_services(&neighbour).await;
        let page = Probe::of(&dashboard).get("/audit").await.is(200);
        assert!(page.contains("<strong>Forbidden.</strong> viewer may not do that"));
        assert!(page.contains(">9<"), "the rest is there");
    }

    #[tokio::test]
    async fn only_who_may_read_it_is_led_there() {
        let own = Fake::new();
        own.answers("/v1/definitions", 200, json!({"items": []}));
        let dashboard = Dashboard::new("orders", own.router());
        for (role, is_led) in [
            (Role::Viewer, false),
            (Role::Operator, false),
            (Role::Admin, true),
        ] {
            let page = Probe::of(&dashboard)
                .by(role)
                .get("/definitions")
                .await
                .is(200);
            assert_eq!(page.contains(r#"href="/audit""#), is_led, "{role}");
        }
    }

    #[test]
    fn a_subject_links_to_its_page_and_a_hostile_one_to_none() {
        let id = "018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b";
        let of = |subject: &str| link(subject, "shop", true);
        for kind in ["sagas", "bulk-operations"] {
            let subject = format!("{kind}/{id}");
            assert_eq!(of(&subject), Some(format!("/{subject}")));
            assert_eq!(link(&subject, "shop", false), None, "{subject} elsewhere");
        }
        let parked = link("parked/outbox-12", "payments", false);
        assert_eq!(parked.as_deref(), Some("/parked/payments/outbox-12"));
        for none in [
            "outbox",
            "parked",
            "orders/1",
            "sagas/1",
            "sagas/../login",
            "parked/../login",
            "parked/a?b",
            "parked/",
            "//evil",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
