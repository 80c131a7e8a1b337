//! The rules and the dashboards on a real Prometheus that asks the real shop.

use std::path::PathBuf;

use serde_json::Value;
use testbed::{Process, Shop, free_port, http, target_folder, until};
use uuid::Uuid;

use crate::observe::dashboards::{expressions, panels};
use crate::observe::measured::rules;
use crate::observe::promql::selectors;
use crate::shop::{self, Client, SOON, delivered_to, order};

/// So many panels have something to show after two orders.
const SHOWN: usize = 25;

/// A Prometheus that asks every second.
struct Prometheus {
    _process: Process,
    url: String,
    http: reqwest::Client,
}

impl Prometheus {
    async fn start(shop: &Shop) -> Prometheus {
        let folder = target_folder().join("e2e-prometheus");
        // What an earlier run left.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, config_for(shop)).expect("its configuration");
        let (port, data) = (free_port(), folder.join("data"));
        let mut process = Process::tool("prometheus")
            .expect("room for its output")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        process
            .start()
            .expect("prometheus: testbed/install-tools rules installs it");
        let url = format!("http://127.0.0.1:{port}");
        process
            .wait_for_ok(&format!("{url}/-/ready"))
            .await
            .expect("it is ready");
        Prometheus {
            _process: process,
            url,
            http: http(SOON),
        }
    }

    async fn ask(&self, path: &str) -> Value {
        let answer = self
            .http
            .get(format!("{}/api/v1/{path}", self.url))
            .send()
            .await;
        answer.expect("an answer").json().await.expect("JSON")
    }

    /// How many series an expression has now.
    async fn count(&self, expression: &str) -> usize {
        let answer = self
            .ask(&format!("query?query={}", encoded(expression)))
            .await;
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().map_or(0, Vec::len)
    }

    /// Whether all that an expression asks for is there.
    async fn has_all_of(&self, expression: &str) -> bool {
        for selector in selectors(expression) {
            if self.count(&selector.text).await == 0 {
                return false;
            }
        }
        true
    }
}

fn config_for(shop: &Shop) -> String {
    let rules = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../observe/prometheus/rules/*.yml"
    ));
    let mut config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{}\"]\nscrape_configs:\n  - job_name: shop\n    static_configs:\n",
        rules.display()
    );
    for department in shop.departments() {
        for (role, url) in [
            ("service", &department.service_url),
            ("relay", &department.relay_url),
        ] {
            let target = url.trim_start_matches("http://");
            let database = department.plan.name;
            config.push_str(&format!(
                "      - {{ targets: [\"{target}\"], labels: {{ role: {role}, database: {database} }} }}\n"
            ));
        }
    }
    config
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// As Grafana asks it, with everything chosen.
fn asked_by_grafana(expression: &str) -> String {
    expression
        .replace("$database", ".*")
        .replace("$definition", ".*")
        .replace("$__rate_interval", "30s")
        .replace("$__range", "5m")
}

#[tokio::test]
async fn rules_and_dashboards_see_the_running_shop() {
    let house = shop::shop().await;
    let (client, customer) = (Client::of(&house.shop), Uuid::now_v7());
    for order in [order(customer), delivered_to(customer, "00000")] {
        let placed = client.place(&order).await;
        client.ended(placed.id, SOON).await;
    }
    let prometheus = Prometheus::start(&house.shop).await;

    let all = house.shop.departments().len() * 2;
    until(SOON, "every process to be asked twice", async || {
        let up = prometheus
            .count("count_over_time(up[1m]) >= 2 and up == 1")
            .await;
        (up == all).then_some(())
    })
    .await;
    let wanted = rules().len();
    until(SOON, "every rule to have been looked at", async || {
        let answer = prometheus.ask("rules").await;
        let groups = answer["data"]["groups"].as_array().expect("groups");
        let rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().expect("rules"));
        let (mut well, mut sick) = (0, Vec::new());
        for rule in rules {
            match rule["health"].as_str() {
                Some("ok") => well += 1,
                Some("err") => sick.push(rule.clone()),
                _ => {}
            }
        }
        assert!(sick.is_empty(), "{sick:#?}");
        (well == wanted).then_some(())
    })
    .await;

    let mut shown = 0;
    for panel in panels() {
        for expression in expressions(&panel) {
            let expression = asked_by_grafana(&expression);
            // What never happened here has no series; of what did, the panel shows something.
            if prometheus.has_all_of(&expression).await {
                let what = format!("{} shows something: {expression}", panel["title"]);
                until(SOON, &what, async || {
                    (prometheus.count(&expression).await > 0).then_some(())
                })
                .await;
                shown += 1;
            }
        }
    }
    println!("{shown} expressions of the dashboards have something to show");
    assert!(
        shown >= SHOWN,
        "only {shown} expressions have something to show"
    );
}
