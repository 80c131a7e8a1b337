//! The door of a service: what every request passes before its route.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use crate::http::auth::authenticator::Auth;
use crate::http::auth::caller::Caller;
use crate::http::auth::credential::{Credential, presented};
use crate::http::auth::origin::Origin;
use crate::http::auth::policy::{Access, Policy, Verdict};
use crate::http::auth::rejection::Rejection;
use crate::http::auth::role::Role;
use crate::http::problem::{Kind, Problem};
use crate::names;

/// Where a person logs in, if the service has such a page.
const LOGIN: &str = "/login";
/// How often a stream's caller is looked up again.
const STILL_KNOWN: Duration = Duration::from_secs(5);
/// When to come again while keys are missing.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Who may come in, and where to.
#[derive(Debug)]
pub(in crate::http) struct Door {
    pub(in crate::http) policy: Policy,
    pub(in crate::http) auth: Auth,
}

/// Lets a request through to its route, with its [`Caller`] if one was needed, or answers it. The
/// body has not been read yet.
pub(in crate::http) async fn admit(
    State(door): State<Arc<Door>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let caller = match door.caller(&parts).await {
        Ok(caller) => caller,
        Err(answer) => return *answer,
    };
    parts.extensions.insert(door.auth.clone());
    let Some(caller) = caller else {
        return next.run(Request::from_parts(parts, body)).await;
    };
    let token = presented(&parts.headers).unwrap_or_default().to_owned();
    parts.extensions.insert(caller.clone());
    let mut answer = next.run(Request::from_parts(parts, body)).await;
    // For the line that the log gets of it.
    answer.extensions_mut().insert(caller.clone());
    match is_stream(&answer) {
        true => while_known(answer, door.auth.clone(), token, caller),
        false => answer,
    }
}

/// Whether it has no end of its own.
fn is_stream(answer: &Response) -> bool {
    let kind = answer.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// Lets a stream end when its caller would not be let in any more, or as somebody else.
fn while_known(answer: Response, auth: Auth, token: String, caller: Caller) -> Response {
    let unknown = async move {
        loop {
            tokio::time::sleep(STILL_KNOWN).await;
            match auth.authenticate(&token).await {
                Ok(now) if now == caller => {}
                // The issuer's keys are away: that says nothing about the caller.
                Err(Rejection::NoKeys) => {}
                Ok(_) | Err(_) => return,
            }
        }
    };
    answer.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(unknown))))
}

impl Door {
    async fn caller(&self, request: &Parts) -> Result<Option<Caller>, Box<Response>> {
        if !self.auth.answers_to(host(request)) {
            return Err(forbidden(
                "nobody is asked here who he is, so only this machine is answered, by its own names; \
                 --insecure (INSECURE) lifts that where something in front asks",
            ));
        }
        let is_safe = request.method.is_safe();
        let origin = Origin::of(&request.headers, &request.uri);
        let needed = match self.auth.is_required() {
            true => self.needed(request)?,
            false => None,
        };
        let Some(needed) = needed else {
            // A page of somebody else's may make a browser ask here, where nobody else comes.
            return match is_safe || origin != Origin::Foreign {
                true => Ok(None),
                false => Err(foreign()),
            };
        };
        let rejected = |rejection| self.rejected(rejection, request);
        let credential = Credential::of(&request.headers).map_err(rejected)?;
        if matches!(credential, Credential::Cookie(_)) && !is_safe && origin != Origin::Same {
            return Err(foreign());
        }
        let caller = self.auth.authenticate(credential.token()).await;
        let caller = caller.map_err(rejected)?;
        match caller.role >= needed {
            true => Ok(Some(caller)),
            false => Err(forbidden(format!(
                "{} may not do that: it needs the role {needed}",
                caller.role
            ))),
        }
    }

