//! One program as a child of ours: guarded by the watchdog, its output in a file, stopped when dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::signal::signal;
use crate::until::wait_for;
use crate::watchdog::{self, Ward};

/// Lines of a log that an error shows.
const TAIL: usize = 15;

#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    pid: u32,
    log: PathBuf,
    /// Where this run begins in a log that earlier runs wrote too.
    log_start: u64,
    process: Mutex<std::process::Child>,
    /// Present while the process is to end with us.
    ward: Mutex<Option<Ward>>,
}

impl Child {
    /// Starts `command`, its output appended to `log`. `last_signal` is what ends it if we die.
    pub(crate) fn spawn(
        name: &str,
        mut command: Command,
        log: &Path,
        last_signal: &str,
    ) -> Result<Child> {
        let file = open_log(log)?;
        let log_start = file.metadata()?.len();
        let process = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A group of its own: Ctrl-C reaches us, and we stop things in order.
            .process_group(0)
            .spawn()
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => {
                    anyhow::anyhow!("{name} is not installed (no {:?})", command.get_program())
                }
                _ => anyhow::Error::new(error).context(format!("cannot start {name}")),
            })?;
        let pid = process.id();
        Ok(Child {
            name: name.to_owned(),
            pid,
            log: log.to_owned(),
            log_start,
            process: Mutex::new(process),
            ward: Mutex::new(Some(watchdog::guard_process(pid, last_signal)?)),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The exit status, once it has ended.
    pub(crate) fn ended(&self) -> Result<Option<ExitStatus>> {
        let status = locked(&self.process).try_wait()?;
        if status.is_some() {
            self.detach();
        }
        Ok(status)
    }

    /// Waits until it ends by itself.
    pub(crate) async fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait_for(deadline, &what, async || self.ended()).await
    }

    /// SIGKILL, and gone when this returns.
    pub(crate) fn kill(&self) -> Result<ExitStatus> {
        let mut process = locked(&self.process);
        process.kill()?;
        let status = process.wait()?;
        self.detach();
        Ok(status)
    }

    /// Asks it to end with `ask`; SIGKILL if it has not by the deadline.
    pub(crate) async fn terminate(&self, ask: &str, deadline: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        signal(self.pid, ask)?;
        match self.wait(deadline).await {
            Ok(status) => Ok(status),
            Err(_) => self.kill(),
        }
    }

    /// From now on it lives without us, if it lives.
    pub(crate) fn detach(&self) {
        locked(&self.ward).take();
    }

    /// What this run wrote.
    pub(crate) fn output(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            file.seek(SeekFrom::Start(self.log_start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }

    /// An error that ends in the last lines of the log.
    pub(crate) fn error(&self, what: &str) -> anyhow::Error {
        anyhow::anyhow!(
            "{what}; the end of {}:\n{}",
            self.log.display(),
            tail(&self.output())
        )
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let ours = locked(&self.ward).is_some();
        if ours {
            // It may have ended already; either way there is nobody left to tell.
            let _ = self.kill();
        }
    }
}

fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_log(log: &Path) -> Result<File> {
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent)?;
    }
    let opened = OpenOptions::new().create(true).append(true).open(log);
    opened.with_context(|| format!("cannot write the log {}", log.display()))
}

/// The last lines of a text.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
