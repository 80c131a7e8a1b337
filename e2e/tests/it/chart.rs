//! The Helm chart: linted, and what it makes of its values.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;
use testbed::shop::PLANS;
use testbed::tool;

use crate::shop::{Client, shop};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/recompense");
const BROKERS: &str = "kafka.brokers=kafka:9092";
/// Nobody is asked who he is.
const OPEN: &str = "auth.insecure=true";
const TOKENS: &str = "auth.tokensSecret=shop-tokens";
const JWT: [&str; 3] = [
    "auth.jwt.issuer=https://id.example",
    "auth.jwt.audience=shop",
    "auth.jwt.jwks=https://id.example/keys",
];
/// Everything that can be switched on.
const EVERYTHING: [&str; 10] = [
    BROKERS,
    TOKENS,
    JWT[0],
    JWT[1],
    JWT[2],
    "ingress.enabled=true",
    "ingress.host=shop.example",
    "serviceMonitor.enabled=true",
    "networkPolicy.enabled=true",
    "databases.orders.roles=shop",
];

fn helm(arguments: &[&str], values: &[&str]) -> Output {
    let mut helm = Command::new(tool("helm"));
    helm.args(arguments);
    for value in values {
        helm.args(["--set", value]);
    }
    // Whatever this user has told Helm is no part of it.
    helm.env("HELM_NAMESPACE", "shop")
        .env("KUBECONFIG", "/dev/null")
        .output()
        .expect("helm runs: testbed/install-tools chart installs it")
}

/// What is made of these values.
fn rendered(values: &[&str]) -> Vec<Value> {
    let output = helm(&["template", "recompense", CHART], values);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).expect("text");
    let documents = text
        .split("\n---")
        .map(|part| part.trim_start_matches("---"));
    let documents = documents.filter_map(|part| {
        let value: Value = serde_saphyr::from_str(part).ok()?;
        value.is_object().then_some(value)
    });
    documents.collect()
}

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|one| one["kind"] == kind).collect()
}

fn named<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = of_kind(all, kind).into_iter();
    let found = found.find(|one| one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The pod of a deployment or a job.
fn pod(of: &Value) -> &Value {
    &of["spec"]["template"]["spec"]
}

fn environment<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let variables = pod["containers"][0]["env"].as_array()?;
    variables.iter().find(|variable| variable["name"] == name)
}

/// The secrets that a pod is given, by any way there is.
fn secrets(pod: &Value) -> BTreeSet<String> {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        let children: Vec<&Value> = match value {
            Value::Object(fields) => {
                for key in ["secretKeyRef", "secretRef", "secret"] {
                    let name = fields
                        .get(key)
                        .map(|secret| secret["name"].as_str().or(secret["secretName"].as_str()));
                    found.extend(name.flatten().map(str::to_owned));
                }
                fields.values().collect()
            }
            Value::Array(items) => items.iter().collect(),
            _ => Vec::new(),
        };
        children.into_iter().for_each(|child| collect(child, found));
    }
    let mut found = BTreeSet::new();
    collect(pod, &mut found);
    found
}

#[test]
fn the_chart_is_linted() {
    for values in [&[BROKERS, OPEN][..], &EVERYTHING[..]] {
        let output = helm(&["lint", "--strict", CHART], values);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("1 chart(s) linted, 0 chart(s) failed"),
            "{said}"
        );
    }
}

