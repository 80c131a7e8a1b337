//! The invariants of `ARCHITECTURE.md` that no compiler checks, each read off the source tree.
//!
//! A rule is a function from the tree to the places that break it. [`each_rule_notices_its_breach`] shows every one of
//! them a tree with one broken place more, so that none can fall silent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use toml::{Table, Value};

/// The crates that are the product; the others prove it, show it or measure it.
const PRODUCT: [&str; 10] = [
    "contracts",
    "outbox",
    "saga",
    "chassis",
    "order-service",
    "payment-service",
    "delivery-service",
    "notification-service",
    "dashboard",
    "cli",
];

/// Files of a crate that import each other, as they were when the rule was made. The list gets shorter, never longer.
const CIRCLES: [(&str, &str, &str); 36] = [
    ("chassis", "telemetry", "telemetry::settings"),
    ("cli", "saga::follow", "saga::look"),
    ("dashboard", "house", "pages"),
    ("order-service", "finish_order", "fulfilment"),
    ("outbox", "broker::kafka", "broker::kafka_consumer"),
    ("outbox", "broker::kafka", "broker::kafka_describe"),
    ("outbox", "broker::kafka", "broker::kafka_producer"),
    (
        "outbox",
        "incoming::parking::parked",
        "incoming::parking::table",
    ),
    ("outbox", "outgoing::leader", "outgoing::leader::asking"),
    ("outbox", "outgoing::leader", "outgoing::leader::parked"),
    ("outbox", "outgoing::leader", "outgoing::leader::stuck"),
    ("outbox", "outgoing::leader", "outgoing::relay"),
    ("outbox", "outgoing::lease", "outgoing::table"),
    ("outbox", "outgoing::table", "outgoing::unsent"),
    ("saga", "coordinator", "replies"),
    ("saga", "coordinator", "timers"),
    ("saga", "decide", "decide::turn"),
    ("saga", "event", "wire"),
    ("saga", "http::messages", "http::table"),
    ("saga", "http::stream::client", "http::stream::feed"),
    ("saga", "http::stream::client", "http::stream::watcher"),
    ("saga", "http::stream::registry", "http::stream::watcher"),
    ("saga", "locks::list", "locks::table"),
    ("saga", "operator::bulk::ask", "operator::bulk::table"),
    ("saga", "operator::bulk::look", "operator::bulk::table"),
    ("saga", "operator::intervene", "operator::table"),
    ("saga", "origin", "wire"),
    ("saga", "testing::course", "testing::lawful"),
    ("saga", "participant::barrier", "participant::outside"),
    (
        "saga",
        "participant::runner::list",
        "participant::runner::table",
    ),
    ("saga", "testing::books", "testing::course"),
    ("saga", "testing::closures", "testing::course"),
    ("saga", "testing::course", "testing::given"),
    ("saga", "testing::course", "testing::lengths"),
    ("saga", "testing::explore", "testing::undisturbed"),
    ("saga", "testing::moves", "testing::participants"),
];

/// Which of our crates a crate may depend on, beside itself in tests.
const ARROWS: [(&str, &[&str]); 11] = [
    ("contracts", &["outbox"]),
    ("outbox", &["chassis"]),
    ("saga", &["outbox"]),
    ("chassis", &[]),
    ("dashboard", &["chassis"]),
    (
        "order-service",
        &["contracts", "outbox", "saga", "chassis", "dashboard"],
    ),
    (
        "payment-service",
        &["contracts", "outbox", "saga", "chassis"],
    ),
    (
        "delivery-service",
        &["contracts", "outbox", "saga", "chassis"],
    ),
    ("notification-service", &["contracts", "outbox", "chassis"]),
    ("cli", &["chassis", "outbox", "saga"]),
    ("testbed", &[]),
];

type Rule = fn(&Tree) -> Vec<String>;

#[test]
fn only_table_files_speak_sql() {
    obey(
        "SQL stands in files named table.rs (and chassis/src/database.rs)",
        sql_elsewhere,
    );
}

#[test]
fn only_the_broker_folder_imports_rdkafka() {
    obey("only outbox/src/broker/ imports rdkafka", rdkafka_elsewhere);
}

