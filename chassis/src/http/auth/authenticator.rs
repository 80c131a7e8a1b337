//! From a token to a caller.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;

use crate::config::Refusal;
use crate::http::auth::caller::Caller;
use crate::http::auth::jwt::Jwt;
use crate::http::auth::machine::means_this_machine;
use crate::http::auth::rejection::Rejection;
use crate::http::auth::settings::{Settings, is_loopback};
use crate::http::auth::tokens::Tokens;

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(2);
/// The longest token. A request's head has 8 KiB for a header in most servers in front.
const LONGEST: usize = 8 * 1024;

/// Who may call. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Auth(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    tokens: Option<Tokens>,
    jwt: Option<Jwt>,
    /// Nobody is asked, and nobody said that something in front asks: then it is for this machine
    /// alone, and known by no other name than this machine's.
    own_names_only: bool,
}

impl Auth {
    /// Nobody is asked who he is.
    #[must_use]
    pub fn open() -> Self {
        Self::default()
    }

    /// As the settings say, of a service that listens there. Reads the files; URLs are asked later.
    ///
    /// # Errors
    /// A setting that cannot be followed, in one line with exit status 2: a file that cannot be read or
    /// is wrong, or an address that others can connect to while nobody is asked who he is.
    pub fn new(settings: &Settings, listen: SocketAddr) -> Result<Self, Refusal> {
        Self::read(settings, listen).map_err(|reason| Refusal {
            text: format!("error: {reason}"),
            status: 2,
        })
    }

    fn read(settings: &Settings, listen: SocketAddr) -> Result<Self, String> {
        settings.check(listen)?;
        let tokens = settings.auth_tokens.as_deref().map(Tokens::read);
        let tokens = tokens.transpose().map_err(|reason| {
            format!("wrong setting --auth-tokens (environment AUTH_TOKENS): {reason}")
        })?;
        let jwt = Jwt::new(settings)?;
        Ok(Self(Arc::new(Known {
            tokens,
            jwt,
            own_names_only: !settings.ask() && !settings.insecure,
        })))
    }

    /// Whether a request that names this host may come in. A page of somebody else's, whose name was
    /// made to mean this machine, looks to the browser like one of ours (DNS rebinding).
    pub(in crate::http) fn answers_to(&self, host: Option<&str>) -> bool {
        !self.0.own_names_only || host.is_none_or(means_this_machine)
    }

    /// Whether callers are asked who they are.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.0.tokens.is_some() || self.0.jwt.is_some()
    }

    /// Whose token this is: a JWT's by its dots, else one of the file's.
    ///
    /// # Errors
    /// Why it is nobody's here.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, Rejection> {
        if token.is_empty() || token.len() > LONGEST || !token.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Rejection::Malformed);
        }
        match (&self.0.jwt, &self.0.tokens) {
            (Some(jwt), _) if token.contains('.') => jwt.caller(token).await,
            (_, Some(tokens)) => tokens.caller(token, Utc::now()),
            _ => Err(Rejection::Unknown),
        }
    }

    /// Looks once at what may have changed: files, and the keys of a URL if it is time.
    pub async fn refresh(&self) {
        if let Some(tokens) = &self.0.tokens {
            tokens.refresh();
        }
        if let Some(jwt) = &self.0.jwt {
            jwt.refresh().await;
        }
    }

    /// [`refresh`](Self::refresh) every two seconds, for ever.
    pub(in crate::http) async fn keep_fresh(&self) -> Infallible {
        loop {
            self.refresh().await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Says so where others can connect and nobody is asked who he is.
    pub(in crate::http) fn warn_if_open(&self, listen: SocketAddr) {
        if !self.is_required() && !is_loopback(listen) {
            tracing::warn!(%listen, "nobody is asked who he is: whoever can connect may do everything");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_this_machine_alone_answers_to_no_other_name() {
        let alone = Auth(Arc::new(Known {
            own_names_only: true,
            ..Known::default()
        }));
        for own in [
            "localhost",
            "localhost:8081",
            "LOCALHOST.",
            "shop.localhost:1",
            "127.0.0.1:8081",
            "127.1.2.3",
            "[::1]:8081",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(alone.answers_to(Some(own)), "{own}");
        }
        for foreign in [
            "",
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evillocalhost",
            "10.0.0.1",
            "[fe80::1]",
            "localhost@evil.example",
            "a b",
        ] {
            assert!(!alone.answers_to(Some(foreign)), "{foreign}");
            assert!(Auth::open().answers_to(Some(foreign)), "{foreign}");
        }
        assert!(alone.answers_to(None));
    }
}
