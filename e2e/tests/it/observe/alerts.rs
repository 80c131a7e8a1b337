use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testbed::tool;

use crate::observe::measured::{rules, unknown_in};
use crate::observe::promql::selectors;

const RUNBOOK: &str = "docs/operations.md#";

fn alerts() -> BTreeMap<String, Value> {
    let alerts = rules().into_iter().filter_map(|rule| {
        let name = rule["alert"].as_str()?.to_owned();
        Some((name, rule))
    });
    alerts.collect()
}

/// The cases of `observe/prometheus/tests/`.
fn cases() -> Vec<Value> {
    let files = [
        include_str!("../../../../observe/prometheus/tests/outbox.yml"),
        include_str!("../../../../observe/prometheus/tests/sagas.yml"),
        include_str!("../../../../observe/prometheus/tests/processes.yml"),
    ];
    let mut cases = Vec::new();
    for file in files {
        let file: Value = serde_saphyr::from_str(file).expect("tests are YAML");
        cases.extend(file["tests"].as_array().expect("tests").clone());
    }
    cases
}

/// Runs promtool in `observe/prometheus`, with these arguments and the files of a folder.
fn promtool(arguments: &[&str], folder: Option<&str>) -> String {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../observe/prometheus");
    let files = folder.into_iter().flat_map(|folder| {
        let entries = std::fs::read_dir(top.join(folder)).expect("the folder");
        entries.map(|entry| entry.expect("an entry").path())
    });
    let output = Command::new(tool("promtool"))
        .current_dir(&top)
        .args(arguments)
        .args(files)
        .output()
        .expect("promtool runs: testbed/install-tools rules installs it");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("SUCCESS"), "{said}");
    said
}

#[test]
fn the_rules_pass_their_tests_in_promtool() {
    promtool(&["check", "config", "prometheus.yml"], None);
    let said = promtool(&["test", "rules"], Some("tests"));
    assert_eq!(said.matches("SUCCESS").count(), 3, "{said}");
}

#[test]
fn every_alert_is_seen_to_fire_and_to_keep_quiet() {
    let (mut fires, mut keeps_quiet) = (BTreeSet::new(), BTreeSet::new());
    for case in cases() {
        for check in case["alert_rule_test"].as_array().expect("checks") {
            let name = check["alertname"].as_str().expect("a name").to_owned();
            let expected = check["exp_alerts"].as_array().expect("what is expected");
            let quiet = expected.is_empty();
            let seen = if quiet { &mut keeps_quiet } else { &mut fires };
            seen.insert(name);
        }
    }
    // One that fires for one series and not for the others beside it keeps quiet too.
    let beside = ["OutboxBacklogGrows", "OutboxProducerResets"];
    keeps_quiet.extend(beside.map(str::to_owned));
    let alerts: BTreeSet<String> = alerts().into_keys().collect();
    assert_eq!(fires, alerts, "the alerts that fire in a test, and all");
    assert_eq!(keeps_quiet, alerts, "those that keep quiet in one, and all");
}

#[test]
fn the_tests_of_the_rules_speak_of_series_that_exist() {
    let mut wrong = BTreeSet::new();
    for case in cases() {
        for series in case["input_series"].as_array().expect("series") {
            let series = series["series"].as_str().expect("a series");
            // Somebody else's process may be anything.
            wrong.extend(unknown_in(series));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_alert_has_its_section_in_the_runbook_and_every_section_its_alert() {
    let operations = include_str!("../../../../docs/operations.md");
    let (_, part) = operations
        .split_once("\n## Alerts\n")
        .expect("operations.md has a part on alerts");
    let part = part.split("\n## ").next().unwrap_or_default();
    let sections: BTreeMap<&str, &str> = part
        .split("\n### ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .collect();
    let alerts = alerts();
    let named: BTreeSet<&str> = alerts.keys().map(String::as_str).collect();
    assert_eq!(sections.keys().copied().collect::<BTreeSet<_>>(), named);
    for (name, rule) in &alerts {
        let runbook = rule["annotations"]["runbook"].as_str().unwrap_or_default();
        assert_eq!(runbook, format!("{RUNBOOK}{}", name.to_lowercase()));
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["page", "ticket"].contains(&severity), "{name}: {severity}");
        let summary = rule["annotations"]["summary"].as_str().unwrap_or_default();
        assert!(!summary.is_empty(), "{name} says what is the matter");
        let section = sections[name.as_str()];
        for part in ["*Means.* ", "*Look.* ", "*Do.* "] {
            assert!(section.contains(part), "{name} has no {part}");
        }
    }
}

#[test]
fn what_is_recorded_is_used() {
    let dashboards = [
        include_str!("../../../../observe/grafana/dashboards/outbox.json"),
        include_str!("../../../../observe/grafana/dashboards/sagas.json"),
    ];
    let rules = rules();
    let asked: BTreeSet<String> = rules
        .iter()
        .flat_map(|rule| selectors(rule["expr"].as_str().unwrap_or_default()))
        .map(|selector| selector.name)
        .collect();
    for rule in &rules {
        let Some(name) = rule["record"].as_str() else {
            continue;
        };
        let shown = dashboards.iter().any(|dashboard| dashboard.contains(name));
        assert!(shown || asked.contains(name), "nobody asks for {name}");
    }
}
