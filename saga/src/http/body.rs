//! Bodies, parsed at the door: a JSON object, each field taken out by whoever knows it.

use axum::{
    body::Bytes,
    extract::rejection::BytesRejection,
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_TYPE, IF_MATCH},
    },
};
use serde_json::{Map, Value};

use crate::{
    http::{
        problem::{IDEMPOTENCY_KEY, Problem},
        query::{Pairs, unknown},
    },
    intervention::{OperationName, What},
    operator::{Selection, check_key},
};

pub(crate) type RawBody = Result<Bytes, BytesRejection>;

/// The fields of a body.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn parse(headers: &HeaderMap, body: RawBody) -> Result<Self, Problem> {
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let content_type = content_type.and_then(|value| value.split(';').next());
        if !content_type.is_some_and(|t| t.trim().eq_ignore_ascii_case("application/json")) {
            return Err(Problem::MediaType);
        }
        let body = body.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::TooLarge,
            _ => Problem::Malformed(error.body_text()),
        })?;
        match serde_json::from_slice(&body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Problem::Malformed("not a JSON object".to_owned())),
            // Where, and not what: it may be anything.
            Err(error) => Err(Problem::Malformed(format!(
                "not JSON at line {} column {}",
                error.line(),
                error.column()
            ))),
        }
    }

    /// What is to happen: `operation`, and what belongs to it.
    pub(crate) fn what(&mut self) -> Result<What, Problem> {
        let name: String = self.text("operation")?;
        let name = name.parse::<OperationName>();
        let name = name.map_err(|error| Problem::content("operation", unknown(error)))?;
        Ok(match name {
            OperationName::Pause => What::Pause {},
            OperationName::Resume => What::Resume {},
            OperationName::Cancel => What::Cancel {},
            OperationName::Retry => What::Retry {
                step: self.optional_text("step")?,
            },
            OperationName::CompleteStep => What::CompleteStep {
                step: self.text("step")?,
                reply: self.take("reply").ok_or_else(|| missing("reply"))?,
            },
            OperationName::SkipCompensation => What::SkipCompensation {
                step: self.text("step")?,
            },
            OperationName::Abandon => What::Abandon {},
            OperationName::Migrate => What::Migrate {
                to: self.number("to")?.ok_or_else(|| missing("to"))?,
            },
        })
    }

    /// Which sagas. All of them only if that is said.
    pub(crate) fn selection(&mut self) -> Result<Selection, Problem> {
        let selection = self.take("selection").ok_or_else(|| missing("selection"))?;
        let Value::Object(mut fields) = selection else {
            return Err(Problem::content("selection", "not an object"));
        };
        let all = match fields.remove("all") {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(_) => return Err(Problem::content("selection.all", "not true or false")),
        };
        let pairs = fields.into_iter().map(|(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            Value::Number(number) => Ok((name, number.to_string())),
            _ => Err(Problem::content(format!("selection.{name}"), "not a text")),
        });
        let mut pairs = Pairs::of(pairs.collect::<Result<_, _>>()?);
        let selection = pairs.take_selection().map_err(within)?;
        pairs.nothing_left().map_err(within)?;
        if selection.is_everything() != all {
            let detail = match all {
                true => "name either filters or \"all\": true",
                false => "names no filter; every saga is {\"all\": true}",
            };
            return Err(Problem::content("selection", detail));
        }
        Ok(selection)
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<String, Problem> {
        self.optional_text(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn number<T: TryFrom<i64>>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let number = |value: Value| value.as_i64().and_then(|number| T::try_from(number).ok());
        self.parsed(name, number, "not a whole number in range")
    }

    pub(crate) fn yes_or_no(&mut self, name: &str) -> Result<bool, Problem> {
        let yes = self.parsed(name, |value| value.as_bool(), "not true or false")?;
        Ok(yes.unwrap_or(false))
    }

    pub(crate) fn nothing_left(&self) -> Result<(), Problem> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Problem::content(name, "no such field here")),
        }
    }

    pub(crate) fn optional_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let text = |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        };
        self.parsed(name, text, "not a text")
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(Value) -> Option<T>,
        detail: &str,
    ) -> Result<Option<T>, Problem> {
        // Null is as good as absent, but for a reply.
        match self.take(name).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => parse(value)
                .map(Some)
                .ok_or_else(|| Problem::content(name, detail)),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }
}

/// The name of the request, if it has one.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    match one(headers, IDEMPOTENCY_KEY)? {
        None => Ok(None),
        // A dry run needs none, but one that is given must be one.
        Some(key) => {
            check_key(key)?;
            Ok(Some(key.to_owned()))
        }
    }
}

/// The number of the last event that the client saw, if it says so.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(tag) = one(headers, IF_MATCH.as_str())? else {
        return Ok(None);
    };
    // Whatever there is.
    if tag.trim() == "*" {
        return Ok(None);
    }
    let seq = tag
        .trim()
        .strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'));
    let seq = seq.and_then(|seq| seq.parse().ok());
    let wrong = || Problem::field("If-Match", "not an ETag of a saga, as in \"7\"");
    seq.map(Some).ok_or_else(wrong)
}

pub(crate) fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(Some(value)),
        (Ok(_), Some(_)) => Err(Problem::field(name, "it is given twice")),
        (Err(_), _) => Err(Problem::field(name, "not visible ASCII")),
    }
}

fn missing(name: &str) -> Problem {
    Problem::content(name, "is missing")
}

/// A filter's problem, as one of the body's.
fn within(problem: Problem) -> Problem {
    match problem {
        Problem::Field { field, detail } => Problem::content(format!("selection.{field}"), detail),
        problem => problem,
    }
}