#[test]
fn crates_depend_on_each_other_in_one_direction() {
    obey("crate arrows are those of ARCHITECTURE.md", foreign_arrows);
}

#[test]
fn the_pipe_stands_on_the_floor_only_when_asked_to() {
    obey(
        "outbox has chassis only behind its features `http`, `service` and `relay-bin`, and neither saga nor contracts asks for them",
        unasked_chassis,
    );
}

#[test]
fn decisions_are_pure() {
    obey(
        "saga/src/decide has no async, no SQL and no clock",
        impure_decisions,
    );
}

#[test]
fn nothing_is_unsafe() {
    obey("no `unsafe` anywhere", unsafe_code);
}

#[test]
fn every_crate_inherits_the_lints() {
    obey(
        "every crate has `[lints] workspace = true`, and the workspace forbids unsafe code",
        missing_lints,
    );
}

#[test]
fn no_module_imports_its_parent() {
    obey(
        "no `use super::` outside of tests; write `use crate::`",
        imports_of_parents,
    );
}

#[test]
fn every_dependency_comes_from_the_workspace() {
    obey("every dependency is `workspace = true`", private_versions);
}

#[test]
fn the_log_is_never_updated_or_deleted_row_by_row() {
    obey(
        "no `update` or `delete from` on outbox.log",
        changed_log_rows,
    );
}

#[test]
fn no_file_names_a_package_registry_or_a_place_on_somebodys_machine() {
    obey(
        "no hosts of package registries, no machine paths",
        places_of_a_machine,
    );
}

#[test]
fn the_workspace_lists_the_crates_that_exist() {
    obey(
        "members of Cargo.toml are the folders with a Cargo.toml",
        wrong_members,
    );
}

#[test]
fn every_schema_has_one_owner() {
    obey(
        "each migrations/<schema> has one crate whose sqlx.toml points to it",
        ownerless_schemas,
    );
}

#[test]
fn names_of_metrics_stand_in_one_file_per_crate() {
    obey(
        "metric names stand in files named telemetry.rs or names.rs",
        metric_names_elsewhere,
    );
}

#[test]
fn every_test_that_the_failure_modes_name_exists() {
    obey(
        "docs/failure-modes.md names tests as `file::name`, and each exists",
        absent_proofs,
    );
}

#[test]
fn no_two_files_import_each_other() {
    obey(
        "files of a crate import each other in one direction; move what both need into a third",
        circles,
    );
}

#[test]
fn code_behind_a_test_is_code() {
    let text = "fn a() {}\n#[cfg(test)]\nuse b;\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n// d\nfn e() {}\n";
    let file = Source {
        path: "outbox/src/x.rs".to_owned(),
        text: text.to_owned(),
    };
    let code: Vec<_> = file.code().collect();
    assert_eq!(code, [(1, "fn a() {}"), (9, "fn e() {}")]);
}

