//! Every service keeps to what it says of itself, whatever it is sent: Schemathesis reads
//! `/openapi.json`, and asks what it allows and what it forbids.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::shop::{self, Guarded};

/// One service's questions.
const LIMIT: Duration = Duration::from_secs(240);
/// Never ends, and so has no answer to look at.
const ENDLESS: &str = "follow_sagas";
/// Where nobody is asked who he is, although the description says what he would have to be.
const OPEN: [&str; 4] = [
    "--exclude-checks",
    "ignored_auth,missing_required_header",
    "--generation-with-security-parameters",
    "false",
];

async fn fuzz(name: &str, url: &str, further: &[&str]) {
    let program = testbed::target_folder().join("tools/schemathesis/bin/st");
    assert!(program.exists(), "run ./testbed/install-tools fuzz first");
    let asking = Command::new(program)
        .args(["--config-file", &config()])
        .args(["run", &format!("{url}/openapi.json"), "--no-color"])
        .args(["--checks", "all", "--exclude-operation-id", ENDLESS])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "15", "--seed", "20260101", "--no-shrink"])
        .args(["--request-timeout", "20", "--suppress-health-check", "all"])
        .args(["--continue-on-failure", "--workers", "1"])
        .args(further)
        .current_dir(testbed::target_folder())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let asked = timeout(LIMIT, asking).await;
    let asked = asked.unwrap_or_else(|_| panic!("{name}: too many questions for {LIMIT:?}"));
    let asked = asked.expect("the program runs");
    let told = String::from_utf8_lossy(&asked.stdout);
    assert!(
        asked.status.success(),
        "{name}:\n{told}\n{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    // Who asks nothing finds nothing.
    assert!(
        told.contains("generated"),
        "{name} was asked nothing:\n{told}"
    );
}

/// What is right here although the tool would have it otherwise, each with its reason.
fn config() -> String {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis.toml");
    config.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_answers_otherwise_than_it_is_described() {
    // It replays and discards whatever it guesses the id of.
    let house = shop::shop_alone().await;
    for department in house.shop.departments() {
        fuzz(department.plan.service, &department.service_url, &OPEN).await;
    }
    let guarded = Guarded::start(&house).await;
    let header = format!("Authorization: Bearer {}", guarded.token);
    fuzz(
        "a guarded order-service",
        &guarded.url,
        &["--header", &header],
    )
    .await;
}
