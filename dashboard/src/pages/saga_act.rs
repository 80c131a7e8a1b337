//! `POST /sagas/{id}/operations`: the buttons of a saga's page.

use askama::Template;
use axum::{
    Form,
    extract::{Path, State, rejection::FormRejection},
    http::HeaderMap,
    response::{IntoResponse, Redirect, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    api::{Commanded, Intervened, Refused, Visitor},
    house::Dashboard,
    pages::{
        filter::Filter,
        filters,
        frame::{refuse, refuse_part, show, wants_part},
        saga::path_of,
    },
};

const KNOWN: [&str; 9] = [
    "operation",
    "step",
    "reply",
    "to",
    "actor",
    "reason",
    "expected_seq",
    "key",
    "dry_run",
];

#[derive(Template)]
#[template(path = "outcome.html")]
struct OutcomePart {
    tone: &'static str,
    headline: String,
    events: Vec<Value>,
    commands: Vec<Commanded>,
}

pub(crate) type Pairs = Result<Form<Vec<(String, String)>>, FormRejection>;

/// Does something to a saga, as `POST /v1/sagas/{id}/operations`
#[utoipa::path(post, path = "/sagas/{id}/operations", tag = "pages", operation_id = "operate_form",
    params(("id" = Uuid, Path, description = "Which")),
    request_body(content_type = "application/x-www-form-urlencoded", content = String),
    responses(
        (status = 200, description = "What followed: a part of a page", content_type = "text/html",
            body = String),
        (status = 303, description = "Without a script: back to the page")))]
pub(crate) async fn operate(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    visitor: Visitor,
    headers: HeaderMap,
    form: Pairs,
) -> Response {
    let done = carry_out(&dashboard, &visitor, &id, form).await;
    match (done, wants_part(&headers)) {
        (Ok((intervened, dry_run)), true) => {
            let part = show(&outcome(intervened, dry_run));
            // The buttons are of yesterday now.
            ([("HX-Trigger", "changed")], part).into_response()
        }
        (Ok((intervened, true)), false) => show(&outcome(intervened, true)),
        (Ok(_), false) => Redirect::to(&format!("/sagas/{id}")).into_response(),
        (Err(refused), true) => refuse_part(refused),
        (Err(refused), false) => refuse(&dashboard, &visitor, refused),
    }
}

async fn carry_out(
    dashboard: &Dashboard,
    visitor: &Visitor,
    id: &str,
    form: Pairs,
) -> Result<(Intervened, bool), Refused> {
    let path = path_of(id)?;
    let Form(pairs) = form.map_err(|error| Refused::form(error.body_text()))?;
    let form = Filter::from_pairs(&pairs, &KNOWN);
    let dry_run = form.get("dry_run") == "true";
    let path = format!(
        "{path}/operations{}",
        if dry_run { "?dry_run=true" } else { "" }
    );
    let key = Some(form.get("key")).filter(|key| !key.is_empty());
    let body = body(&form)?;
    let intervened = dashboard.own().post(visitor, &path, key, &body).await?;
    Ok((intervened, dry_run))
}

/// As the API wants it: numbers are numbers there, and an answer is JSON.
fn body(form: &Filter) -> Result<Value, Refused> {
    let mut body = Map::new();
    for (name, value) in form.pairs() {
        let value = match name.as_str() {
            "key" | "dry_run" => continue,
            "to" | "expected_seq" => {
                let number: i64 = value
                    .parse()
                    .map_err(|_| Refused::form(format!("{name} is no whole number")))?;
                json!(number)
            }
            "reply" => serde_json::from_str(value)
                .map_err(|error| Refused::form(format!("the answer is not JSON: {error}")))?,
            _ => json!(value),
        };
        body.insert(name.clone(), value);
    }
    Ok(Value::Object(body))
}

fn outcome(intervened: Intervened, dry_run: bool) -> OutcomePart {
    let (seq, status) = (intervened.seq, &intervened.status);
    OutcomePart {
        tone: match dry_run {
            true => "calm",
            false => "good",
        },
        headline: match (dry_run, intervened.outcome.as_str()) {
            (true, _) => format!("This would happen; the saga would be {status} then:"),
            (false, "repeated") => "That was done before, and is not done again.".to_owned(),
            (false, _) => format!("Done. The saga is {status}, its last event is {seq}."),
        },
        events: intervened.events,
        commands: intervened.commands,
    }
}
