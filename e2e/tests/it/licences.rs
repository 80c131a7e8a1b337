//! deny.toml, held against what is built in: so that it does not rot where nobody runs cargo-deny.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use toml::Table;

fn deny() -> Table {
    include_str!("../../../deny.toml")
        .parse()
        .expect("deny.toml is TOML")
}

/// Every crate that `Cargo.lock` has, as cargo describes it.
fn packages() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut cargo = Command::new(cargo);
    cargo
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--offline",
            "--all-features",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let output = cargo.output().expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages").clone();
    assert!(packages.len() > 200, "{} packages", packages.len());
    packages
}

fn text<'a>(package: &'a Value, name: &str) -> &'a str {
    package[name].as_str().unwrap_or_default()
}

fn texts(list: &toml::Value) -> BTreeSet<&str> {
    let list = list.as_array().expect("a list").iter();
    list.filter_map(toml::Value::as_str).collect()
}

/// Whether an SPDX expression can be met with these licences. `/` is the old way to write `or`.
fn is_met(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (met, rest) = either(&words, allowed);
    met && rest.is_empty()
}

fn either<'w, 'a>(words: &'w [&'a str], allowed: &BTreeSet<&str>) -> (bool, &'w [&'a str]) {
    let (mut met, mut rest) = both(words, allowed);
    while let ["OR", more @ ..] = rest {
        let (next, after) = both(more, allowed);
        met |= next;
        rest = after;
    }
    (met, rest)
}

fn both<'w, 'a>(words: &'w [&'a str], allowed: &BTreeSet<&str>) -> (bool, &'w [&'a str]) {
    let (mut met, mut rest) = one(words, allowed);
    while let ["AND", more @ ..] = rest {
        let (next, after) = one(more, allowed);
        met &= next;
        rest = after;
    }
    (met, rest)
}

fn one<'w, 'a>(words: &'w [&'a str], allowed: &BTreeSet<&str>) -> (bool, &'w [&'a str]) {
    match words {
        ["(", inside @ ..] => match either(inside, allowed) {
            (met, [")", rest @ ..]) => (met, rest),
            (_, rest) => (false, rest),
        },
        [name, "WITH", exception, rest @ ..] => {
            let whole = format!("{name} WITH {exception}");
            (allowed.contains(whole.as_str()), rest)
        }
        [name, rest @ ..] => (allowed.contains(name), rest),
        [] => (false, words),
    }
}

#[test]
fn an_expression_is_met_by_what_it_needs() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("GPL-3.0 OR MIT AND GPL-2.0", false),
        ("GPL-3.0 OR Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("(MIT", false),
        ("MIT)", false),
        ("", false),
    ] {
        assert_eq!(is_met(expression, &allowed), met, "{expression}");
    }
}

#[test]
fn every_crate_that_is_built_in_has_a_licence_that_is_allowed() {
    let deny = deny();
    let allowed = texts(&deny["licenses"]["allow"]);
    let packages = packages();
    let mut unused = allowed.clone();
    for package in &packages {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        assert!(is_met(licence, &allowed), "{name} is under {licence:?}");
        unused.retain(|allowed| !licence.contains(allowed));
    }
    assert!(unused.is_empty(), "nothing is under {unused:?} any more");
}

#[test]
fn every_crate_comes_from_the_registry_or_from_here() {
    let deny = deny();
    for kind in ["unknown-registry", "unknown-git"] {
        assert_eq!(deny["sources"][kind].as_str(), Some("deny"));
    }
    assert!(texts(&deny["sources"]["allow-git"]).is_empty());
    assert_eq!(deny["bans"]["wildcards"].as_str(), Some("deny"));
    let mut ours = 0;
    for package in packages() {
        let name = text(&package, "name").to_owned();
        match package["source"].as_str() {
            None => ours += 1,
            Some(source) => assert!(source.starts_with("registry+"), "{name} is from {source}"),
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let is_ours = package["source"].is_null();
            let wild = dependency["req"] == "*" && dependency["path"].is_null();
            assert!(
                !(is_ours && wild),
                "{name} takes any {}",
                dependency["name"]
            );
        }
    }
    assert!(ours >= 13, "{ours} crates are ours");
}

#[test]
fn no_crate_is_there_that_is_banned() {
    let deny = deny();
    let banned = deny["bans"]["deny"].as_array().expect("a list").iter();
    let banned: Vec<&str> = banned.filter_map(|ban| ban["crate"].as_str()).collect();
    assert!(banned.len() >= 3, "{banned:?}");
    for package in packages() {
        let name = text(&package, "name");
        assert!(!banned.contains(&name), "{name} is banned");
    }
}