#[test]
fn every_database_has_its_service_its_relays_and_its_migration() {
    let all = rendered(&EVERYTHING);
    assert_eq!(of_kind(&all, "Deployment").len(), PLANS.len() * 2);
    assert_eq!(of_kind(&all, "Job").len(), PLANS.len());
    assert_eq!(of_kind(&all, "PodDisruptionBudget").len(), PLANS.len() * 2);
    for plan in &PLANS {
        let service = named(&all, "Deployment", &format!("recompense-{}", plan.service));
        let container = &pod(service)["containers"][0];
        assert_eq!(container["command"][0], plan.service);
        assert_eq!(container["ports"][0]["containerPort"], plan.port);
        let listen = environment(pod(service), "LISTEN").expect("an address");
        assert_eq!(listen["value"], format!("0.0.0.0:{}", plan.port).as_str());
        let relay = named(
            &all,
            "Deployment",
            &format!("recompense-{}-relay", plan.name),
        );
        assert_eq!(pod(relay)["containers"][0]["command"][0], "relay");
        let source = environment(pod(relay), "SOURCE").expect("a source");
        assert_eq!(source["value"], format!("/{}", plan.name).as_str());
        assert_eq!(relay["spec"]["replicas"], 2, "one stands by");
        let job = named(&all, "Job", &format!("recompense-{}-migration", plan.name));
        let mut wanted: Vec<_> = plan
            .schemas
            .iter()
            .map(|s| format!("--schema={s}"))
            .collect();
        if plan.name == "orders" {
            wanted.push("--roles=shop".to_owned());
        }
        assert_eq!(pod(job)["containers"][0]["args"], serde_json::json!(wanted));
        assert_eq!(
            job["metadata"]["annotations"]["helm.sh/hook"],
            "pre-install,pre-upgrade"
        );
    }
}

#[test]
fn no_pod_is_given_a_secret_that_it_does_not_need() {
    let all = rendered(&EVERYTHING);
    for plan in &PLANS {
        for (kind, name, role) in [
            (
                "Deployment",
                format!("recompense-{}", plan.service),
                "service",
            ),
            (
                "Deployment",
                format!("recompense-{}-relay", plan.name),
                "relay",
            ),
            (
                "Job",
                format!("recompense-{}-migration", plan.name),
                "migrate",
            ),
        ] {
            let mut wanted = BTreeSet::from([format!("{}-{role}", plan.name)]);
            if role == "service" {
                wanted.insert("shop-tokens".to_owned());
            }
            assert_eq!(secrets(pod(named(&all, kind, &name))), wanted, "{name}");
        }
    }
    assert_eq!(of_kind(&all, "Secret").len(), 0, "none is made from values");
}

#[test]
fn programs_are_told_only_what_they_ask_for() {
    let settings = [
        include_str!("../../../chassis/src/config/settings.rs"),
        include_str!("../../../chassis/src/http/auth/settings.rs"),
        include_str!("../../../chassis/src/telemetry/settings.rs"),
        include_str!("../../../outbox/src/bin/relay.rs"),
        include_str!("../../../order-service/src/config.rs"),
    ];
    let all = rendered(&[
        BROKERS,
        OPEN,
        JWT[0],
        JWT[1],
        JWT[2],
        TOKENS,
        "telemetry.otlpEndpoint=http://collector:4318",
    ]);
    let mut told = BTreeSet::new();
    for one in of_kind(&all, "Deployment") {
        for variable in pod(one)["containers"][0]["env"].as_array().unwrap() {
            told.insert(variable["name"].as_str().unwrap().to_owned());
        }
    }
    assert!(told.len() >= 8, "{told:?}");
    for name in told {
        let asked = settings
            .iter()
            .any(|file| file.contains(&format!("\"{name}\"")));
        assert!(asked, "nobody reads {name}");
    }
}