    /// The role that the route needs; none if it is everybody's.
    fn needed(&self, request: &Parts) -> Result<Option<Role>, Box<Response>> {
        let Some(route) = request.extensions.get::<MatchedPath>() else {
            let detail = format!("there is nothing at {}", request.uri.path());
            return Err(answer(Problem::not_found(detail)));
        };
        match self.policy.verdict(route.as_str(), &request.method) {
            Verdict::Known(Access::Public) => Ok(None),
            Verdict::Known(Access::Needs(role)) => Ok(Some(role)),
            Verdict::OtherMethods(methods) => Err(other_methods(request, &methods)),
            Verdict::Known(Access::Nobody) | Verdict::Unknown => {
                tracing::error!(
                    route = route.as_str(),
                    "a route does not say who may call it: nobody may"
                );
                Err(forbidden("this route does not say who may call it"))
            }
        }
    }

    fn rejected(&self, rejection: Rejection, request: &Parts) -> Box<Response> {
        let reason = rejection.as_str();
        metrics::counter!(names::HTTP_UNAUTHENTICATED, "reason" => reason).increment(1);
        match rejection {
            Rejection::NoKeys => {
                let detail = rejection.to_string();
                answer(Problem::unavailable(detail, RETRY_AFTER))
            }
            Rejection::NoRole => forbidden(rejection.to_string()),
            _ if self.wants_a_page(request) => to_login(request),
            _ => unauthenticated(rejection),
        }
    }

    /// Whether a person sits there, and has somewhere to go.
    fn wants_a_page(&self, request: &Parts) -> bool {
        request.method == Method::GET && prefers_html(&request.headers) && self.policy.has(LOGIN)
    }
}

/// Whom the request is meant for. A header that cannot be read is nobody's name.
fn host(request: &Parts) -> Option<&str> {
    match request.headers.get(header::HOST) {
        Some(host) => Some(host.to_str().unwrap_or_default()),
        None => request.uri.authority().map(Authority::as_str),
    }
}

fn answer(answer: impl IntoResponse) -> Box<Response> {
    Box::new(answer.into_response())
}

fn forbidden(detail: impl Into<String>) -> Box<Response> {
    answer(Problem::new(Kind::FORBIDDEN, detail))
}

fn foreign() -> Box<Response> {
    forbidden("a page of another origin made the browser ask")
}

/// RFC 6750, section 3: without a credential no error is named.
fn unauthenticated(rejection: Rejection) -> Box<Response> {
    let problem = Problem::new(Kind::UNAUTHENTICATED, rejection.to_string());
    let mut answer = answer(problem);
    let challenge = match rejection {
        Rejection::Missing => "Bearer realm=\"recompense\"",
        Rejection::Malformed => "Bearer realm=\"recompense\", error=\"invalid_request\"",
        _ => "Bearer realm=\"recompense\", error=\"invalid_token\"",
    };
    let challenge = HeaderValue::from_static(challenge);
    answer
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    answer
}

fn other_methods(request: &Parts, methods: &str) -> Box<Response> {
    let mut answer = answer(Problem::method_not_allowed(&request.method));
    if let Ok(methods) = HeaderValue::from_str(methods) {
        answer.headers_mut().insert(header::ALLOW, methods);
    }
    answer
}

/// To the page for logging in, and from there back.
fn to_login(request: &Parts) -> Box<Response> {
    let wanted = request.uri.path_and_query();
    let wanted = wanted.map_or("/", |wanted| wanted.as_str());
    let next: String = form_urlencoded::byte_serialize(wanted.as_bytes()).collect();
    answer((
        StatusCode::SEE_OTHER,
        [
            (header::LOCATION, format!("{LOGIN}?next={next}")),
            (header::CACHE_CONTROL, "no-store".to_owned()),
        ],
    ))
}

/// Whether HTML is accepted by name, and no less than JSON.
fn prefers_html(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    let (mut html, mut json) = (0.0_f32, 0.0_f32);
    for range in lines.flat_map(|line| line.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        match name.as_str() {
            "text/html" => html = html.max(weight),
            "application/json" | "application/problem+json" => json = json.max(weight),
            _ => {}
        }
    }
    html > 0.0 && html >= json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_known_by_what_is_accepted() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, person) in [
            (browser, true),
            ("TEXT/HTML", true),
            ("*/*", false),
            ("", false),
            ("application/json", false),
            ("application/json, text/html;q=0.5", false),
            ("text/html;q=0", false),
            ("text/event-stream", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(prefers_html(&headers), person, "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }
}