#[test]
fn each_rule_notices_its_breach() {
    let order = "order-service/src/http/orders.rs";
    let manifest = |crates: &str| format!("[package]\nname = \"x\"\n[dependencies]\n{crates}");
    let cases: [(Rule, &str, String); 28] = [
        (
            absent_proofs,
            FAILURE_MODES,
            "| `crashes::nothing_ever_fails` |".into(),
        ),
        (
            sql_elsewhere,
            order,
            "fn f() {\n    sqlx::query!(\"select 1\")\n}".into(),
        ),
        (sql_elsewhere, order, "pool.execute(\"select 1\")".into()),
        (
            sql_elsewhere,
            "dashboard/src/house.rs",
            "pool.execute(\"select 1\")".into(),
        ),
        (
            sql_elsewhere,
            order,
            "#[cfg(test)]\nmod tests {\n}\nfn f() {\n    pool.execute(\"select 1\")\n}".into(),
        ),
        (
            circles,
            "outbox/src/outgoing/cursor.rs",
            "use crate::{\n    Error,\n    outgoing::{leader::Leader, cursor_of_others},\n};"
                .into(),
        ),
        (
            circles,
            "chassis/src/names.rs",
            "fn f() {\n    crate::database::ping();\n}".into(),
        ),
        (
            circles,
            "cli/src/print.rs",
            "use crate::usage::Usage;\nuse crate::wait::Wait;".into(),
        ),
        (
            rdkafka_elsewhere,
            "outbox/src/outgoing/relay.rs",
            "use rdkafka::ClientConfig;".into(),
        ),
        (
            foreign_arrows,
            "notification-service/Cargo.toml",
            manifest("saga.workspace = true"),
        ),
        (
            foreign_arrows,
            "chassis/Cargo.toml",
            manifest("outbox.workspace = true"),
        ),
        (
            foreign_arrows,
            "saga/Cargo.toml",
            manifest("renamed = { package = \"chassis\", path = \"../chassis\" }"),
        ),
        (
            unasked_chassis,
            "outbox/Cargo.toml",
            manifest("chassis.workspace = true"),
        ),
        (
            unasked_chassis,
            "saga/Cargo.toml",
            manifest("outbox = { workspace = true, features = [\"service\"] }"),
        ),
        (
            impure_decisions,
            "saga/src/decide.rs",
            "let now = Utc::now();".into(),
        ),
        (
            impure_decisions,
            "saga/src/decide/step.rs",
            "async fn decide() {}".into(),
        ),
        (
            unsafe_code,
            "outbox/tests/it/main.rs",
            format!("{} {{ }}", ["un", "safe"].concat()),
        ),
        (missing_lints, "saga/Cargo.toml", manifest("")),
        (
            missing_lints,
            "Cargo.toml",
            "[workspace]\nmembers = []".into(),
        ),
        (
            imports_of_parents,
            order,
            "use super::Shop;\n#[cfg(test)]\nmod tests {}".into(),
        ),
        (private_versions, "cli/Cargo.toml", manifest("clap = \"4\"")),
        (
            changed_log_rows,
            "outbox/src/outgoing/table.rs",
            ["DELETE\n  from outbox", "log"].join("."),
        ),
        (
            changed_log_rows,
            "migrations/outbox/0009_x.sql",
            ["update outbox", "log set key = ''"].join("."),
        ),
        (
            places_of_a_machine,
            "README.md",
            ["see https://registry", "npmjs", "org/x"].join("."),
        ),
        (
            places_of_a_machine,
            "Makefile",
            ["cd ", "home", "me"].join("/"),
        ),
        (wrong_members, "new-crate/Cargo.toml", manifest("")),
        (
            ownerless_schemas,
            "migrations/returns/0001_returns.sql",
            "select 1".into(),
        ),
        (
            metric_names_elsewhere,
            "outbox/src/outgoing/relay.rs",
            "metrics::counter!(\n    \"x_total\"\n)".into(),
        ),
    ];
    let house = Tree::read();
    for (rule, path, text) in cases {
        let before: BTreeSet<_> = rule(&house).into_iter().collect();
        let broken = rule(&house.without(path).with(path, &text));
        let noticed = broken.iter().any(|place| !before.contains(place));
        assert!(noticed, "a rule is blind to this in {path}:\n{text}");
    }
}

fn obey(rule: &str, breaches: Rule) {
    let breaches = breaches(&Tree::read());
    assert!(
        breaches.is_empty(),
        "the rule: {rule}\nis broken at\n  {}",
        breaches.join("\n  ")
    );
}

// --- the rules ---

/// Pairs of files of a crate that import each other, unless they are known.
fn circles(tree: &Tree) -> Vec<String> {
    let mut breaches = Vec::new();
    for krate in PRODUCT {
        let top = format!("{krate}/src/");
        let files: BTreeMap<String, &Source> = tree
            .product_code()
            .filter_map(|file| Some((module(file.path.strip_prefix(&top)?), file)))
            .collect();
        let imports: BTreeMap<&str, BTreeSet<&str>> = files
            .iter()
            .map(|(name, file)| (name.as_str(), imported(file, name, &files)))
            .collect();
        for (one, others) in &imports {
            for other in others.iter().filter(|other| *other > one) {
                let known = CIRCLES.contains(&(krate, one, other));
                if imports[other].contains(one) && !known {
                    breaches.push(format!("{}: and {other}", files[*one].path));
                }
            }
        }
    }
    breaches
}

/// `outgoing/leader/mod.rs` and `outgoing/leader.rs` → `outgoing::leader`.
fn module(path: &str) -> String {
    let path = path.trim_end_matches(".rs");
    let mut parts: Vec<_> = path.split('/').collect();
    if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
        parts.pop();
    }
    parts.join("::")
}

