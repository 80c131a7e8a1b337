use std::time::Duration;

use reqwest::{Method, Response};
use testbed::gateway::Options;
use testbed::{Gateway, http, until};

use crate::gateway::backend::Backend;
use crate::shop::SOON;

/// One of two instances hangs up on whatever it is asked.
struct Pair {
    gateway: Gateway,
    sick: Backend,
    well: Backend,
}

impl Pair {
    async fn open() -> Pair {
        let (sick, well) = (Backend::start("sick").await, Backend::start("well").await);
        let options = Options {
            orders: vec![sick.url.clone(), well.url.clone()],
            ..Options::default()
        };
        let gateway = Gateway::start(options).await.expect("a gateway");
        sick.hangs_up(true);
        Pair {
            gateway,
            sick,
            well,
        }
    }

    async fn send(&self, method: Method, key: Option<&str>, body: &str) -> Response {
        let url = format!("{}/v1/orders", self.gateway.url());
        let request = http(SOON).request(method, url);
        let request = match key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        };
        let sent = request.body(body.to_owned()).send().await;
        sent.expect("an answer")
    }

    /// Sends such requests, each with a body of its own, until one met the sick instance; its body and its answer.
    async fn send_to_the_sick(&self, method: Method, key: Option<&str>) -> (String, Response) {
        let what = format!("a {method} to meet the sick instance");
        until(SOON, &what, async || {
            let body = format!("{method} {}", uuid::Uuid::now_v7());
            let answer = self.send(method.clone(), key, &body).await;
            (self.sick.asked_with(&body) > 0).then_some((body, answer))
        })
        .await
    }
}

#[tokio::test]
async fn a_post_with_a_key_is_sent_again_whole() {
    let pair = Pair::open().await;
    for _ in 0..3 {
        let (body, answer) = pair.send_to_the_sick(Method::POST, Some("key")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "well");
        assert_eq!(pair.well.asked_with(&body), 1, "the whole body, once");
    }
}

#[tokio::test]
async fn a_call_cut_off_after_a_long_time_is_sent_again() {
    let pair = Pair::open().await;
    // Longer than the gateway looks for an instance.
    pair.sick.thinks(Duration::from_secs(6));
    let (body, answer) = pair.send_to_the_sick(Method::POST, Some("key")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(pair.well.asked_with(&body), 1);
}

#[tokio::test]
async fn a_read_is_sent_again() {
    let pair = Pair::open().await;
    for method in [Method::GET, Method::HEAD] {
        let (_, answer) = pair.send_to_the_sick(method, None).await;
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_again() {
    let pair = Pair::open().await;
    for (method, key) in [
        (Method::POST, None),
        (Method::PUT, Some("key")),
        (Method::DELETE, None),
        (Method::PATCH, None),
    ] {
        let (body, answer) = pair.send_to_the_sick(method.clone(), key).await;
        assert_eq!(answer.status(), 502, "{method}");
        assert_eq!(pair.sick.asked_with(&body), 1, "{method}");
        assert_eq!(pair.well.asked_with(&body), 0, "{method}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.headers()["retry-after"], "1");
        let problem: serde_json::Value = answer.json().await.expect("a problem");
        assert_eq!(problem["status"], 502);
        assert_eq!(problem["title"], "Bad Gateway");
    }
}

#[tokio::test]
async fn an_instance_that_says_it_is_unwell_gets_nothing_until_it_is_well() {
    let pair = Pair::open().await;
    pair.sick.hangs_up(false);
    pair.sick.is_unwell(true);
    let spared = async || {
        let before = pair.sick.asked().len();
        for _ in 0..4 {
            assert_eq!(pair.send(Method::GET, None, "").await.status(), 200);
        }
        (pair.sick.asked().len() == before).then_some(())
    };
    until(SOON, "the gateway to notice", spared).await;

    pair.well.is_unwell(true);
    let nobody = async || {
        let answer = pair.send(Method::GET, None, "").await;
        (answer.status() == 503).then_some(answer)
    };
    let answer = until(SOON, "nobody to be well", nobody).await;
    assert_eq!(answer.headers()["retry-after"], "1");

    pair.sick.is_unwell(false);
    // It waits for one, and asks each second.
    assert_eq!(pair.send(Method::GET, None, "").await.status(), 200);
}