#[test]
fn pods_are_asked_how_they_are_and_may_do_little() {
    let all = rendered(&[BROKERS, OPEN]);
    let pods = of_kind(&all, "Deployment")
        .into_iter()
        .chain(of_kind(&all, "Job"));
    for one in pods {
        let (name, pod) = (&one["metadata"]["name"], pod(one));
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert!(
            pod["securityContext"]["runAsUser"].as_i64() > Some(0),
            "{name}"
        );
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        let container = &pod["containers"][0];
        let may = &container["securityContext"];
        assert_eq!(may["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(may["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(
            may["capabilities"]["drop"],
            serde_json::json!(["ALL"]),
            "{name}"
        );
        for resource in ["requests", "limits"] {
            assert!(
                container["resources"][resource]["memory"].is_string(),
                "{name}"
            );
        }
        if one["kind"] == "Job" {
            continue;
        }
        let role = one["metadata"]["labels"]["recompense/role"].as_str();
        let ready = if role == Some("service") {
            "/readyz?exclude=broker&exclude=lease&exclude=consumer"
        } else {
            "/readyz"
        };
        let asked = |probe: &str| container[probe]["httpGet"]["path"].clone();
        assert_eq!(asked("readinessProbe"), ready, "{name}");
        assert_eq!(asked("livenessProbe"), "/healthz", "{name}");
        assert_eq!(asked("startupProbe"), "/healthz", "{name}");
        assert_eq!(
            one["spec"]["selector"]["matchLabels"]["recompense/role"],
            role.unwrap()
        );
    }
}

#[test]
fn what_is_optional_is_absent_unless_asked_for() {
    let all = rendered(&[BROKERS, OPEN]);
    for kind in ["Ingress", "ServiceMonitor", "NetworkPolicy"] {
        assert_eq!(of_kind(&all, kind).len(), 0, "{kind}");
    }
    let all = rendered(&EVERYTHING);
    let ingress = of_kind(&all, "Ingress")[0];
    let paths = ingress["spec"]["rules"][0]["http"]["paths"]
        .as_array()
        .unwrap();
    let paths: BTreeSet<_> = paths
        .iter()
        .filter_map(|path| path["path"].as_str())
        .collect();
    for path in ["/v1", "/v1/payments", "/v1/ledger", "/"] {
        assert!(paths.contains(path), "{path}");
    }
    let monitor = of_kind(&all, "ServiceMonitor")[0];
    let labels = monitor["spec"]["endpoints"][0]["relabelings"]
        .as_array()
        .unwrap();
    let labels: Vec<_> = labels.iter().map(|label| &label["targetLabel"]).collect();
    assert_eq!(labels, ["database", "role"], "what the rules go by");
    assert_eq!(of_kind(&all, "NetworkPolicy").len(), 3);
    let quiet = rendered(&[
        BROKERS,
        OPEN,
        "podDisruptionBudget.enabled=false",
        "migrations.enabled=false",
    ]);
    assert_eq!(of_kind(&quiet, "PodDisruptionBudget").len(), 0);
    assert_eq!(of_kind(&quiet, "Job").len(), 0);
}

#[tokio::test]
async fn the_ingress_leads_to_every_page_and_to_no_metrics() {
    let all = rendered(&EVERYTHING);
    let rules = &of_kind(&all, "Ingress")[0]["spec"]["rules"][0]["http"]["paths"];
    let rules = rules.as_array().unwrap();
    // Of those that fit, whole segments compared, the longest counts.
    let leads_to = |path: &str| {
        let fits = |rule: &&Value| {
            let wanted = rule["path"].as_str().unwrap();
            path == wanted
                || (rule["pathType"] == "Prefix" && path.starts_with(&format!("{wanted}/")))
        };
        let length = |rule: &&Value| rule["path"].as_str().unwrap().len();
        let rule = rules.iter().filter(fits).max_by_key(length)?;
        rule["backend"]["service"]["name"].as_str()
    };
    let house = shop().await;
    for plan in &PLANS {
        let department = house.shop.departments().into_iter();
        let mut department = department.filter(|one| one.plan.name == plan.name);
        let url = &department.next().expect("a department").service_url;
        let document: Value = Client::of(&house.shop)
            .read(&format!("{url}/openapi.json"))
            .await;
        let paths = document["paths"].as_object().expect("paths");
        for (path, methods) in paths {
            let is_page = |method: &Value| {
                let tags = method["tags"].as_array().into_iter().flatten();
                tags.clone().any(|tag| tag == "pages")
            };
            let is_page = methods.as_object().unwrap().values().any(is_page);
            let of_orders = is_page || plan.name == "orders";
            let led = leads_to(path);
            match path.as_str() {
                "/metrics" | "/healthz" | "/readyz" => assert_eq!(led, None, "{path}"),
                _ if of_orders => assert_eq!(led, Some("recompense-order-service"), "{path}"),
                // What every service has leads to that of the orders.
                _ => assert!(led.is_some(), "{path}"),
            }
        }
    }
    for (path, service) in [
        ("/v1/payments/1", "recompense-payment-service"),
        ("/v1/ledger", "recompense-payment-service"),
        ("/v1/deliveries", "recompense-delivery-service"),
        ("/v1/notifications", "recompense-notification-service"),
        ("/problems/not-found", "recompense-order-service"),
        ("/docs", "recompense-order-service"),
    ] {
        assert_eq!(leads_to(path), Some(service), "{path}");
    }
    for path in ["/metrics", "/readyz", "/healthz", "/metrics/x", "/v1x"] {
        assert_eq!(leads_to(path), None, "{path}");
    }
}

#[test]
fn whoever_is_not_named_reaches_nothing_and_services_reach_what_they_need() {
    let policies = |values: &[&str]| {
        let all = rendered(&[&EVERYTHING[..], values].concat());
        ["service", "relay", "migration"]
            .map(|role| named(&all, "NetworkPolicy", &format!("recompense-{role}"))["spec"].clone())
    };
    let ports = |rules: &Value| -> Vec<i64> {
        let rules = rules.as_array().unwrap().iter();
        let ports = rules.flat_map(|rule| rule["ports"].as_array().unwrap());
        ports.filter_map(|port| port["port"].as_i64()).collect()
    };
    let [service, relay, migration] = policies(&[]);
    let within = serde_json::json!([{
        "from": [{"podSelector": {}}], "ports": [{"port": "http"}],
    }]);
    assert_eq!(service["ingress"], within);
    assert_eq!(relay["ingress"], serde_json::json!([]), "nobody");
    assert_eq!(migration["ingress"], serde_json::json!([]), "nobody");
    assert_eq!(ports(&service["egress"]), [53, 53, 5432, 9092, 4318, 443]);
    assert_eq!(ports(&relay["egress"]), [53, 53, 5432, 9092, 4318]);
    let others = &service["egress"][2];
    let role = &others["to"][0]["podSelector"]["matchLabels"]["recompense/role"];
    assert_eq!(
        (role, &others["ports"][0]["port"]),
        (&"service".into(), &"http".into())
    );
    let [service, relay, _] = policies(&[
        "auth.jwt.jwks=https://id.example:8443/keys",
        "networkPolicy.from=null",
        "networkPolicy.scrapersFrom[0].namespaceSelector.matchLabels.name=monitoring",
    ]);
    let scrapers =
        serde_json::json!([{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]);
    assert_eq!(service["ingress"][0]["from"], scrapers);
    assert_eq!(relay["ingress"][0]["from"], scrapers);
    assert!(ports(&service["egress"]).contains(&8443));
}

#[test]
fn the_dashboard_knows_the_other_services() {
    let told = |values: &[&str]| {
        let all = rendered(&[&[BROKERS, OPEN][..], values].concat());
        let service = pod(named(&all, "Deployment", "recompense-order-service")).clone();
        let told = environment(&service, "DASHBOARD_NEIGHBOURS").expect("neighbours");
        let other = pod(named(&all, "Deployment", "recompense-payment-service"));
        assert!(environment(other, "DASHBOARD_NEIGHBOURS").is_none());
        told["value"].as_str().unwrap().to_owned()
    };
    let all = told(&[]);
    let all: BTreeSet<&str> = all.split(',').collect();
    let expected = BTreeSet::from([
        "payment-service=http://recompense-payment-service:8082",
        "delivery-service=http://recompense-delivery-service:8083",
        "notification-service=http://recompense-notification-service:8084",
    ]);
    assert_eq!(all, expected);
    let own = "databases.orders.env.DASHBOARD_NEIGHBOURS=a=http://b:1";
    assert_eq!(told(&[own]), "a=http://b:1");
}

#[test]
fn a_pod_that_is_not_ready_keeps_no_node_from_being_drained() {
    let all = rendered(&[BROKERS, OPEN]);
    for budget in of_kind(&all, "PodDisruptionBudget") {
        assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    }
}

#[test]
fn services_ask_who_calls_or_the_chart_is_not_rendered() {
    for (values, complaint) in [
        (vec![BROKERS], "nobody would be asked who he is"),
        (
            vec![BROKERS, "auth.insecure=false"],
            "set auth.tokensSecret",
        ),
        (vec![BROKERS, JWT[0], JWT[1]], "belong together"),
        (vec![BROKERS, TOKENS, JWT[2]], "belong together"),
        (
            vec![BROKERS, OPEN, "auth.jwt.algorithms=HS256"],
            "/auth/jwt/algorithms",
        ),
        (
            vec![BROKERS, OPEN, "auth.jwt.algorithms=none"],
            "/auth/jwt/algorithms",
        ),
    ] {
        let output = helm(&["template", "recompense", CHART], &values);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{values:?} is taken");
        assert!(said.contains(complaint), "{values:?}: {said}");
    }
    let all = rendered(&[BROKERS, TOKENS]);
    for plan in &PLANS {
        let service = pod(named(
            &all,
            "Deployment",
            &format!("recompense-{}", plan.service),
        ));
        let file = environment(service, "AUTH_TOKENS").expect("a file of tokens");
        let mount = &service["containers"][0]["volumeMounts"][0];
        let folder = mount["mountPath"].as_str().expect("a folder");
        assert_eq!(file["value"], format!("{folder}/tokens").as_str());
        assert_eq!(mount["readOnly"], true);
        assert_eq!(service["volumes"][0]["name"], mount["name"]);
        assert_eq!(service["volumes"][0]["secret"]["secretName"], "shop-tokens");
        assert!(environment(service, "INSECURE").is_none());
        assert!(environment(service, "JWT_ISSUER").is_none());
        let relay = format!("recompense-{}-relay", plan.name);
        let relay = pod(named(&all, "Deployment", &relay));
        assert!(
            environment(relay, "AUTH_TOKENS").is_none(),
            "it has nothing to hide"
        );
    }
    let all = rendered(&[&[BROKERS][..], &JWT[..]].concat());
    let service = pod(named(&all, "Deployment", "recompense-order-service"));
    let told = |name: &str| environment(service, name).expect("told")["value"].clone();
    assert_eq!(told("JWT_ISSUER"), "https://id.example");
    assert_eq!(told("JWT_AUDIENCE"), "shop");
    assert_eq!(told("JWT_JWKS"), "https://id.example/keys");
    assert_eq!(told("JWT_ALGORITHMS"), "RS256,ES256,EdDSA");
    assert!(service["volumes"].is_null());
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (values, complaint) in [
        (vec![], "/kafka/brokers"),
        (vec!["kafka.brokers=kafka"], "/kafka/brokers"),
        (vec![BROKERS, "relay.profile=fast"], "/relay/profile"),
        (
            vec![BROKERS, "databases.orders.replicas=0"],
            "/databases/orders/replicas",
        ),
        (
            vec![BROKERS, "databases.orders.secrets.relay="],
            "/databases/orders/secrets/relay",
        ),
        (
            vec![BROKERS, "databases.orders.env.DATABASE_URL=x"],
            "/databases/orders/env",
        ),
        (
            vec![BROKERS, "databases.orders.schemas={saga}"],
            "/databases/orders/schemas",
        ),
        (vec![BROKERS, "databases.Orders.port=1"], "Orders"),
        (vec![BROKERS, "kafka.broker=typo:9092"], "broker"),
        (
            vec![
                BROKERS,
                "ingress.paths[0].path=/metrics",
                "ingress.paths[0].database=orders",
            ],
            "/ingress/paths/0/path",
        ),
        (
            vec![
                BROKERS,
                "ingress.paths[0].path=/",
                "ingress.paths[0].database=orders",
            ],
            "/ingress/paths/0",
        ),
        (vec![BROKERS, "ingress.enabled=true"], "ingress.host"),
        (
            vec![
                BROKERS,
                "ingress.enabled=true",
                "ingress.host=a",
                "ingress.paths[0].path=/v1/x",
                "ingress.paths[0].database=returns",
            ],
            "no database returns",
        ),
    ] {
        let values = [values, vec![OPEN]].concat();
        let output = helm(&["template", "recompense", CHART], &values);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{values:?} is taken");
        assert!(said.contains(complaint), "{values:?}: {said}");
    }
}