/// The other files of the crate that a file's code names by `crate::…`.
fn imported<'f>(
    file: &Source,
    own: &str,
    files: &'f BTreeMap<String, &Source>,
) -> BTreeSet<&'f str> {
    let code: String = file.code().map(|(_, line)| format!("{line} ")).collect();
    let mut paths = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let rest = &code[at + start.len()..];
        let is_use = code[..at].trim_end().ends_with("use");
        let end = match is_use {
            true => rest.find(';'),
            false => rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c))),
        };
        expand("", &rest[..end.unwrap_or(rest.len())], &mut paths);
    }
    let owner = |path: &String| {
        let mut path = path.as_str();
        loop {
            if let Some((file, _)) = files.get_key_value(path) {
                return Some(file.as_str());
            }
            path = path.rsplit_once("::")?.0;
        }
    };
    let named = paths.iter().filter_map(owner);
    named
        .filter(|file| *file != own && !file.is_empty())
        .collect()
}

/// `a::{b, c::{d, e}}` → `a::b`, `a::c::d`, `a::c::e`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let (mut depth, mut begin) = (0, 0);
    let mut parts = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[begin..]);
    for part in parts.iter().map(|part| part.trim()) {
        match (part.split_once('{'), part.rsplit_once('}')) {
            (Some((head, _)), Some((whole, _))) => {
                let inner = &whole[head.len() + 1..];
                expand(&format!("{prefix}{head}"), inner, paths);
            }
            _ => paths.push(format!(
                "{prefix}{}",
                part.split(' ').next().unwrap_or(part)
            )),
        }
    }
}

fn sql_elsewhere(tree: &Tree) -> Vec<String> {
    let sql = [
        "query!(",
        "query_as!(",
        "query_scalar!(",
        "sqlx::query",
        "raw_sql(",
        "QueryBuilder",
        ".execute(\"",
        "AssertSqlSafe",
    ];
    let files = tree
        .product_code()
        .filter(|file| file.name() != "table.rs" && file.path != "chassis/src/database.rs");
    files.flat_map(|file| file.code_with(&sql)).collect()
}

fn rdkafka_elsewhere(tree: &Tree) -> Vec<String> {
    let files = tree
        .product_code()
        .filter(|file| !file.path.starts_with("outbox/src/broker/"));
    files
        .flat_map(|file| file.code_with(&["rdkafka::", "rdkafka as", "use rdkafka"]))
        .collect()
}

fn foreign_arrows(tree: &Tree) -> Vec<String> {
    let ours: BTreeSet<String> = tree.crates().map(|(name, _, _)| name).collect();
    let mut breaches = Vec::new();
    for (name, file, manifest) in tree.crates() {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            continue;
        };
        for kind in ["dependencies", "build-dependencies"] {
            for (dependency, how) in dependencies(&manifest, kind) {
                let package = how
                    .get("package")
                    .and_then(Value::as_str)
                    .unwrap_or(&dependency);
                if ours.contains(package) && !allowed.contains(&package) {
                    breaches.push(file.place(&dependency, &format!("{name} → {package}")));
                }
            }
        }
    }
    breaches
}

fn unasked_chassis(tree: &Tree) -> Vec<String> {
    let on_the_floor = ["chassis", "http", "service", "relay-bin"];
    let mut breaches = Vec::new();
    for (name, file, manifest) in tree.crates() {
        if name == "outbox" {
            let chassis = dependencies(&manifest, "dependencies").remove("chassis");
            if chassis.is_some_and(|how| how.get("optional") != Some(&Value::Boolean(true))) {
                breaches.push(file.place("chassis", "is not optional"));
            }
            let default = manifest.get("features").and_then(|all| all.get("default"));
            if texts(default)
                .iter()
                .any(|part| on_the_floor.iter().any(|floor| part.ends_with(floor)))
            {
                breaches.push(file.place("default", "a default feature asks for chassis"));
            }
        }
        if ["saga", "contracts"].contains(&name.as_str()) {
            let outbox = dependencies(&manifest, "dependencies")
                .remove("outbox")
                .unwrap_or_default();
            if texts(outbox.get("features"))
                .iter()
                .any(|part| on_the_floor.contains(part))
            {
                breaches.push(file.place("outbox", "asks for chassis"));
            }
        }
    }
    breaches
}

