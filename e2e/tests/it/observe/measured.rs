//! Every metric there is, as `docs/telemetry.md` lists it, and that it is what the code has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::observe::promql::{Selector, labels_grouped_by, selectors};

/// What whoever scrapes puts on each process, and Prometheus on each histogram.
const TARGET: [&str; 4] = ["database", "role", "instance", "le"];
const PREFIXES: [&str; 6] = ["outbox_", "inbox_", "saga_", "http_", "database_", "trace_"];

/// A row of the docs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metric {
    pub(super) kind: String,
    pub(super) labels: BTreeSet<String>,
}

/// The rows of `docs/telemetry.md`.
pub(super) fn documented() -> BTreeMap<String, Metric> {
    let docs = include_str!("../../../../docs/telemetry.md");
    let rows = docs.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, _, _] = cells[..] else {
            return None;
        };
        let is_metric = ["counter", "gauge", "histogram"].contains(&kind);
        is_metric.then(|| {
            let labels = labels
                .split(',')
                .map(|label| label.trim_matches([' ', '`']));
            let metric = Metric {
                kind: kind.to_owned(),
                labels: labels
                    .filter(|label| !label.is_empty())
                    .map(str::to_owned)
                    .collect(),
            };
            (name.trim_matches('`').to_owned(), metric)
        })
    });
    rows.collect()
}

/// The rules that `observe/` records, by name, with their expressions; the alerts' too.
pub(super) fn rules() -> Vec<Value> {
    let files = [
        include_str!("../../../../observe/prometheus/rules/recording.yml"),
        include_str!("../../../../observe/prometheus/rules/outbox.yml"),
        include_str!("../../../../observe/prometheus/rules/sagas.yml"),
        include_str!("../../../../observe/prometheus/rules/processes.yml"),
    ];
    let mut rules = Vec::new();
    for file in files {
        let file: Value = serde_saphyr::from_str(file).expect("rules are YAML");
        for group in file["groups"].as_array().expect("groups") {
            rules.extend(group["rules"].as_array().expect("rules").clone());
        }
    }
    rules
}

/// What is wrong with the names and labels of an expression.
pub(super) fn unknown_in(expression: &str) -> Vec<String> {
    let (metrics, recorded) = (documented(), recorded());
    let mut wrong = Vec::new();
    let mut known: BTreeSet<String> = TARGET.map(str::to_owned).into();
    for Selector { name, labels, .. } in selectors(expression) {
        let allowed = if name == "up" {
            BTreeSet::new()
        } else if let Some(labels) = recorded.get(&name) {
            labels.clone()
        } else if let Some(metric) = measured(&metrics, &name) {
            metric.labels.clone()
        } else {
            wrong.push(format!("nothing measures {name}"));
            continue;
        };
        for label in labels {
            if !allowed.contains(&label) && !TARGET.contains(&label.as_str()) {
                wrong.push(format!("{name} has no label {label}"));
            }
        }
        known.extend(allowed);
    }
    for label in labels_grouped_by(expression) {
        if !known.contains(&label) {
            wrong.push(format!("grouped by {label}, which nothing there has"));
        }
    }
    wrong
}

/// The metric behind a series' name: a histogram has three.
fn measured<'a>(metrics: &'a BTreeMap<String, Metric>, series: &str) -> Option<&'a Metric> {
    let exact = metrics
        .get(series)
        .filter(|metric| metric.kind != "histogram");
    exact.or_else(|| {
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| series.strip_suffix(suffix))?;
        metrics
            .get(name)
            .filter(|metric| metric.kind == "histogram")
    })
}

/// What the recording rules make, with the labels they group by.
fn recorded() -> BTreeMap<String, BTreeSet<String>> {
    let rules = rules();
    let records = rules.iter().filter_map(|rule| {
        let labels = labels_grouped_by(rule["expr"].as_str()?);
        Some((rule["record"].as_str()?.to_owned(), labels))
    });
    records.collect()
}

#[test]
fn the_docs_list_exactly_the_metrics_of_the_code() {
    let files = [
        include_str!("../../../../outbox/src/telemetry.rs"),
        include_str!("../../../../saga/src/telemetry.rs"),
        include_str!("../../../../chassis/src/names.rs"),
    ];
    let mut code = BTreeSet::new();
    for file in files {
        let product = file.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = product
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        // Every second piece stands between quotes.
        let quoted = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
        let is_name = |text: &&str| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            text.bytes().all(plain) && PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        };
        code.extend(quoted.filter(is_name).map(str::to_owned));
    }
    assert!(code.len() > 40, "{code:?}");
    let docs: BTreeSet<String> = documented().into_keys().collect();
    assert_eq!(docs, code, "docs/telemetry.md, and the code");
}

#[test]
fn every_name_and_label_that_a_rule_asks_for_exists() {
    let mut wrong = Vec::new();
    for rule in rules() {
        let name = rule["record"].as_str().or(rule["alert"].as_str());
        for unknown in unknown_in(rule["expr"].as_str().expect("an expression")) {
            wrong.push(format!("{}: {unknown}", name.unwrap_or_default()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_renamed_metric_or_label_is_noticed() {
    for expression in [
        "max(outbox_lease_holds) < 1",
        "sum by (database) (rate(inbox_retries_total{customer=\"x\"}[5m]))",
        "sum by (topic) (rate(outbox_published_total[5m]))",
        "rate(outbox_commit_to_ack_seconds[5m])",
        "recompense:nothing:p99",
        "rate(outbox_published_total_bucket[5m])",
    ] {
        assert_ne!(unknown_in(expression), Vec::<String>::new(), "{expression}");
    }
    for expression in [
        "up{role=\"relay\"} == 0 or absent(up)",
        "sum by (le, database) (rate(outbox_commit_to_ack_seconds_bucket[5m] offset 10m))",
        "recompense:outbox_parked:increase10m{class!=\"held\"} > bool 0",
    ] {
        assert_eq!(unknown_in(expression), Vec::<String>::new(), "{expression}");
    }
}
