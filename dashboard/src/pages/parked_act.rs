//! `POST /parked/replay` and `POST /parked/discard`: many at once, counted before if one likes.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use askama::Template;
use axum::{
    Form,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Redirect, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    api::{Api, Asked, ParkedList, Refused, Visitor},
    house::Dashboard,
    pages::{
        filter::Filter,
        frame::{refuse, refuse_part, show, wants_part},
        parked::{ASKED, path_of, unknown},
        saga_act::Pairs,
    },
};

/// How many messages one press of a button may concern: what fits into a request's time.
const MOST: usize = 1_000;
/// When no further message is begun with: the answer must be there before the request's time is over.
const ENOUGH: Duration = Duration::from_secs(15);
/// How many refusals are told.
const TOLD: usize = 20;
const KNOWN: [&str; 10] = [
    "service", "all", "actor", "reason", "dry_run", "class", "topic", "key", "consumer", "side",
];

#[derive(Template)]
#[template(path = "asked.html")]
struct AskedPart {
    tone: &'static str,
    headline: String,
    refused: Vec<(String, String)>,
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Replay,
    Discard,
}

/// What became of those that were chosen.
#[derive(Debug, Default)]
struct Tally {
    done: usize,
    followers: i64,
    gone: usize,
    before: usize,
    refused: Vec<(String, String)>,
    more: bool,
    /// What ended it before all were asked for.
    stopped: Option<String>,
}

/// Asks that parked messages be sent or handled again, as `POST /v1/parked/{id}/replay`
#[utoipa::path(post, path = "/parked/replay", tag = "pages", operation_id = "replay_form",
    request_body(content_type = "application/x-www-form-urlencoded", content = String),
    responses((status = 200, description = "What came of it: a part of a page",
        content_type = "text/html", body = String)))]
pub(crate) async fn replay(
    State(dashboard): State<Dashboard>,
    visitor: Visitor,
    headers: HeaderMap,
    form: Pairs,
) -> Response {
    act(&dashboard, &visitor, &headers, form, Act::Replay).await
}

/// Gives parked messages up, as `POST /v1/parked/{id}/discard`
#[utoipa::path(post, path = "/parked/discard", tag = "pages", operation_id = "discard_form",
    security(("bearer" = ["admin"])),
    request_body(content_type = "application/x-www-form-urlencoded", content = String),
    responses((status = 200, description = "What came of it: a part of a page",
        content_type = "text/html", body = String)))]
pub(crate) async fn discard(
    State(dashboard): State<Dashboard>,
    visitor: Visitor,
    headers: HeaderMap,
    form: Pairs,
) -> Response {
    act(&dashboard, &visitor, &headers, form, Act::Discard).await
}

async fn act(
    dashboard: &Dashboard,
    visitor: &Visitor,
    headers: &HeaderMap,
    form: Pairs,
    act: Act,
) -> Response {
    let told = carry_out(dashboard, visitor, form, act).await;
    match (told, wants_part(headers)) {
        (Ok(part), true) => show(&part),
        (Ok(part), false) if part.dry_run => show(&part),
        (Ok(_), false) => Redirect::to("/parked").into_response(),
        (Err(refused), true) => refuse_part(refused),
        (Err(refused), false) => refuse(dashboard, visitor, refused),
    }
}