fn impure_decisions(tree: &Tree) -> Vec<String> {
    let impure = [
        "async ",
        "sqlx",
        "Utc::now",
        "Local::now",
        "Instant::",
        "SystemTime",
        "rand::",
    ];
    let files = tree
        .0
        .iter()
        .filter(|file| file.path.starts_with("saga/src/decide") && !file.path.contains("/tests"));
    let files: Vec<_> = files.collect();
    if files.is_empty() {
        return vec!["saga/src/decide.rs: is missing".to_owned()];
    }
    files
        .into_iter()
        .flat_map(|file| file.code_with(&impure))
        .collect()
}

fn unsafe_code(tree: &Tree) -> Vec<String> {
    let word = ["un", "safe"].concat();
    let rust = tree.0.iter().filter(|file| file.path.ends_with(".rs"));
    let is_keyword = |line: &str| {
        ["fn", "{", "impl", "trait", "extern"]
            .iter()
            .any(|next| line.contains(&format!("{word} {next}")))
    };
    rust.flat_map(|file| file.lines_where(is_keyword)).collect()
}

fn missing_lints(tree: &Tree) -> Vec<String> {
    let inherits = |manifest: &Table| {
        let lints = manifest.get("lints").and_then(Value::as_table);
        lints.is_some_and(|lints| lints.get("workspace") == Some(&Value::Boolean(true)))
    };
    let crates = tree.crates().filter(|(_, _, manifest)| !inherits(manifest));
    let mut breaches: Vec<_> = crates
        .map(|(_, file, _)| file.place("[package]", "does not inherit the lints"))
        .collect();
    let forbids = tree.workspace().and_then(|(_, workspace)| {
        let level = workspace
            .get("lints")?
            .get("rust")?
            .get(["un", "safe_code"].concat())?;
        Some(level.as_str() == Some("forbid"))
    });
    if forbids != Some(true) {
        breaches.push("Cargo.toml: the workspace's lints do not forbid it".to_owned());
    }
    breaches
}

fn imports_of_parents(tree: &Tree) -> Vec<String> {
    let code = tree.0.iter().filter(|file| file.is_source());
    code.flat_map(|file| file.code_with(&["use super::"]))
        .collect()
}

fn private_versions(tree: &Tree) -> Vec<String> {
    let mut breaches = Vec::new();
    for (_, file, manifest) in tree.crates() {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, how) in dependencies(&manifest, kind) {
                if how.get("workspace") != Some(&Value::Boolean(true)) {
                    breaches.push(file.place(&name, &format!("{name} has a version of its own")));
                }
            }
        }
    }
    breaches
}

fn changed_log_rows(tree: &Tree) -> Vec<String> {
    let code = tree
        .0
        .iter()
        .filter(|file| file.path.ends_with(".rs") || file.path.ends_with(".sql"));
    let mut breaches = Vec::new();
    for file in code {
        // A statement may go over several lines: words are compared, with the line each stands in.
        let words: Vec<(usize, String)> = file
            .lines()
            .flat_map(|(number, line)| line.split_whitespace().map(move |word| (number, word)))
            .map(|(number, word)| (number, word.trim_matches(['"', '(']).to_lowercase()))
            .collect();
        for (index, (number, word)) in words.iter().enumerate() {
            let before = |steps| {
                index
                    .checked_sub(steps)
                    .map_or("", |at: usize| words[at].1.as_str())
            };
            let only = if before(1) == "only" { 1 } else { 0 };
            let changes = before(1 + only) == "update"
                || (before(1 + only) == "from" && before(2 + only) == "delete");
            if changes && is_log(word) {
                breaches.push(format!("{}:{number}: changes rows of {word}", file.path));
            }
        }
    }
    breaches
}

