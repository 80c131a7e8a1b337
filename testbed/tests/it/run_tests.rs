//! The summary that `make test` ends with.

use std::fs;
use std::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/run-tests");

/// What a cargo prints whose second target fails and whose third dies.
const CARGO: &str = r#"
     Running tests/it/main.rs (target/debug/deps/it-1)
test pages::a_page_is_short ... ok
test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out
     Running tests/it/main.rs (target/debug/deps/it-2)
test doors::a_door_is_shut ... FAILED
test doors::a_door_opens ... ok
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
error: test failed, to rerun pass `-p e2e --test it`
     Running tests/it/main.rs (target/debug/deps/it-3)
error: test failed, to rerun pass `-p saga --test it`
  process didn't exit successfully: `target/debug/deps/it-3` (signal: 11, SIGSEGV)
error: 2 targets failed:
"#;

fn run(outputs: &[(&str, i32)]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Command::new(SCRIPT);
    script.env("TEST_LOG_FOLDER", folder.path());
    for (index, (output, status)) in outputs.iter().enumerate() {
        let file = folder.path().join(format!("{index}.txt"));
        fs::write(&file, output).unwrap();
        script.arg(format!("cat {}; exit {status}", file.display()));
    }
    let output = script.output().unwrap();
    let summary = fs::read_to_string(folder.path().join("test-summary.txt")).unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.ends_with(&summary),
        "it is not at the end: {printed}"
    );
    (output.status.success(), summary)
}

#[test]
fn a_summary_names_each_test_that_failed_and_each_target_that_died() {
    let (succeeded, summary) = run(&[(CARGO, 101)]);
    assert!(!succeeded);
    let lines: Vec<_> = summary.lines().collect();
    assert_eq!(lines.len(), 3, "{summary}");
    assert!(lines[0].starts_with("FAILED doors::a_door_is_shut  in tests/it/main.rs"));
    assert!(lines[0].contains("it-2"), "{summary}");
    assert!(lines[1].contains("it-3") && lines[1].contains("signal: 11"));
    assert_eq!(lines[2], "2 tests passed, 1 failed, 2 ignored");
}

#[test]
fn what_follows_a_failure_runs_and_cannot_hide_it() {
    let passed = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\n";
    let broken = "error: could not compile `outbox` (lib) due to 1 previous error\n";
    let (succeeded, summary) = run(&[(broken, 101), (passed, 0)]);
    assert!(!succeeded, "{summary}");
    assert!(summary.contains("FAILED error: could not compile `outbox`"));
    assert!(summary.contains("3 tests passed"), "{summary}");
    let (succeeded, summary) = run(&[(passed, 0), (passed, 0)]);
    assert!(succeeded, "{summary}");
    assert_eq!(summary, "6 tests passed, 0 failed, 0 ignored\n");
}

#[test]
fn a_run_without_a_test_is_no_success() {
    let (succeeded, summary) = run(&[("", 0)]);
    assert!(!succeeded && summary.contains("no test ran"), "{summary}");
}
