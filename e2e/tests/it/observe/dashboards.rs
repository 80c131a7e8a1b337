use std::collections::BTreeSet;

use serde_json::Value;

use crate::observe::measured::{documented, rules, unknown_in};

pub(super) const DASHBOARDS: [&str; 2] = [
    include_str!("../../../../observe/grafana/dashboards/outbox.json"),
    include_str!("../../../../observe/grafana/dashboards/sagas.json"),
];

/// The panels that show something.
pub(super) fn panels() -> Vec<Value> {
    let mut panels = Vec::new();
    for dashboard in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(dashboard).expect("a dashboard is JSON");
        let all = dashboard["panels"].as_array().expect("panels").clone();
        panels.extend(all.into_iter().filter(|panel| panel["type"] != "row"));
    }
    panels
}

/// The expressions of a panel.
pub(super) fn expressions(panel: &Value) -> Vec<String> {
    let targets = panel["targets"].as_array().expect("targets").iter();
    let expressions = targets.map(|target| target["expr"].as_str().expect("an expression"));
    expressions.map(str::to_owned).collect()
}

#[test]
fn every_name_and_label_that_a_panel_asks_for_exists() {
    let mut wrong = Vec::new();
    for panel in panels() {
        for expression in expressions(&panel) {
            for unknown in unknown_in(&expression) {
                wrong.push(format!("{}: {unknown}", panel["title"]));
            }
        }
    }
    for dashboard in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(dashboard).unwrap();
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let query = variable["definition"].as_str().expect("a query");
            let inner = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'))
                .expect("the values of a label");
            let (series, label) = inner.rsplit_once(", ").expect("of a series");
            wrong.extend(unknown_in(&format!("max by ({label}) ({series})")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_metric_is_on_a_dashboard_or_behind_one() {
    let mut shown: String = panels().iter().flat_map(expressions).collect();
    for rule in rules() {
        if rule["record"]
            .as_str()
            .is_some_and(|name| shown.contains(name))
        {
            shown.push_str(rule["expr"].as_str().unwrap_or_default());
        }
    }
    for name in documented().into_keys() {
        assert!(shown.contains(&name), "no panel shows {name}");
    }
}

#[test]
fn dashboards_are_whole() {
    let sources =
        include_str!("../../../../observe/grafana/provisioning/datasources/datasources.yml");
    let sources: Value = serde_saphyr::from_str(sources).expect("data sources are YAML");
    let sources = sources["datasources"].as_array().unwrap();
    let sources: BTreeSet<_> = sources
        .iter()
        .map(|source| source["uid"].as_str())
        .collect();
    let mut uids = BTreeSet::new();
    for dashboard in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(dashboard).unwrap();
        assert!(
            uids.insert(dashboard["uid"].to_string()),
            "a uid of its own"
        );
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_i64()).collect();
        assert_eq!(ids.len(), panels.len(), "an id of its own");
        let mut cells = BTreeSet::new();
        for panel in panels {
            let title = panel["title"].as_str().expect("a title");
            for cell in cells_of(&panel["gridPos"]) {
                assert!(
                    cell.0 < 24 && cells.insert(cell),
                    "{title} lies over another"
                );
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(
                panel["description"]
                    .as_str()
                    .is_some_and(|text| text.len() > 5),
                "{title}"
            );
            assert!(
                sources.contains(&panel["datasource"]["uid"].as_str()),
                "{title}"
            );
            assert!(
                panel["targets"]
                    .as_array()
                    .is_some_and(|all| !all.is_empty()),
                "{title}"
            );
        }
    }
}

fn cells_of(position: &Value) -> Vec<(i64, i64)> {
    let at = |name: &str| position[name].as_i64().expect("a place on the grid");
    let (x, y, w, h) = (at("x"), at("y"), at("w"), at("h"));
    let columns = x..x + w;
    columns
        .flat_map(|column| (y..y + h).map(move |row| (column, row)))
        .collect()
}
