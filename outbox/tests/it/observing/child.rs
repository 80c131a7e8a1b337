//! A process that does something and is watched doing it.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use chassis::telemetry::{self, Telemetry};
use testbed::collector::Collector;
use tokio::process::Command;

use crate::observing;

/// The scenario to run.
const SCENARIO: &str = "OUTBOX_TEST_SCENARIO";
/// What a line for the parent begins with.
const SAID: &str = "@@ ";
/// Long enough for a starved machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// What a child left behind.
pub(crate) struct Left {
    /// Name and value, as it said them.
    said: Vec<(String, String)>,
    /// Its log.
    pub(crate) log: String,
    /// What `/metrics` would have said at the end.
    pub(crate) metrics: String,
}

impl Left {
    /// What was said under a name; one value for each time.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let said = self.said.iter().filter(|(said, _)| said == name);
        said.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn one(&self, name: &str) -> &str {
        let [value] = self.all(name)[..] else {
            panic!("{name} was not said once: {:?}", self.said)
        };
        value
    }
}

/// Runs a scenario to its end, exporting to the collector if there is one.
pub(crate) async fn run(
    scenario: &str,
    collector: Option<&Collector>,
    environment: &[(&str, &str)],
) -> Left {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "observing::child::a_child_is_watched",
            "--exact",
            "--nocapture",
        ])
        .env(SCENARIO, scenario)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // This machine's own are not the test's.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    if let Some(collector) = collector {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url());
        command.env("OTEL_BSP_SCHEDULE_DELAY", "100");
    }
    command.envs(environment.iter().copied());
    let output = tokio::time::timeout(DEADLINE, command.output());
    let output = output.await.expect("the child ends in time").unwrap();
    let (out, log) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    if !output.status.success() {
        let quiet = |line: &&str| !line.contains(r#""target":"sqlx::query""#);
        let log: Vec<_> = log.lines().filter(quiet).collect();
        panic!("{}\n{out}\n{}", output.status, log.join("\n"));
    }
    let lines = out.lines().filter_map(|line| line.strip_prefix(SAID));
    let said: Vec<_> = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let metrics = said.iter().filter(|(name, _)| name == "metric");
    let metrics = metrics.map(|(_, line)| format!("{line}\n")).collect();
    Left { said, log, metrics }
}

/// Tells the parent.
pub(crate) fn say(name: &str, value: impl std::fmt::Display) {
    println!("{SAID}{name}={value}");
}

/// Not a test of its own: what [`run`] runs.
#[test]
fn a_child_is_watched() {
    let Ok(scenario) = std::env::var(SCENARIO) else {
        return;
    };
    let filter = "debug,outbox=trace".parse().unwrap();
    let telemetry = telemetry::init("watched", chassis::config::LogFormat::Json, &filter).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(play(&scenario, &telemetry));
    for line in telemetry.metrics().render().lines() {
        say("metric", line);
    }
    let started = Instant::now();
    telemetry.flush();
    say("flushed_in_ms", started.elapsed().as_millis());
    // What was lost or exported is known only now.
    for line in telemetry.metrics().render().lines() {
        if line.starts_with("trace_spans_") {
            say("spans", line);
        }
    }
}

async fn play(scenario: &str, telemetry: &Telemetry) {
    match scenario {
        "life" => observing::traces::life().await,
        "quiet" => observing::traces::quiet().await,
        "trouble" => observing::trouble::business_as_usual().await,
        "given" => observing::traces::given().await,
        "later" => observing::parked::later().await,
        "metrics" => observing::metrics::everything(telemetry).await,
        other => panic!("no scenario {other}"),
    }
}
