//! The `OTEL_*` variables, parsed: whether traces go anywhere, and which. Pure.
//!
//! | variable | meaning |
//! |---|---|
//! | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` | the URL that spans are posted to |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | the same without its last part, `/v1/traces` |
//! | `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, `OTEL_EXPORTER_OTLP_HEADERS` | sent along: `name=value,…`, percent-encoded |
//! | `OTEL_EXPORTER_OTLP_TRACES_TIMEOUT`, `OTEL_EXPORTER_OTLP_TIMEOUT` | for one export, in milliseconds; 10000 |
//! | `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL`, `OTEL_EXPORTER_OTLP_PROTOCOL` | `http/protobuf`, the only one |
//! | `OTEL_TRACES_EXPORTER` | `otlp`, or `none` |
//! | `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG` | which traces that begin here are recorded |
//! | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | what the process is called |
//! | `OTEL_SDK_DISABLED` | `true`: as if nothing were configured |
//!
//! An empty variable is as good as none. Without an endpoint nothing is exported: there is no
//! default one, because a service must not knock at doors that nobody named.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::Sampler;

use crate::telemetry::Error;

const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_HEADERS",
];
const TIMEOUT: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];
const PROTOCOL: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const DISABLED: &str = "OTEL_SDK_DISABLED";

/// What the environment says about traces.
#[derive(Debug)]
pub(super) struct Traces {
    /// Where they go; `None` when they go nowhere.
    pub(super) target: Option<Target>,
    pub(super) sampler: Sampler,
    pub(super) resource: Resource,
}

/// Where spans are posted to.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    /// For one export.
    pub(super) timeout: Duration,
}

/// Without the headers: they may hold a secret.
impl std::fmt::Debug for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "http://{}:{}", self.host, self.port)
    }
}

impl Traces {
    /// Reads what is set, by a function that looks a variable up.
    pub(super) fn read(
        service_name: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let variable = |name| variable(name).filter(|value: &String| !value.trim().is_empty());
        let target = target(&variable)?;
        Ok(Self {
            sampler: sampler(&variable, target.is_some())?,
            resource: resource(service_name, &variable),
            target,
        })
    }
}

fn wrong<T>(variable: &'static str, reason: impl Into<String>) -> Result<T, Error> {
    let reason = reason.into();
    Err(Error::Setting { variable, reason })
}

fn target(variable: &impl Fn(&'static str) -> Option<String>) -> Result<Option<Target>, Error> {
    if variable(DISABLED).is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    match variable(EXPORTER).as_deref().map(str::trim) {
        Some("none") => return Ok(None),
        None | Some("otlp") => {}
        Some(_) => return wrong(EXPORTER, "must be otlp or none"),
    }
    let first = |names: [&'static str; 2]| {
        names
            .into_iter()
            .find_map(|name| Some((name, variable(name)?)))
    };
    let Some((name, text)) = first([TRACES_ENDPOINT, ENDPOINT]) else {
        return Ok(None);
    };
    let mut target = endpoint(name, text.trim())?;
    if let Some((name, protocol)) = first(PROTOCOL)
        && protocol.trim() != "http/protobuf"
    {
        return wrong(name, "must be http/protobuf, the only protocol there is");
    }
    if let Some((name, headers)) = first(HEADERS) {
        target.headers = parse_headers(name, &headers)?;
    }
    if let Some((name, timeout)) = first(TIMEOUT) {
        target.timeout = match timeout.trim().parse() {
            Ok(milliseconds @ 1..=600_000) => Duration::from_millis(milliseconds),
            _ => return wrong(name, "must be a number of milliseconds from 1 to 600000"),
        };
    }
    Ok(Some(target))
}

fn endpoint(name: &'static str, text: &str) -> Result<Target, Error> {
    let example = "must be a URL such as http://localhost:4318";
    if text.to_ascii_lowercase().starts_with("https://") {
        return wrong(
            name,
            "https is not spoken here: put a collector beside the service, name it by http://, and let it \
             send on",
        );
    }
    let Ok(uri) = text.parse::<Uri>() else {
        return wrong(name, example);
    };
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return wrong(name, example);
    };
    if authority.as_str().contains('@') {
        return wrong(
            name,
            "must not hold a user or password: send a header by OTEL_EXPORTER_OTLP_HEADERS",
        );
    }
    let port = match authority.port_u16() {
        Some(0) => return wrong(name, example),
        Some(port) => port,
        // What stands behind the host is no port, or nothing behind a colon.
        None if authority.as_str() != authority.host() => return wrong(name, example),
        None => 80,
    };
    let mut path = uri
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    if name == ENDPOINT {
        path = format!("{}/v1/traces", path.trim_end_matches('/'));
    }
    Ok(Target {
        host: authority.host().to_owned(),
        port,
        path,
        headers: HeaderMap::new(),
        timeout: Duration::from_secs(10),
    })
}

