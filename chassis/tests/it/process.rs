use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use chassis::config::{self, Settings};
use chassis::shutdown::Tasks;

#[derive(Debug, clap::Parser)]
struct Config {
    #[command(flatten)]
    settings: Settings,
}

/// A process that runs one task of this kind under `chassis::run`, once it has started.
fn child(task: &str) -> (Child, impl Iterator<Item = String> + use<>) {
    // With fewer open files than it may have, as most systems start a process.
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -S -n 200 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args([
            "process::a_child_runs_a_service",
            "--exact",
            "--nocapture",
            "--quiet",
        ])
        .env("CHASSIS_TEST_TASK", task)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line == "started"));
    (child, lines)
}

/// Not a test of its own: what `child` runs.
#[test]
fn a_child_runs_a_service() {
    let Ok(task) = std::env::var("CHASSIS_TEST_TASK") else {
        return;
    };
    let arguments = [
        "shop",
        "--database-url=postgres://localhost/orders",
        "--kafka-brokers=localhost:9092",
        "--listen=127.0.0.1:0",
    ];
    let Config { settings } = config::parse_from(arguments.map(Into::into));
    let ended = chassis::run("shop", &settings.clone(), async |process| {
        let tasks = Tasks::new("shop", process.shutdown.clone());
        println!("started");
        tasks.spawn("task", async move {
            if task == "opens" {
                let files: Result<Vec<_>, _> =
                    (0..300).map(|_| std::fs::File::open("/dev/null")).collect();
                println!("opened {}", files.map_or(0, |files| files.len()));
            }
            if task == "fails" {
                return Err(std::io::Error::other("out of luck"));
            }
            process.shutdown.cancelled().await;
            println!("stopping");
            if task == "deaf" {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
        tasks.finish(Duration::from_secs(600)).await
    });
    println!("{ended:?}");
}

fn exit_code(code: std::process::ExitCode) -> String {
    format!("{code:?}")
}

fn wait(mut child: Child) -> ExitStatus {
    child.wait().unwrap()
}

#[test]
fn a_signal_ends_the_process_well() {
    let (child, mut lines) = child("listens");
    testbed::signal(child.id(), "TERM").unwrap();
    assert!(lines.any(|line| line == exit_code(std::process::ExitCode::SUCCESS)));
    wait(child);
}

#[test]
fn a_process_may_open_as_many_files_as_the_system_allows() {
    let (child, mut lines) = child("opens");
    assert_eq!(lines.next().as_deref(), Some("opened 300"));
    testbed::signal(child.id(), "TERM").unwrap();
    wait(child);
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let (child, mut lines) = child("deaf");
    testbed::signal(child.id(), "TERM").unwrap();
    assert!(lines.any(|line| line == "stopping"));
    testbed::signal(child.id(), "INT").unwrap();
    assert_eq!(wait(child).code(), Some(130));
}

#[test]
fn a_failed_task_ends_the_process_with_a_failure() {
    let (child, mut lines) = child("fails");
    assert!(lines.any(|line| line == exit_code(std::process::ExitCode::FAILURE)));
    wait(child);
}