/// `outbox.log` or one of its partitions.
fn is_log(word: &str) -> bool {
    let word = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    word.strip_prefix("outbox.log")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

fn places_of_a_machine(tree: &Tree) -> Vec<String> {
    let hosts = [
        ["index", "crates", "io"],
        ["static", "crates", "io"],
        ["repo", "maven", "apache"],
        ["repo1", "maven", "org"],
        ["registry", "npmjs", "org"],
        ["deb", "debian", "org"],
        ["archive", "ubuntu", "com"],
        ["files", "pythonhosted", "org"],
    ];
    let hosts = hosts.map(|parts| parts.join("."));
    let paths = ["home", "root", "work", "Users"].map(|folder| format!("/{folder}/"));
    // Where a package manager keeps its programs, on every machine that has it.
    let public = ["", "home", "linuxbrew", ""].join("/");
    let breaks = |line: &str| {
        let line = line.replace(&public, "");
        hosts.iter().any(|host| line.contains(host))
            || paths.iter().any(|path| {
                // A path begins there; `target/work/` is no machine's.
                line.match_indices(path).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    before.is_none_or(|c| !(c.is_ascii_alphanumeric() || "._-}*".contains(c)))
                })
            })
    };
    tree.0
        .iter()
        .flat_map(|file| file.lines_where(breaks))
        .collect()
}

fn wrong_members(tree: &Tree) -> Vec<String> {
    let members = tree.workspace().and_then(|(_, workspace)| {
        let members = workspace.get("members")?.as_array()?.clone();
        Some(
            members
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        )
    });
    let listed: BTreeSet<String> = members.unwrap_or_default();
    let present: BTreeSet<String> = tree.crates().map(|(name, _, _)| name).collect();
    let differ = listed.symmetric_difference(&present);
    differ
        .map(|name| format!("Cargo.toml: {name} is listed or is there, not both"))
        .collect()
}

fn ownerless_schemas(tree: &Tree) -> Vec<String> {
    let schema_of = |file: &Source| {
        let (schema, _) = file.path.strip_prefix("migrations/")?.split_once('/')?;
        Some(schema.to_owned())
    };
    let schemas: BTreeSet<String> = tree.0.iter().filter_map(schema_of).collect();
    let mut breaches = Vec::new();
    if schemas.is_empty() {
        breaches.push("migrations/: there are none".to_owned());
    }
    for schema in schemas {
        let folder = format!("\"../migrations/{schema}\"");
        let table = format!("\"{schema}._sqlx_migrations\"");
        let owners = tree.0.iter().filter(|file| {
            file.name() == "sqlx.toml" && file.text.contains(&folder) && file.text.contains(&table)
        });
        let owners = owners.count();
        if owners != 1 {
            breaches.push(format!("migrations/{schema}: {owners} crates own it"));
        }
    }
    breaches
}