async fn carry_out(
    dashboard: &Dashboard,
    visitor: &Visitor,
    form: Pairs,
    act: Act,
) -> Result<AskedPart, Refused> {
    let Form(pairs) = form.map_err(|error| Refused::form(error.body_text()))?;
    let form = Filter::from_pairs(&pairs, &KNOWN);
    let dry_run = form.get("dry_run") == "true";
    let api = dashboard.service(form.get("service"));
    let api = api.ok_or_else(|| unknown("service"))?;
    let mut tally = Tally::default();
    let mut ids = match form.get("all") {
        "true" => everything(api, visitor, &form, act, &mut tally).await?,
        _ => {
            let chosen = pairs.iter().filter(|pair| pair.0 == "id");
            let chosen: Vec<_> = chosen.map(|pair| pair.1.clone()).collect();
            tally.more = chosen.len() > MOST;
            chosen.into_iter().take(MOST).collect()
        }
    };
    if ids.is_empty() {
        return Err(Refused::form("choose the messages first, or all of them"));
    }
    if act == Act::Discard {
        // Of some of them the last would be left, and sent or handled as soon as the first is gone.
        if tally.more {
            return Err(Refused::form(format!(
                "these are more than {MOST}: choose fewer, by key for example, or use recompense \
                 outbox parked discard and recompense inbox parked discard, which have no such limit"
            )));
        }
        // And whoever goes before those that wait behind him has them sent or handled.
        ids.sort_by_key(|id| Reverse(number(id)));
    }
    let body = body(&form, visitor, dry_run);
    let begun = Instant::now();
    let all = ids.len();
    for (place, id) in ids.into_iter().enumerate() {
        if begun.elapsed() > ENOUGH {
            let left = all - place;
            tally.stopped = Some(format!(
                "It took too long: {left} were not asked for; press again."
            ));
            break;
        }
        match ask(api, visitor, &id, act, dry_run, &body, &mut tally).await {
            Ok(()) => {}
            Err(refused) if place == 0 => return Err(refused),
            // What was done is done, and must be told.
            Err(refused) => {
                let Refused { title, detail, .. } = refused;
                let left = all - place;
                tally.stopped = Some(format!("{title}: {detail}; {left} were not asked for."));
                break;
            }
        }
    }
    Ok(tally.told(act, dry_run))
}

