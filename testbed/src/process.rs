//! A process of ours: one of the workspace's binaries, run as a person would run it.
//!
//! *What passes here*: a program's name, its environment, and its life: started, ready, killed, started again with the same
//! settings. *If we die*, it is killed.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child::{Child, tail};
use crate::folder::{Folder, tool};
use crate::until::wait_for;

/// Long enough for topics to be created on a cold broker.
const READY: Duration = Duration::from_secs(60);
/// A health check that takes longer is a failed one.
const CHECK: Duration = Duration::from_secs(2);

/// A program, running or not. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Option<Child>,
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    _folder: Option<Folder>,
}

impl Process {
    /// The workspace's binary of this name, with its output in a throw-away file. It is not started yet.
    ///
    /// # Errors
    /// If the binary was not built.
    pub fn new(binary: &str) -> Result<Process> {
        Process::of(binary, find(binary)?)
    }

    /// A program that is not ours, as `testbed/install-tools` installs it. Whether there is one is seen at its start.
    ///
    /// # Errors
    /// If there is no room for its output.
    pub fn tool(name: &str) -> Result<Process> {
        Process::of(name, tool(name))
    }

    fn of(name: &str, program: PathBuf) -> Result<Process> {
        let folder = Folder::throw_away(name)?;
        let log = folder.path().join("log");
        let (arguments, environment) = (Vec::new(), Vec::new());
        Ok(Process {
            child: None,
            name: name.to_owned(),
            program,
            arguments,
            environment,
            log,
            _folder: Some(folder),
        })
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Process {
        self.arguments.push(argument.into());
        self
    }

    /// With an environment variable, beside those that we have.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Process {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// With its output appended to this file.
    #[must_use]
    pub fn log(mut self, path: impl Into<PathBuf>) -> Process {
        self.log = path.into();
        self._folder = None;
        self
    }

    /// Starts it, or starts it again with the same settings.
    ///
    /// # Errors
    /// If it runs already or cannot be run.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.name);
        }
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.child = Some(Child::spawn(&self.name, command, &self.log, "KILL")?);
        Ok(())
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let child = self.child.as_ref().filter(|_| self.is_running());
        child.map(Child::pid)
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| matches!(child.ended(), Ok(None)))
    }

    /// SIGKILL; gone when this returns.
    ///
    /// # Errors
    /// If it was not started.
    pub fn kill(&mut self) -> Result<()> {
        self.taken()?.kill()?;
        Ok(())
    }

    /// SIGTERM; SIGKILL if it has not ended by the deadline, which the status then shows.
    ///
    /// # Errors
    /// If it was not started.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.taken()?.terminate("TERM", deadline).await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it was not started, or the deadline passed.
    pub async fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        self.started()?.wait(deadline).await
    }

    /// Waits until `GET {base_url}/readyz` answers 200.
    ///
    /// # Errors
    /// As [`wait_for_ok`](Self::wait_for_ok).
    pub async fn wait_ready(&self, base_url: &str) -> Result<()> {
        self.wait_for_ok(&format!("{base_url}/readyz")).await
    }

    /// Waits until this URL answers 200.
    ///
    /// # Errors
    /// If it ends before that, or is not ready in a minute: with what it last answered and the end of its log.
    pub async fn wait_for_ok(&self, url: &str) -> Result<()> {
        let child = self.started()?;
        let http = crate::http(CHECK);
        let last = Mutex::new(String::new());
        let ready = wait_for(READY, "it to be ready", async || {
            if let Some(status) = child.ended()? {
                bail!("ended while starting ({status})");
            }
            let refusal = refusal(&http, url).await;
            Ok(match refusal {
                None => Some(()),
                Some(refusal) => {
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
                    None
                }
            })
        });
        let ready = ready.await;
        let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
        ready.map_err(|error| child.error(&format!("{}: {error}; last, {url}: {last}", self.name)))
    }

    /// What it has written since it was last started.
    #[must_use]
    pub fn output(&self) -> String {
        self.child.as_ref().map(Child::output).unwrap_or_default()
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// Lets it live on without us.
    pub fn detach(&self) {
        if let Some(child) = &self.child {
            child.detach();
        }
    }

    fn started(&self) -> Result<&Child> {
        let child = self.child.as_ref();
        child.with_context(|| format!("{} was not started", self.name))
    }

    fn taken(&mut self) -> Result<Child> {
        self.child
            .take()
            .with_context(|| format!("{} is not running", self.name))
    }
}

/// Why it is not ready, in its own words; `None` if it is.
async fn refusal(http: &reqwest::Client, url: &str) -> Option<String> {
    let answer = match http.get(url).send().await {
        Ok(answer) => answer,
        Err(_) => return Some("no answer".to_owned()),
    };
    let status = answer.status();
    let body = answer.text().await.unwrap_or_default();
    (status != 200).then(|| format!("{status} {body}"))
}

/// The binary beside the running one; a test's own binary lies one folder deeper.
fn find(binary: &str) -> Result<PathBuf> {
    let ourselves = std::env::current_exe()?;
    let candidates = ourselves
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(binary));
    let found = candidates.into_iter().find(|program| program.is_file());
    found.with_context(|| {
        format!("the program `{binary}` is not built: run `cargo build --workspace --bins` first")
    })
}