/// `name=value,name=value`, the values percent-encoded.
fn parse_headers(variable: &'static str, text: &str) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (place, pair) in (1..).zip(text.split(',')) {
        if pair.trim().is_empty() {
            continue;
        }
        let header = pair.split_once('=').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            let mut value = HeaderValue::from_bytes(&percent_decoded(value.trim())?).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let Some((name, value)) = header else {
            return wrong(variable, format!("entry {place} is not name=value"));
        };
        headers.insert(name, value);
    }
    Ok(headers)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(decoded)
}

/// Where nothing is exported, a trace that begins here is not recorded, and its messages say so;
/// one that came in recorded stays so, for those after us.
fn sampler(
    variable: &impl Fn(&'static str) -> Option<String>,
    exported: bool,
) -> Result<Sampler, Error> {
    let ratio = || match variable(SAMPLER_ARG).map(|text| text.trim().parse::<f64>()) {
        None => Ok(1.0),
        Some(Ok(ratio)) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        Some(_) => wrong(SAMPLER_ARG, "must be a number from 0 to 1"),
    };
    let parent_based = |root| Ok(Sampler::ParentBased(Box::new(root)));
    match variable(SAMPLER).as_deref().map(str::trim) {
        None if exported => parent_based(Sampler::AlwaysOn),
        None => parent_based(Sampler::AlwaysOff),
        Some("always_on") => Ok(Sampler::AlwaysOn),
        Some("always_off") => Ok(Sampler::AlwaysOff),
        Some("traceidratio") => Ok(Sampler::TraceIdRatioBased(ratio()?)),
        Some("parentbased_always_on") => parent_based(Sampler::AlwaysOn),
        Some("parentbased_always_off") => parent_based(Sampler::AlwaysOff),
        Some("parentbased_traceidratio") => parent_based(Sampler::TraceIdRatioBased(ratio()?)),
        Some(_) => wrong(
            SAMPLER,
            "must be always_on, always_off or traceidratio, or one of these after parentbased_",
        ),
    }
}

/// The SDK reads the attributes; a name given in the environment wins.
fn resource(service_name: &str, variable: &impl Fn(&'static str) -> Option<String>) -> Resource {
    let named = variable(SERVICE_NAME).is_some()
        || variable(RESOURCE).is_some_and(|attributes| {
            let mut names = attributes
                .split(',')
                .filter_map(|pair| pair.split_once('='));
            names.any(|(name, _)| name.trim() == "service.name")
        });
    let resource = Resource::builder();
    match named {
        true => resource.build(),
        false => resource.with_service_name(service_name.to_owned()).build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Traces, Error> {
        Traces::read("test", |name| {
            let found = set.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn place(set: &[(&str, &str)]) -> Option<String> {
        let target = read(set).unwrap().target?;
        Some(format!("{}:{}{}", target.host, target.port, target.path))
    }

    #[test]
    fn nothing_configured_exports_nothing() {
        for set in [
            &[][..],
            &[(ENDPOINT, "")],
            &[(ENDPOINT, "http://c:4318"), (DISABLED, "true")],
            &[(ENDPOINT, "http://c:4318"), (EXPORTER, "none")],
        ] {
            assert_eq!(place(set), None, "{set:?}");
        }
    }

    #[test]
    fn the_endpoint_of_traces_is_taken_as_it_is_and_the_common_one_completed() {
        let cases = [
            (ENDPOINT, "http://c:4318", "c:4318/v1/traces"),
            (ENDPOINT, "http://c:4318/", "c:4318/v1/traces"),
            (ENDPOINT, "http://c/otlp/", "c:80/otlp/v1/traces"),
            (TRACES_ENDPOINT, "http://c:4318/take", "c:4318/take"),
            (TRACES_ENDPOINT, "http://[::1]:4318", "[::1]:4318/"),
        ];
        for (name, url, expected) in cases {
            assert_eq!(place(&[(name, url)]).as_deref(), Some(expected), "{url}");
        }
        let both = [(ENDPOINT, "http://a:1"), (TRACES_ENDPOINT, "http://b:2/x")];
        assert_eq!(place(&both).as_deref(), Some("b:2/x"));
    }

    #[test]
    fn what_cannot_be_followed_is_named_without_its_value() {
        let endpoint = (ENDPOINT, "http://c:4318");
        let cases = [
            vec![(ENDPOINT, "https://s3cret:4318")],
            vec![(ENDPOINT, "s3cret:4318")],
            vec![(ENDPOINT, "http://")],
            vec![(ENDPOINT, "http://c:port")],
            vec![(ENDPOINT, "http://c:99999")],
            vec![(ENDPOINT, "http://c:0")],
            vec![(ENDPOINT, "http://c:")],
            vec![(ENDPOINT, "http://user:s3cret@c:4318")],
            vec![(ENDPOINT, "grpc://c:4317")],
            vec![(EXPORTER, "console"), endpoint],
            vec![("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), endpoint],
            vec![("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"), endpoint],
            vec![("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"), endpoint],
            vec![("OTEL_EXPORTER_OTLP_HEADERS", "a=%4"), endpoint],
            vec![("OTEL_EXPORTER_OTLP_HEADERS", "a b=s3cret"), endpoint],
            vec![(SAMPLER, "sometimes")],
            vec![(SAMPLER_ARG, "1.5"), (SAMPLER, "traceidratio")],
            vec![(SAMPLER_ARG, "NaN"), (SAMPLER, "traceidratio")],
        ];
        for set in cases {
            let refused = read(&set).unwrap_err().to_string();
            assert!(refused.contains(set[0].0), "{set:?}: {refused}");
            assert!(!refused.contains("s3cret"), "{refused}");
            assert_eq!(refused.lines().count(), 1);
        }
    }

    #[test]
    fn headers_are_decoded_and_never_shown() {
        let set = [
            (ENDPOINT, "http://c:4318"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20s3cret, x-tenant=a=b,",
            ),
        ];
        let target = read(&set).unwrap().target.unwrap();
        assert_eq!(target.headers["authorization"], "Bearer s3cret");
        assert_eq!(target.headers["x-tenant"], "a=b");
        assert!(!format!("{target:?} {:?}", target.headers).contains("s3cret"));
    }

    #[test]
    fn a_name_in_the_environment_wins() {
        let name = |set: &[(&str, &str)]| {
            let resource = read(set).unwrap().resource;
            let key = opentelemetry::Key::new("service.name");
            resource.get(&key).map(|value| value.to_string())
        };
        assert_eq!(name(&[]).as_deref(), Some("test"));
        // The SDK takes it from the process's environment, which these tests leave alone.
        let named = [(RESOURCE, "deployment.environment=x,service.name=shop")];
        assert_ne!(name(&named).as_deref(), Some("test"));
    }
}
