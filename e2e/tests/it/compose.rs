//! `compose.yaml` describes the same shop: there is no container engine in a test, so it is read.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use testbed::shop::PLANS;

fn compose() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose.yaml");
    let text = fs::read_to_string(file).expect("compose.yaml is readable");
    serde_saphyr::from_str(&text).expect("compose.yaml is YAML")
}

fn names(of: &Value) -> BTreeSet<&str> {
    of.as_object()
        .expect("a map")
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn compose_starts_a_relay_and_a_service_for_every_database_of_the_shop() {
    let compose = compose();
    let services = &compose["services"];
    let databases = compose["configs"]["databases"]["content"].as_str().unwrap();
    let migration = services["migrate"]["command"][0].as_str().unwrap();
    for plan in &PLANS {
        let url = format!("postgres://postgres:recompense@postgres:5432/{}", plan.name);
        let service = &services[plan.service];
        let relay = &services[format!("{}-relay", plan.name)];
        assert_eq!(service["command"][0], plan.service);
        assert_eq!(relay["command"][0], "relay");
        for process in [service, relay] {
            assert_eq!(process["environment"]["DATABASE_URL"], url.as_str());
            assert_eq!(process["environment"]["KAFKA_BROKERS"], "kafka:9092");
        }
        let listen = format!("0.0.0.0:{}", plan.port);
        assert_eq!(service["environment"]["LISTEN"], listen.as_str());
        assert!(databases.contains(&format!("create database {};", plan.name)));
        let schemas: String = plan
            .schemas
            .iter()
            .map(|s| format!(" --schema {s}"))
            .collect();
        let line = format!(
            "recompense migrate --database-url $$server/{}{schemas}",
            plan.name
        );
        assert!(migration.lines().any(|l| l == line), "missing: {line}");
    }
}

#[test]
fn compose_waits_for_health_and_publishes_to_this_machine_only() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services {
        if name != "migrate" {
            assert!(
                service["healthcheck"]["test"].is_array(),
                "{name} has a health check"
            );
        }
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(
                port.as_str().unwrap().starts_with("127.0.0.1:"),
                "{name}: {port}"
            );
        }
        let Some(needs) = service.get("depends_on") else {
            continue;
        };
        for needed in names(needs) {
            assert!(services.contains_key(needed), "{name} needs {needed}");
            let once_is_enough = needed == "migrate";
            let condition = if once_is_enough {
                "service_completed_successfully"
            } else {
                "service_healthy"
            };
            assert_eq!(
                needs[needed]["condition"], condition,
                "{name} needs {needed}"
            );
        }
    }
    let program = names(&compose["services"]["order-service"]["depends_on"]);
    assert_eq!(program, BTreeSet::from(["kafka", "migrate"]));
}
