//! `/login` and `/logout`: a browser has no `Authorization`, but a cookie.

use askama::Template;
use axum::{
    Extension,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header::SET_COOKIE},
    response::{IntoResponse, Redirect, Response},
};
use chassis::http::auth::{Auth, COOKIE};

use crate::{
    api::{Refused, Visitor},
    house::Dashboard,
    pages::{
        filter::Filter,
        frame::{Frame, refuse, show},
        saga_act::Pairs,
    },
};

/// Browsers keep no cookie of more than 4096 bytes, name and attributes included (RFC 6265, section 6.1).
const LONGEST: usize = 3_900;

#[derive(Template)]
#[template(path = "login.html")]
struct Page {
    frame: Frame,
    refused: Option<&'static str>,
    next: String,
}

/// Where a person says who he is
#[utoipa::path(get, path = "/login", tag = "pages", operation_id = "login_page", security(()),
    params(("next" = Option<String>, Query, description = "Where to go then")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn page(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
) -> Response {
    let asked = Filter::of(query.as_deref(), &["next"]);
    form(&dashboard, None, within(asked.get("next")))
}

/// Takes a token, and keeps it in a cookie of the browser
#[utoipa::path(post, path = "/login", tag = "pages", operation_id = "login", security(()),
    request_body(content_type = "application/x-www-form-urlencoded", content = String),
    responses(
        (status = 303, description = "To where he wanted to go"),
        (status = 401, description = "The token is not known", content_type = "text/html", body = String)))]
pub(crate) async fn log_in(
    State(dashboard): State<Dashboard>,
    auth: Option<Extension<Auth>>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Response {
    let pairs = match pairs {
        Ok(pairs) => pairs.0,
        Err(error) => {
            let refused = Refused::form(error.body_text());
            return refuse(&dashboard, &Visitor::default(), refused);
        }
    };
    let asked = Filter::from_pairs(&pairs, &["token", "next"]);
    let (token, next) = (asked.get("token").trim(), within(asked.get("next")));
    let known = match auth {
        // Nobody is asked here, so nobody has to say it.
        None => return Redirect::to(&next).into_response(),
        Some(Extension(auth)) if !auth.is_required() => return Redirect::to(&next).into_response(),
        Some(Extension(auth)) => match auth.authenticate(token).await {
            Ok(caller) => {
                tracing::info!(caller = caller.name, role = %caller.role, "logged in");
                fits(token)
            }
            Err(reason) => {
                tracing::warn!(%reason, "a log-in was refused");
                false
            }
        },
    };
    let why = match known {
        true if token.len() <= LONGEST => {
            let cookie = cookie(token, &headers);
            return ([(SET_COOKIE, cookie)], Redirect::to(&next)).into_response();
        }
        true => "This token is too long for a browser to keep: ask for one with fewer claims.",
        false => "This token is not known here, or its time is over.",
    };
    let form = form(&dashboard, Some(why), next);
    (StatusCode::UNAUTHORIZED, form).into_response()
}

/// Forgets the token
#[utoipa::path(post, path = "/logout", tag = "pages", operation_id = "logout", security(()),
    responses((status = 303, description = "To the login")))]
pub(crate) async fn log_out() -> Response {
    let gone = format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
    ([(SET_COOKIE, gone)], Redirect::to("/login")).into_response()
}

fn form(dashboard: &Dashboard, refused: Option<&'static str>, next: String) -> Response {
    show(&Page {
        frame: Frame::new(dashboard, &Visitor::default(), "/login"),
        refused,
        next,
    })
}

/// Ends with the browser's session; sent to nobody else, read by no script.
fn cookie(token: &str, headers: &HeaderMap) -> String {
    let scheme = headers.get("x-forwarded-proto");
    let secure = match scheme.is_some_and(|scheme| scheme == "https") {
        true => "; Secure",
        false => "",
    };
    format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict{secure}")
}

/// Whether it can stand in a cookie: of base64url and points.
fn fits(token: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+/=".contains(&byte);
    !token.is_empty() && token.bytes().all(fits)
}

/// Only a path of ours is gone to: whoever made the link shall not choose the site.
fn within(next: &str) -> String {
    let is_ours = next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains(['\\', '\r', '\n'])
        && next.bytes().all(|byte| byte.is_ascii_graphic());
    match is_ours {
        true => next.to_owned(),
        false => "/".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere() {
        assert_eq!(within("/sagas?status=running"), "/sagas?status=running");
        for elsewhere in [
            "",
            "//evil",
            "/\\evil",
            "http://evil",
            "/a\nb",
            "/ä",
            "evil",
            "/ b",
        ] {
            assert_eq!(within(elsewhere), "/", "{elsewhere:?}");
        }
    }

    #[test]
    fn a_cookie_that_came_by_https_never_goes_by_http() {
        let mut headers = HeaderMap::new();
        assert!(!cookie("t", &headers).contains("Secure"));
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        let cookie = cookie("t", &headers);
        assert!(
            cookie.ends_with("; HttpOnly; SameSite=Strict; Secure"),
            "{cookie}"
        );
    }

    #[test]
    fn only_a_token_stands_in_a_cookie() {
        assert!(fits("eyJ0.e30.-_"));
        for wrong in ["", "a; Path=/x", "a b", "a\n", "ä", "a,b"] {
            assert!(!fits(wrong), "{wrong:?}");
        }
    }
}
