use std::ffi::OsString;
use std::process::{Command, Output};
use std::time::Duration;

use chassis::config::{self, LogFormat, Settings};

#[derive(Debug, Clone, clap::Parser)]
#[command(name = "shop", version, mut_arg("listen", |listen| listen.required(false).default_value("127.0.0.1:8081")))]
struct Config {
    #[command(flatten)]
    settings: Settings,
}

const COMPLETE: [&str; 4] = [
    "--database-url=postgres://shop:s3cret@localhost/orders",
    "--kafka-brokers=localhost:9092",
    "--database-connections=7",
    "--shutdown-timeout=1500ms",
];

/// The settings of a child that has no environment but this, as a service would meet them.
fn child(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "settings::a_child_prints_its_settings",
            "--exact",
            "--nocapture",
            "--quiet",
        ])
        .env_clear()
        .env("CHASSIS_TEST_ARGUMENTS", arguments.join(" "))
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// Not a test of its own: what `child` runs.
#[test]
fn a_child_prints_its_settings() {
    let Ok(arguments) = std::env::var("CHASSIS_TEST_ARGUMENTS") else {
        return;
    };
    let arguments = std::iter::once("shop").chain(arguments.split_whitespace());
    let config: Config = config::parse_from(arguments.map(OsString::from));
    println!("{config:?}");
}

fn refused(environment: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = child(environment, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    text.trim_end().to_owned()
}

#[test]
fn flags_and_environment_make_settings() {
    let environment = [
        ("DATABASE_URL", "postgres://shop:s3cret@localhost/orders"),
        ("KAFKA_BROKERS", "a:1,b:2"),
        ("MIGRATE", "1"),
        ("LOG_FORMAT", "json"),
        ("LISTEN", "127.0.0.1:9999"),
    ];
    let output = child(&environment, &["--listen=127.0.0.1:7777"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for expected in [
        "migrate: true",
        "log_format: Json",
        "127.0.0.1:7777",
        "postgres://shop@localhost:5432/orders",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn defaults_fill_what_is_not_given() {
    let output = child(&[], &COMPLETE);
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "migrate: false",
        "log_format: Auto",
        "127.0.0.1:8081",
        "database_connections: 7",
        "1.5s",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

#[test]
fn missing_settings_are_named_in_one_line() {
    let line = refused(&[], &[]);
    let expected = "error: missing setting: --database-url (environment DATABASE_URL), --kafka-brokers (environment KAFKA_BROKERS)";
    assert_eq!(line, expected);
}

#[test]
fn a_wrong_setting_is_named_in_one_line() {
    let url = "error: wrong setting --database-url (environment DATABASE_URL): ";
    let cases = [
        ("DATABASE_URL", "", format!("{url}must begin with postgres://")),
        ("DATABASE_URL", "s3cret@nowhere", format!("{url}must begin with postgres://")),
        (
            "DATABASE_URL",
            "postgres://shop:s3cret@host:port/orders",
            format!("{url}not a database URL: invalid port number"),
        ),
        (
            "KAFKA_BROKERS",
            "localhost",
            "error: wrong setting --kafka-brokers (environment KAFKA_BROKERS): must be host:port, several separated by commas".to_owned(),
        ),
        (
            "LISTEN",
            "8081",
            "error: wrong setting --listen (environment LISTEN): invalid socket address syntax".to_owned(),
        ),
        (
            "DATABASE_CONNECTIONS",
            "0",
            "error: wrong setting --database-connections (environment DATABASE_CONNECTIONS): 0 is not in 1..=1000".to_owned(),
        ),
        (
            "SHUTDOWN_TIMEOUT",
            "soon",
            "error: wrong setting --shutdown-timeout (environment SHUTDOWN_TIMEOUT): must be a duration such as 500ms, 2s, 5m, 1h or 7d".to_owned(),
        ),
        (
            "LOG_FORMAT",
            "xml",
            "error: wrong setting --log-format (environment LOG_FORMAT): must be one of auto, text, json".to_owned(),
        ),
        (
            "MIGRATE",
            "perhaps",
            "error: wrong setting --migrate (environment MIGRATE): value was not a boolean".to_owned(),
        ),
    ];
    for (variable, value, expected) in cases {
        let mut environment = vec![
            ("DATABASE_URL", "postgres://shop:s3cret@localhost/orders"),
            ("KAFKA_BROKERS", "localhost:9092"),
        ];
        environment.retain(|(name, _)| *name != variable);
        environment.push((variable, value));
        assert_eq!(refused(&environment, &[]), expected);
    }
    assert_eq!(
        refused(&[], &["--frobnicate"]),
        "error: unexpected argument '--frobnicate' found"
    );
    let line = refused(&[], &["--listen"]);
    assert_eq!(
        line,
        "error: wrong setting --listen (environment LISTEN): a value is needed"
    );
    let line = refused(&[("RUST_LOG", "a=b=c")], &COMPLETE);
    assert!(
        line.starts_with("error: wrong setting --log (environment RUST_LOG): "),
        "{line}"
    );
}

#[test]
fn help_and_version_are_no_errors_and_show_no_secret() {
    for asked in ["--help", "--version"] {
        let output = child(
            &[("DATABASE_URL", "postgres://shop:s3cret@localhost/orders")],
            &[asked],
        );
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(
            text.contains("shop") || text.contains("--database-url"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn settings_parse_without_a_process() {
    let arguments = std::iter::once("shop").chain(COMPLETE).map(OsString::from);
    let config: Config = config::try_parse_from(arguments).unwrap();
    assert_eq!(
        config.settings.shutdown_timeout,
        Duration::from_millis(1500)
    );
    assert_eq!(config.settings.log_format, LogFormat::Auto);
}
