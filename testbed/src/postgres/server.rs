//! One server of ours: its data, its process, and starting it again after it was killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child::{Child, tail};
use crate::folder::Folder;
use crate::port::free_port;
use crate::postgres::account::Account;
use crate::postgres::{binaries, options::Options};
use crate::until::wait_for;

/// Ample for a crash recovery on a busy machine.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Server {
    // Before the folder: it is dropped first, and must be, for its data lies there.
    process: Option<Child>,
    programs: PathBuf,
    account: Account,
    port: u16,
    log: PathBuf,
    options: Options,
    folder: Folder,
}

impl Server {
    pub(super) async fn start(options: Options) -> Result<Server> {
        let programs = binaries::find().await?;
        let folder = Folder::lasting_or_throw_away(options.folder.as_deref(), "postgres")?;
        let account = Account::for_folder(folder.path())?;
        let port = options.port.unwrap_or_else(free_port);
        let log = options
            .log
            .clone()
            .unwrap_or_else(|| folder.path().join("postgres.log"));
        let mut server = Server {
            process: None,
            programs,
            account,
            port,
            log,
            options,
            folder,
        };
        if !server.data().join("PG_VERSION").exists() {
            server.init().await?;
        }
        server.run().await?;
        Ok(server)
    }

    /// Starts the process and waits until it accepts connections.
    pub(super) async fn run(&mut self) -> Result<()> {
        let end = tokio::time::Instant::now() + START;
        loop {
            let process = Child::spawn("postgres", self.command(), &self.log, "QUIT")?;
            let error = match self.ready(&process).await {
                Ok(()) => {
                    self.process = Some(process);
                    return Ok(());
                }
                Err(error) => error,
            };
            // After SIGKILL the old server's backends need a moment to notice; until then a new one refuses the data.
            let refused = ["is still in use", "pre-existing shared memory block"];
            let output = process.output();
            if tokio::time::Instant::now() > end
                || !refused.iter().any(|reason| output.contains(reason))
            {
                return Err(error);
            }
        }
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .context("this Postgres is not running")?
            .kill()?;
        Ok(())
    }

    /// The fast shutdown. A server that does not run is stopped already.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.stop_by("INT").await
    }

    pub(super) async fn stop_by(&mut self, signal: &str) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.terminate(signal, STOP).await?;
        }
        Ok(())
    }

    pub(super) fn programs(&self) -> &Path {
        &self.programs
    }

    pub(super) fn detach(&mut self) {
        self.folder.keep();
        if let Some(process) = &self.process {
            process.detach();
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::pid)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn log_tail(&self) -> String {
        tail(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn init(&self) -> Result<()> {
        let mut command = self
            .account
            .command(&self.programs.join("initdb"), self.folder.path());
        command.arg("-D").arg(self.data()).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        command.args(["--no-sync", "--no-instructions"]);
        let initdb = Child::spawn("initdb", command, &self.log, "KILL")?;
        let status = initdb.wait(START).await?;
        ensure!(status.success(), initdb.error("initdb made no database"));
        Ok(())
    }

    fn command(&self) -> std::process::Command {
        let mut command = self
            .account
            .command(&self.programs.join("postgres"), self.folder.path());
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()]);
        for (name, value) in self.settings() {
            command.args(["-c", &format!("{name}={value}")]);
        }
        command
    }

    fn settings(&self) -> Vec<(String, String)> {
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut settings = vec![
            setting("listen_addresses", "127.0.0.1"),
            setting("unix_socket_directories", ""),
            setting("max_connections", &self.options.max_connections.to_string()),
            setting("max_prepared_transactions", "20"),
        ];
        if !self.options.durable {
            settings.extend(
                ["fsync", "synchronous_commit", "full_page_writes"]
                    .map(|name| setting(name, "off")),
            );
        }
        settings.extend(self.options.settings.iter().cloned());
        settings
    }

    async fn ready(&self, process: &Child) -> Result<()> {
        let pid_file = self.data().join("postmaster.pid");
        let ready = wait_for(START, "Postgres to be ready", async || {
            ensure!(process.ended()?.is_none(), "Postgres ended while starting");
            let status = std::fs::read_to_string(&pid_file).unwrap_or_default();
            Ok(says_ready(&status, process.pid()).then_some(()))
        });
        let ready = ready.await;
        ready.map_err(|error| process.error(&error.to_string()))
    }
}

/// Line 8 of `postmaster.pid` is the status, line 1 whose file it is: a killed server leaves its own behind.
fn says_ready(pid_file: &str, pid: u32) -> bool {
    let line = |number: usize| pid_file.lines().nth(number - 1).map(str::trim);
    line(1) == Some(&pid.to_string()) && line(8) == Some("ready")
}
