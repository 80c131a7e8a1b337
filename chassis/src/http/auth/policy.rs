//! Which route needs which role: read off the API's description, so that what is written there is
//! what is enforced.

use std::collections::{BTreeMap, HashMap};

use axum::http::Method;
use serde_json::Value;
use utoipa::openapi::OpenApi;

use crate::http::auth::role::Role;

/// The name of the way to prove who one is, in the API's description.
pub(in crate::http) const SCHEME: &str = "bearer";

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Whoever has this role, or a higher one.
    Needs(Role),
    /// Nobody: its requirement cannot be understood.
    Nobody,
}

/// Which route needs which role, by the route's pattern and method.
#[derive(Debug, Clone, Default)]
pub struct Policy(HashMap<String, BTreeMap<String, Access>>);

/// What a policy says of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Known(Access),
    /// The route is known, for these methods only.
    OtherMethods(String),
    Unknown,
}

impl Policy {
    /// What a description says. Where an operation says nothing, it is `GET` and `HEAD` for viewers and
    /// the rest for operators.
    pub(in crate::http) fn of(document: &OpenApi) -> Self {
        let document = serde_json::to_value(document).unwrap_or_default();
        let mut policy = Self::default();
        for (path, item) in members(&document["paths"]) {
            let operations = members(item).filter(|(_, operation)| operation.is_object());
            let methods = operations.filter_map(|(method, operation)| {
                let method = method.to_uppercase();
                // What is not a method of a path item is something else of it.
                let known = [
                    "GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE",
                ];
                let access = access(&operation["security"], &method);
                known.contains(&method.as_str()).then_some((method, access))
            });
            policy.0.insert(path.clone(), methods.collect());
        }
        policy
    }

    /// Every route with its method and who may call it, in order.
    pub fn routes(&self) -> impl Iterator<Item = (&str, &str, Access)> {
        let sorted: BTreeMap<_, _> = self.0.iter().collect();
        sorted.into_iter().flat_map(|(path, methods)| {
            let methods = methods.iter();
            methods.map(|(method, access)| (path.as_str(), method.as_str(), *access))
        })
    }

    /// Whether there is such a route for `GET`.
    pub(super) fn has(&self, path: &str) -> bool {
        self.0
            .get(path)
            .is_some_and(|methods| methods.contains_key("GET"))
    }

    pub(super) fn verdict(&self, path: &str, method: &Method) -> Verdict {
        let Some(methods) = self.0.get(path) else {
            return Verdict::Unknown;
        };
        let named = match *method {
            // Answered by what answers GET, unless it has its own.
            Method::HEAD if !methods.contains_key("HEAD") => "GET",
            _ => method.as_str(),
        };
        match methods.get(named) {
            Some(access) => Verdict::Known(*access),
            None => {
                let mut names: Vec<&str> = methods.keys().map(String::as_str).collect();
                if let Some(at) = names.iter().position(|name| *name == "GET") {
                    names.insert(at + 1, "HEAD");
                    names.dedup();
                }
                Verdict::OtherMethods(names.join(","))
            }
        }
    }
}

/// What a route needs that says nothing.
pub(in crate::http) fn unless_said(method: &str) -> Role {
    match method {
        "GET" | "HEAD" => Role::Viewer,
        _ => Role::Operator,
    }
}

fn access(security: &Value, method: &str) -> Access {
    let Value::Array(alternatives) = security else {
        return Access::Needs(unless_said(method));
    };
    let is_empty = |requirement: &Value| requirement.as_object().is_some_and(|r| r.is_empty());
    if alternatives.is_empty() || alternatives.iter().any(is_empty) {
        return Access::Public;
    }
    match &alternatives[..] {
        [one] => match one[SCHEME].as_array().map(Vec::as_slice) {
            Some([role]) => role
                .as_str()
                .and_then(|role| role.parse().ok())
                .map_or(Access::Nobody, Access::Needs),
            _ => Access::Nobody,
        },
        _ => Access::Nobody,
    }
}

fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_requirement_that_is_not_understood_lets_nobody_in() {
        let cases = [
            (Value::Null, Access::Needs(Role::Operator)),
            (json!([]), Access::Public),
            (json!([{}]), Access::Public),
            (json!([{"bearer": ["viewer"]}]), Access::Needs(Role::Viewer)),
            (json!([{"bearer": ["admin"]}]), Access::Needs(Role::Admin)),
            (json!([{"bearer": []}]), Access::Nobody),
            (json!([{"bearer": ["root"]}]), Access::Nobody),
            (json!([{"bearer": ["viewer", "admin"]}]), Access::Nobody),
            (json!([{"basic": ["viewer"]}]), Access::Nobody),
            (
                json!([{"bearer": ["viewer"]}, {"bearer": ["admin"]}]),
                Access::Nobody,
            ),
        ];
        for (security, expected) in cases {
            assert_eq!(access(&security, "POST"), expected, "{security}");
        }
        assert_eq!(access(&Value::Null, "GET"), Access::Needs(Role::Viewer));
    }
}
