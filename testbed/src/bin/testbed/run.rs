//! `testbed run`: servers that live exactly as long as one command.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context, Result};
use testbed::{Kafka, Postgres, signal};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal as listen};

/// Runs the command between the start and the stop of the servers. Its exit status is ours.
pub(crate) async fn run(command: &[OsString]) -> Result<ExitCode> {
    let (postgres, kafka) = tokio::try_join!(Postgres::start(), Kafka::start())?;
    let (program, arguments) = command.split_first().context("no command given")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("TESTBED_POSTGRES_URL", postgres.url("postgres"))
        .env("TESTBED_KAFKA", kafka.bootstrap())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            // A terminal's Ctrl-C reached the command too; it decides when it has ended.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => pass_on(child.id()),
        }
    };
    // Nobody needs their data any more: no orderly shutdown.
    drop((postgres, kafka));
    Ok(exit_code(status))
}

/// Hands our SIGTERM to the command. It may have ended in this moment, which the next turn of the loop sees.
fn pass_on(pid: Option<u32>) {
    if let Some(pid) = pid {
        let _ = signal(pid, "TERM");
    }
}

/// The command's own code, or 128 and its signal, as shells say it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