/// A message's place among those of its side: the later it came, the higher.
fn number(id: &str) -> i64 {
    let number = id.rsplit('-').next();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Who and why. What would happen may be asked without either. Where the visitor is known he is
/// named too: a neighbour may not ask.
fn body(form: &Filter, visitor: &Visitor, dry_run: bool) -> Value {
    let known = visitor.name().unwrap_or_default();
    let mut body = Map::new();
    for (name, instead) in [("actor", known.as_str()), ("reason", "")] {
        let value = match (form.get(name), instead) {
            ("", "") if dry_run => "to see what would happen",
            ("", instead) => instead,
            (value, _) => value,
        };
        if !value.is_empty() {
            body.insert(name.to_owned(), json!(value));
        }
    }
    Value::Object(body)
}

/// Every message the filter selects, up to the most that fit. Those that wait behind another
/// come by themselves when that one is replayed.
async fn everything(
    api: &Api,
    visitor: &Visitor,
    form: &Filter,
    act: Act,
    tally: &mut Tally,
) -> Result<Vec<String>, Refused> {
    let mut ids = Vec::new();
    let mut asked = form.only(&ASKED).with("limit", "200");
    loop {
        let path = format!("/parked{}", asked.after_path());
        let page: ParkedList = api.get(visitor, &path).await?;
        for parked in page.items {
            if act == Act::Replay && parked.class == "blocked" {
                continue;
            }
            if ids.len() == MOST {
                tally.more = true;
                return Ok(ids);
            }
            ids.push(parked.id);
        }
        match page.next_cursor {
            Some(cursor) => asked = asked.with("cursor", &cursor),
            None => return Ok(ids),
        }
    }
}

async fn ask(
    api: &Api,
    visitor: &Visitor,
    id: &str,
    act: Act,
    dry_run: bool,
    body: &Value,
    tally: &mut Tally,
) -> Result<(), Refused> {
    let verb = match act {
        Act::Replay => "replay",
        Act::Discard => "discard",
    };
    let dry = if dry_run { "?dry_run=true" } else { "" };
    let path = format!("{}/{verb}{dry}", path_of(id)?);
    match api.post::<Asked>(visitor, &path, None, body).await {
        Ok(asked) => {
            match asked.outcome.as_str() {
                "not_parked" => tally.gone += 1,
                "already_requested" => tally.before += 1,
                _ => tally.done += 1,
            }
            tally.followers += asked.followers;
            Ok(())
        }
        // Of this one message; the others may go.
        Err(refused) if refused.status == 409 => {
            tally.refused.push((id.to_owned(), refused.detail));
            Ok(())
        }
        Err(refused) => Err(refused),
    }
}

impl Tally {
    fn told(self, act: Act, dry_run: bool) -> AskedPart {
        let what = match (act, dry_run) {
            (Act::Replay, true) => "would be replayed",
            (Act::Replay, false) => "will be replayed within a second",
            (Act::Discard, true) => "would be discarded",
            (Act::Discard, false) => "were discarded",
        };
        let mut told = vec![format!("{} messages {what}", self.done)];
        if self.followers > 0 {
            told.push(format!(
                "{} more that wait behind them come next",
                self.followers
            ));
        }
        if self.before > 0 {
            told.push(format!("{} were asked for before", self.before));
        }
        if self.gone > 0 {
            told.push(format!("{} are no longer parked", self.gone));
        }
        if !self.refused.is_empty() {
            told.push(format!("{} cannot be now", self.refused.len()));
        }
        let rest = match self.more {
            true => format!(" There are more than {MOST}: press again for the rest."),
            false => String::new(),
        };
        AskedPart {
            tone: match (self.refused.is_empty() && self.stopped.is_none(), dry_run) {
                (false, _) => "alarm",
                (true, true) => "calm",
                (true, false) => "good",
            },
            headline: match self.stopped {
                Some(stopped) => format!("{}. {stopped}", told.join(", ")),
                None => format!("{}.{rest}", told.join(", ")),
            },
            refused: self.refused.into_iter().take(TOLD).collect(),
            dry_run,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::pages::probe::{Fake, Probe};

    use super::*;

    #[tokio::test]
    async fn what_waits_behind_a_message_is_discarded_before_it_and_never_replayed_by_itself() {
        let api = Fake::new();
        let parked = |id: &str, class: &str| {
            json!({
                "id": id, "class": class, "topic": "t", "key": "k", "kind": null, "consumer": null,
                "partition": null, "offset": null, "message_id": "018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b",
                "parked_at": "2026-01-31T12:00:00Z", "parked_seconds": 1.0, "attempts": 1,
                "reason": "r", "replay": null,
            })
        };
        let items = [
            parked("outbox-1", "poison"),
            parked("outbox-2", "blocked"),
            parked("outbox-3", "blocked"),
        ];
        let list = json!({"items": items, "next_cursor": null, "total": 3});
        api.answers("/v1/parked", 200, list);
        for id in [1, 2, 3] {
            for (verb, outcome) in [("replay", "requested"), ("discard", "discarded")] {
                let answer = json!({"outcome": outcome, "followers": 0});
                api.answers(&format!("/v1/parked/outbox-{id}/{verb}"), 200, answer);
            }
        }
        let dashboard = Dashboard::new("orders", api.router());
        let probe = Probe::of(&dashboard).with_script();
        let who = [("service", "orders"), ("actor", "ann"), ("reason", "r")];
        let all = [&who[..], &[("all", "true")]].concat();
        let chosen = [&who[..], &[("id", "outbox-1"), ("id", "outbox-2")]].concat();
        for (verb, form, expected) in [
            ("discard", &all, &["outbox-3", "outbox-2", "outbox-1"][..]),
            ("discard", &chosen, &["outbox-2", "outbox-1"]),
            ("replay", &all, &["outbox-1"]),
        ] {
            let before = api.asked().len();
            let told = probe.post(&format!("/parked/{verb}"), form).await.is(200);
            assert!(
                told.contains(&format!("{} messages", expected.len())),
                "{told}"
            );
            let asked = api.asked().split_off(before).into_iter();
            let asked = asked.filter_map(|asked| {
                let place = asked.uri.strip_prefix("/v1/parked/")?;
                Some(place.split('/').next()?.to_owned())
            });
            assert_eq!(asked.collect::<Vec<_>>(), expected, "{verb}");
        }
    }
}
