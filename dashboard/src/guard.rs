//! What keeps pages harmless.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// What a browser may do with a page: run and show what this service serves, and nothing that
/// stands in the page itself. So nothing in a payload, a key or an error can run, even if it were not escaped.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Refuses forms of other sites, and says what a page may do.
pub(crate) async fn harmless(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && !is_from_here(request.headers()) {
        let told =
            "This form was sent by another site. Open the page itself and send it from there.\n";
        return (StatusCode::FORBIDDEN, told).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(POLICY));
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A browser says where a form comes from: `Sec-Fetch-Site` since 2023 everywhere, `Origin` with
/// every POST before. Without either it is no browser, and nobody's cookies come along.
fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = text("origin") else {
        return !headers.contains_key("origin");
    };
    let host = origin.split_once("://").map(|(_, host)| host);
    host.is_some() && host == text("host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_form_from_here_is_taken() {
        let from = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            is_from_here(&pairs.collect::<HeaderMap>())
        };
        assert!(from(&[]));
        assert!(from(&[
            ("sec-fetch-site", "same-origin"),
            ("origin", "http://evil")
        ]));
        assert!(!from(&[("sec-fetch-site", "cross-site")]));
        assert!(!from(&[
            ("sec-fetch-site", "same-site"),
            ("host", "a:1"),
            ("origin", "http://a:1")
        ]));
        assert!(from(&[("host", "a:1"), ("origin", "http://a:1")]));
        assert!(!from(&[("host", "a:1"), ("origin", "http://a:2")]));
        assert!(!from(&[("host", "a:1"), ("origin", "null")]));
        assert!(!from(&[("origin", "http://a:1")]));
    }
}
