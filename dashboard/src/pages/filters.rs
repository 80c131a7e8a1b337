//! What templates do with values.

#![expect(
    unreachable_pub,
    reason = "askama makes each filter a type with public functions"
)]

use std::fmt::Display;

use askama::Values;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{api::Counted, words};

type Told = askama::Result<String>;

#[askama::filter_fn]
pub(crate) fn iso(at: &DateTime<Utc>, _: &dyn Values) -> Told {
    Ok(words::iso(at))
}

#[askama::filter_fn]
pub(crate) fn length(seconds: &f64, _: &dyn Values) -> Told {
    Ok(words::length(*seconds))
}

#[askama::filter_fn]
pub(crate) fn grouped(number: &i64, _: &dyn Values) -> Told {
    Ok(words::grouped(number))
}

#[askama::filter_fn]
pub(crate) fn counted(counted: &Counted, _: &dyn Values) -> Told {
    Ok(words::counted(counted))
}

#[askama::filter_fn]
pub(crate) fn tone(status: impl Display, _: &dyn Values) -> askama::Result<&'static str> {
    Ok(words::tone(&status.to_string()))
}

/// A word of JSON without its quotes; nothing if there is none.
#[askama::filter_fn]
pub(crate) fn word(value: &Value, _: &dyn Values) -> Told {
    Ok(value.as_str().unwrap_or_default().replace('_', " "))
}

/// For people, on several lines.
#[askama::filter_fn]
pub(crate) fn pretty(value: &Value, _: &dyn Values) -> Told {
    Ok(serde_json::to_string_pretty(value).unwrap_or_default())
}

/// What an event says beside its kind and step.
#[askama::filter_fn]
pub(crate) fn gist(event: &Value, _: &dyn Values) -> Told {
    let text = |name: &str| event[name].as_str().map(str::to_owned);
    let refusal = event["refusal"]["message"].as_str().map(str::to_owned);
    let attempt = event["attempt"]
        .as_i64()
        .map(|attempt| format!("attempt {attempt}"));
    let backwards = (event["phase"] == "compensation").then(|| "undo".to_owned());
    let who = text("actor").map(|actor| format!("by {actor}"));
    let said = [
        backwards,
        attempt,
        who,
        text("operation"),
        refusal,
        text("reason"),
        text("unreadable"),
    ];
    Ok(said.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// Bytes as the API shows them: text, or hexadecimal where they are none.
#[askama::filter_fn]
pub(crate) fn bytes(payload: &Option<Value>, _: &dyn Values) -> Told {
    let Some(payload) = payload else {
        return Ok(String::new());
    };
    let text = payload["text"].as_str();
    // JSON is easier to read with its lines.
    let json = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let json = json.filter(|json| json.is_object() || json.is_array());
    match (json, text, payload["hex"].as_str()) {
        (Some(json), _, _) => Ok(serde_json::to_string_pretty(&json).unwrap_or_default()),
        (None, Some(text), _) => Ok(text.to_owned()),
        (None, None, Some(hex)) => Ok(format!("0x{hex}")),
        _ => Ok(String::new()),
    }
}
