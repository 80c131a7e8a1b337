//! What of a request proves who sends it.

use axum::http::{HeaderMap, header};

use crate::http::auth::rejection::Rejection;

/// The cookie in which a browser keeps a token. Whoever sets it says `HttpOnly` and `SameSite=Strict`.
pub const COOKIE: &str = "recompense_token";

/// The token that a request carries, whether or not it is worth anything.
#[must_use]
pub fn presented(headers: &HeaderMap) -> Option<&str> {
    Credential::of(headers)
        .ok()
        .map(|credential| credential.token())
}

/// A token, and where it stood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credential<'r> {
    /// In `Authorization`: no page of somebody else's could put it there.
    Header(&'r str),
    /// In the cookie, which a browser sends along with whatever makes it ask.
    Cookie(&'r str),
}

impl<'r> Credential<'r> {
    pub(super) fn token(&self) -> &'r str {
        let (Self::Header(token) | Self::Cookie(token)) = self;
        token
    }

    /// The one of `Authorization` if there is such a header, else the cookie's.
    pub(super) fn of(headers: &'r HeaderMap) -> Result<Self, Rejection> {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        if let Some(given_first) = given.next() {
            if given.next().is_some() {
                return Err(Rejection::Malformed);
            }
            let text = given_first.to_str().map_err(|_| Rejection::Malformed)?;
            let (scheme, token) = text.split_once(' ').ok_or(Rejection::Malformed)?;
            let token = token.trim();
            return match scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() {
                true => Ok(Self::Header(token)),
                false => Err(Rejection::Malformed),
            };
        }
        let lines = headers.get_all(header::COOKIE).iter();
        let pairs = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'));
        let mut named = pairs.filter_map(|pair| pair.trim().split_once('='));
        let found = named.find(|(name, value)| *name == COOKIE && !value.is_empty());
        found.map_or(Err(Rejection::Missing), |(_, token)| {
            Ok(Self::Cookie(token))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_header_outranks_the_cookie_and_must_be_whole() {
        let cookie = ("cookie", "a=b; recompense_token=c; d");
        let read = |lines: &[(&'static str, &'static str)]| {
            let headers = of(lines);
            Credential::of(&headers).map(|found| match found {
                Credential::Header(token) => format!("header {token}"),
                Credential::Cookie(token) => format!("cookie {token}"),
            })
        };
        let found = |text: &str| Ok(text.to_owned());
        assert_eq!(read(&[cookie]), found("cookie c"));
        assert_eq!(
            read(&[("authorization", "bEARER t"), cookie]),
            found("header t")
        );
        assert_eq!(read(&[("cookie", "x=1"), cookie]), found("cookie c"));
        for wrong in ["t", "Basic t", "Bearer", "Bearer ", "Bearert", ""] {
            let read = read(&[("authorization", wrong), cookie]);
            assert_eq!(read, Err(Rejection::Malformed), "{wrong}");
        }
        let twice = [("authorization", "Bearer t"), ("authorization", "Bearer t")];
        assert_eq!(read(&twice), Err(Rejection::Malformed));
        for none in [
            "",
            "recompense_token=",
            "recompense_tokens=c",
            "xrecompense_token=c",
        ] {
            assert_eq!(read(&[("cookie", none)]), Err(Rejection::Missing), "{none}");
        }
    }
}
