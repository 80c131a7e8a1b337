use std::time::Duration;

use testbed::gateway::Options;
use testbed::{Gateway, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway::backend::{Backend, HEALTH};
use crate::shop::SOON;

/// A gateway with something behind each door.
struct House {
    gateway: Gateway,
    backends: Vec<Backend>,
}

impl House {
    async fn open() -> House {
        let mut backends = Vec::new();
        for name in ["orders", "payments", "deliveries", "notifications"] {
            backends.push(Backend::start(name).await);
        }
        let url = |index: usize| vec![backends[index].url.clone()];
        let options = Options {
            orders: url(0),
            payments: url(1),
            deliveries: url(2),
            notifications: url(3),
            ..Options::default()
        };
        let gateway = Gateway::start(options).await.expect("a gateway");
        House { gateway, backends }
    }

    /// Status line, head and body of the answer to a request line that no client would write.
    async fn ask_raw(&self, target: &str, host: &str) -> String {
        let address = self.gateway.url().trim_start_matches("http://");
        let mut connection = TcpStream::connect(address).await.expect("a connection");
        let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let written = connection.write_all(request.as_bytes()).await;
        written.expect("a request");
        let mut answer = String::new();
        let read = connection.read_to_string(&mut answer).await;
        read.expect("an answer");
        answer
    }

    fn asked(&self) -> usize {
        self.backends.iter().map(|one| one.asked().len()).sum()
    }
}

#[tokio::test]
async fn each_path_goes_to_its_service() {
    let house = House::open().await;
    let cases = [
        ("/v1/orders", "orders"),
        ("/v1/orders/018f0000", "orders"),
        ("/v1/sagas?status=parked", "orders"),
        ("/v1/sagas/018f0000/graph", "orders"),
        ("/v1/bulk-operations", "orders"),
        ("/", "orders"),
        ("/sagas", "orders"),
        ("/assets/dashboard.js", "orders"),
        ("/openapi.json", "orders"),
        ("/v1/payments", "payments"),
        ("/v1/payments/018f0000", "payments"),
        ("/v1/ledger", "payments"),
        ("/v1/deliveries?order_id=1", "deliveries"),
        ("/v1/notifications", "notifications"),
        // Not a payment: only whole words count.
        ("/v1/paymentsx", "orders"),
    ];
    for (target, service) in cases {
        let answer = http(SOON)
            .get(format!("{}{target}", house.gateway.url()))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200, "{target}");
        assert_eq!(answer.text().await.unwrap(), service, "{target}");
        let backend = house.backends.iter().find(|one| one.asked_for(target));
        assert!(backend.is_some(), "{target} arrives as it was sent");
    }
}

#[tokio::test]
async fn what_services_tell_their_keepers_stays_inside() {
    let house = House::open().await;
    let health = include_str!("../../../../chassis/src/health.rs");
    let paths: Vec<_> = health
        .split("\"/")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|path| format!("/{path}"))
        .collect();
    for kept in ["/healthz", "/metrics", "/readyz"] {
        assert!(paths.iter().any(|path| path == kept), "{paths:?}");
    }
    let mut spellings: Vec<String> = [
        HEALTH,
        "/%6detrics",
        "//metrics",
        "/./metrics",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "/v1/payments/../../metrics",
        "/METRICS",
        "/metrics/",
        "/metrics?a=b",
        "/metrics%2F",
    ]
    .map(str::to_owned)
    .into();
    spellings.extend(paths);
    for target in spellings {
        let answer = house.ask_raw(&target, "localhost").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{target}: {answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert_eq!(house.asked(), 0, "{target} reached a service");
    }
}

#[tokio::test]
async fn it_answers_to_its_own_names_only() {
    let house = House::open().await;
    for host in ["localhost", "127.0.0.1", "localhost:8080"] {
        let answer = house.ask_raw("/v1/orders", host).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    let seen = house.asked();
    for host in ["rebound.example", "localhost.rebound.example", "10.0.0.1"] {
        let answer = house.ask_raw("/v1/orders", host).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{host}: {answer}");
    }
    assert_eq!(house.asked(), seen, "a foreign name reached a service");
}

#[tokio::test]
async fn whoever_ends_tls_in_front_may_say_so() {
    let house = House::open().await;
    for said in [None, Some("https")] {
        let request = http(SOON).get(format!("{}/login", house.gateway.url()));
        let request = said.into_iter().fold(request, |request, protocol| {
            request.header("X-Forwarded-Proto", protocol)
        });
        request.send().await.expect("an answer");
        let asked = house.backends[0].asked().pop().expect("a request");
        assert_eq!(asked.protocol.as_deref(), said.or(Some("http")));
    }
}

#[tokio::test]
async fn it_logs_neither_headers_nor_bodies() {
    let house = House::open().await;
    let canary = "canary-7d1f";
    let sent = http(Duration::from_secs(10))
        .post(format!("{}/v1/orders", house.gateway.url()))
        .header("Idempotency-Key", canary)
        .header("Authorization", format!("Bearer {canary}"))
        .header("X-Other", canary)
        .body(canary)
        .send()
        .await;
    assert_eq!(sent.expect("an answer").status(), 200);
    let logged = async || {
        let log = house.gateway.output();
        log.contains("\"/v1/orders\"").then_some(log)
    };
    let log = testbed::until(SOON, "the request in the log", logged).await;
    assert!(!log.contains(canary), "{log}");
}
