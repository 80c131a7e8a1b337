//! Whose page made a browser ask. What a browser sends along by itself proves nothing about that.

use axum::http::{HeaderMap, Uri, header};

/// Whose page made a browser ask (Fetch Metadata; `Origin` where a browser has no such).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// One of this very service.
    Same,
    /// One of somebody else's.
    Foreign,
    /// The request does not say: no browser, or one that was told by hand.
    Unsaid,
}

impl Origin {
    pub(super) fn of(headers: &HeaderMap, uri: &Uri) -> Self {
        match one(headers, "sec-fetch-site") {
            Given::Once("same-origin") => return Self::Same,
            Given::Once("none") => return Self::Unsaid,
            Given::Once(_) | Given::Otherwise => return Self::Foreign,
            Given::Never => {}
        }
        let origin = match one(headers, header::ORIGIN.as_str()) {
            Given::Never => return Self::Unsaid,
            Given::Otherwise => return Self::Foreign,
            Given::Once(origin) => origin,
        };
        let host = match one(headers, header::HOST.as_str()) {
            Given::Once(host) => Some(host),
            Given::Never => uri.authority().map(|authority| authority.as_str()),
            Given::Otherwise => None,
        };
        let of_origin = origin.split_once("://").map(|(_, host)| host);
        match (of_origin, host) {
            (Some(asking), Some(asked)) if asking.eq_ignore_ascii_case(asked) => Self::Same,
            _ => Self::Foreign,
        }
    }
}

enum Given<'r> {
    Never,
    Once(&'r str),
    /// Several times, or not readable.
    Otherwise,
}

fn one<'r>(headers: &'r HeaderMap, name: &str) -> Given<'r> {
    let mut all = headers.get_all(name).iter();
    match (all.next().map(|value| value.to_str()), all.next()) {
        (None, _) => Given::Never,
        (Some(Ok(value)), None) => Given::Once(value),
        _ => Given::Otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_page_is_told_from_our_own() {
        let site = "sec-fetch-site";
        let host = ("host", "shop.example:8080");
        let cases: [(&[(&str, &str)], Origin); 14] = [
            (&[], Origin::Unsaid),
            (&[host], Origin::Unsaid),
            (&[(site, "same-origin")], Origin::Same),
            (&[(site, "same-site"), host], Origin::Foreign),
            (&[(site, "cross-site")], Origin::Foreign),
            (&[(site, "none")], Origin::Unsaid),
            (
                &[(site, "same-origin"), (site, "cross-site")],
                Origin::Foreign,
            ),
            (
                &[
                    (site, "cross-site"),
                    ("origin", "http://shop.example:8080"),
                    host,
                ],
                Origin::Foreign,
            ),
            (
                &[("origin", "http://shop.example:8080"), host],
                Origin::Same,
            ),
            (
                &[("origin", "http://SHOP.example:8080"), host],
                Origin::Same,
            ),
            (&[("origin", "http://shop.example"), host], Origin::Foreign),
            (
                &[("origin", "http://shop.example:8080.evil.example"), host],
                Origin::Foreign,
            ),
            (&[("origin", "null"), host], Origin::Foreign),
            (&[("origin", "http://shop.example:8080")], Origin::Foreign),
        ];
        for (lines, origin) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                let name: axum::http::HeaderName = name.parse().unwrap();
                headers.append(name, value.parse().unwrap());
            }
            assert_eq!(
                Origin::of(&headers, &Uri::from_static("/")),
                origin,
                "{lines:?}"
            );
        }
    }
}
