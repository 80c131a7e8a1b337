//! Signals to processes, and what a process id stands for.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Sends a signal (`TERM`, `KILL`, `STOP`, …) to a process.
///
/// # Errors
/// If there is no such process, or it is not ours to signal.
pub fn signal(pid: u32, signal: &str) -> Result<()> {
    // The shell's own `kill`: the program of that name is absent from slim systems.
    let status = Command::new("sh")
        .args([
            "-c",
            r#"kill -s "$1" "$2""#,
            "kill",
            signal,
            &pid.to_string(),
        ])
        .stderr(Stdio::null())
        .status()
        .context("cannot run `sh`")?;
    ensure!(
        status.success(),
        "process {pid} took no {signal}: it is gone, or another user's"
    );
    Ok(())
}

/// The command line of a living process; `None` when there is no process of that id, or only a dead one's remains.
#[must_use]
pub fn command_line(pid: u32) -> Option<String> {
    let line = match std::fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => String::from_utf8_lossy(&line).replace('\0', " "),
        Err(_) => {
            let ps = Command::new("ps")
                .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
                .output()
                .ok()?;
            String::from_utf8_lossy(&ps.stdout).into_owned()
        }
    };
    let line = line.trim();
    (!line.is_empty() && !line.ends_with("<defunct>")).then(|| line.to_owned())
}
