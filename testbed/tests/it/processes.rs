use std::path::Path;
use std::process::Command;
use std::time::Duration;

use testbed::{Process, command_line, until};

#[tokio::test]
async fn a_program_that_was_not_built_is_named() {
    let error = Process::new("no-such-program").unwrap_err();
    assert!(error.to_string().contains("`no-such-program` is not built"));
}

#[tokio::test]
async fn a_process_ends_with_its_own_status() {
    let mut process = Process::new("testbed").unwrap().arg("no-such-command");
    process.start().unwrap();
    let status = process.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(process.log_tail().contains("unrecognized subcommand"));
}

#[tokio::test]
async fn servers_end_with_a_killed_run() {
    // The command writes its servers' address and then stays.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ports");
    let script = format!(
        "echo \"$TESTBED_POSTGRES_URL $TESTBED_KAFKA\" > {0}.new; mv {0}.new {0}; exec cat",
        file.display()
    );
    let mut run = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["run", "--", "sh", "-c", &script])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let read = async || std::fs::read_to_string(&file).ok();
    let ports = until(
        Duration::from_secs(120),
        "the servers of `testbed run`",
        read,
    )
    .await;
    let kafka = ports.split_whitespace().nth(1).unwrap().to_owned();
    tokio::net::TcpStream::connect(&kafka).await.unwrap();

    run.kill().unwrap();
    run.wait().unwrap();

    let closed = async || tokio::net::TcpStream::connect(&kafka).await.err();
    until(Duration::from_secs(20), "Kafka to end with the run", closed).await;
}

#[tokio::test]
async fn a_run_exits_as_its_command_did() {
    let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args([
            "run",
            "--",
            "sh",
            "-c",
            "test -n \"$TESTBED_KAFKA\" && exit 7",
        ])
        .status();
    assert_eq!(run.await.unwrap().code(), Some(7));
}

#[test]
fn a_command_line_is_that_of_the_living() {
    let ourselves = command_line(std::process::id()).unwrap();
    let program = std::env::current_exe().unwrap();
    let name = program
        .file_name()
        .and_then(|name| Path::new(name).to_str())
        .unwrap();
    assert!(ourselves.contains(name));
}