fn metric_names_elsewhere(tree: &Tree) -> Vec<String> {
    let files = tree
        .product_code()
        .filter(|file| !["telemetry.rs", "names.rs"].contains(&file.name()));
    let mut breaches = Vec::new();
    for file in files {
        let code: Vec<_> = file.code().collect();
        for (index, (number, line)) in code.iter().enumerate() {
            let argument = ["counter!(", "gauge!(", "histogram!("]
                .iter()
                .find_map(|call| line.split_once(call).map(|(_, rest)| rest.trim()));
            let argument = match argument {
                Some("") => code.get(index + 1).map_or("", |(_, next)| next.trim()),
                Some(argument) => argument,
                None => continue,
            };
            if argument.starts_with('"') {
                breaches.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    breaches
}

const FAILURE_MODES: &str = "docs/failure-modes.md";

fn absent_proofs(tree: &Tree) -> Vec<String> {
    let modes = tree.0.iter().filter(|file| file.path == FAILURE_MODES);
    let mut breaches = Vec::new();
    let mut named = 0;
    for file in modes {
        for (number, line) in file.lines() {
            // Every second piece stands between backticks.
            for name in line.split('`').skip(1).step_by(2) {
                let Some((stem, test)) = name.split_once("::") else {
                    continue;
                };
                named += 1;
                let (file_name, declared) = (format!("{stem}.rs"), format!("fn {test}("));
                let exists = tree.0.iter().any(|file| {
                    let is_test = file.path.contains("/tests/") && file.name() == file_name;
                    is_test && file.text.contains(&declared)
                });
                if !exists {
                    breaches.push(format!("{}:{number}: there is no {name}", file.path));
                }
            }
        }
    }
    if named == 0 {
        breaches.push(format!("{FAILURE_MODES}: names no test"));
    }
    breaches
}

// --- the tree ---

/// Every text file of the workspace, by its path from the top.
#[derive(Clone)]
struct Tree(Vec<Source>);

#[derive(Clone)]
struct Source {
    path: String,
    text: String,
}

impl Tree {
    fn read() -> Tree {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        collect(&top, "", &mut files);
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let tree = Tree(files);
        assert!(
            tree.product_code().count() > 50,
            "the source tree was not found"
        );
        tree
    }

    fn without(&self, path: &str) -> Tree {
        Tree(
            self.0
                .iter()
                .filter(|file| file.path != path)
                .cloned()
                .collect(),
        )
    }

    fn with(mut self, path: &str, text: &str) -> Tree {
        self.0.push(Source {
            path: path.to_owned(),
            text: text.to_owned(),
        });
        self
    }

    /// The code that is delivered: no tests, no tools.
    fn product_code(&self) -> impl Iterator<Item = &Source> {
        let is_product = |file: &&Source| {
            let krate = file.path.split('/').next().unwrap_or_default();
            PRODUCT.contains(&krate) && file.is_source()
        };
        self.0.iter().filter(is_product)
    }

    /// Folder, manifest file and manifest of each crate.
    fn crates(&self) -> impl Iterator<Item = (String, &Source, Table)> {
        self.0.iter().filter_map(|file| {
            let folder = file.path.strip_suffix("/Cargo.toml")?;
            (!folder.contains('/')).then(|| (folder.to_owned(), file, file.toml()))
        })
    }

    fn workspace(&self) -> Option<(&Source, Table)> {
        let file = self.0.iter().find(|file| file.path == "Cargo.toml")?;
        Some((file, file.toml().get("workspace")?.as_table()?.clone()))
    }
}

impl Source {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Rust that is compiled into a library or a program, tests in files of their own aside.
    fn is_source(&self) -> bool {
        let in_src = self.path.split('/').nth(1) == Some("src");
        in_src && self.path.ends_with(".rs") && !self.path.contains("/tests")
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }

    /// The lines that are neither comments nor tests. An item of the tests ends with a brace in the first column, or in
    /// its first line.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut in_tests = false;
        self.lines().filter(move |(_, line)| {
            let is_test = in_tests || line.starts_with("#[cfg(test)]");
            let ends = match line.chars().next() {
                Some('}') => true,
                Some('#' | ' ') | None => false,
                Some(_) => line.ends_with([';', '}']),
            };
            in_tests = is_test && !ends;
            !is_test && !line.trim_start().starts_with("//")
        })
    }

    fn code_with(&self, needles: &[&str]) -> Vec<String> {
        let code = self
            .code()
            .filter(|(_, line)| needles.iter().any(|needle| line.contains(needle)));
        code.map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim()))
            .collect()
    }

    fn lines_where(&self, breaks: impl Fn(&str) -> bool) -> Vec<String> {
        let lines = self.lines().filter(|(_, line)| breaks(line));
        lines
            .map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim()))
            .collect()
    }

    /// The first line that begins with `what`, and what is wrong there.
    fn place(&self, what: &str, wrong: &str) -> String {
        let line = self.lines().find(|(_, line)| line.starts_with(what));
        let number = line.map_or(1, |(number, _)| number);
        format!("{}:{number}: {wrong}", self.path)
    }

    fn toml(&self) -> Table {
        self.text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", self.path))
    }
}

fn collect(folder: &Path, path: &str, files: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of the source tree") {
        let entry = entry.expect("an entry of the source tree");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}/{name}")
        };
        let kind = entry.file_type().expect("the type of an entry");
        if kind.is_dir() && ![".git", "target"].contains(&name.as_str()) {
            collect(&entry.path(), &path, files);
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            files.push(Source { path, text });
        }
    }
}

fn texts(list: Option<&Value>) -> Vec<&str> {
    let list = list.and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn dependencies(manifest: &Table, kind: &str) -> BTreeMap<String, Table> {
    let listed = manifest.get(kind).and_then(Value::as_table);
    let entry = |(name, how): (&String, &Value)| {
        let how = how.as_table().cloned().unwrap_or_default();
        (name.clone(), how)
    };
    listed.into_iter().flatten().map(entry).collect()
}
