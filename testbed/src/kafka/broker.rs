//! One broker of ours: its properties, its process, and starting it again after it was killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;

use crate::child::{Child, tail};
use crate::folder::Folder;
use crate::kafka::jars::Jars;
use crate::kafka::options::{Jvm, Options};
use crate::port::free_port;
use crate::signal::signal;
use crate::until::wait_for;

const PROPERTIES: &str = include_str!("../../kafka/server.properties");
const LOGGING: &str = include_str!("../../kafka/log4j2.xml");

/// Any 16 bytes, in Kafka's base64: no two of our brokers ever meet.
const CLUSTER_ID: &str = "cmVjb21wZW5zZS10ZXN0cw";

/// The flag that makes the virtual machine write its archive of loaded classes when it exits.
pub(super) const ARCHIVE_AT_EXIT: &str = "-XX:ArchiveClassesAtExit=";

const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Broker {
    // Before the folder: it is dropped first, and must be, for its data lies there.
    process: Option<Child>,
    jars: Jars,
    jvm: Jvm,
    extra_flag: Option<String>,
    port: u16,
    log: PathBuf,
    folder: Folder,
}

impl Broker {
    pub(super) async fn start(jars: Jars, options: Options) -> Result<Broker> {
        Broker::start_with_flag(jars, options, None).await
    }

    /// Starts a broker with one more flag for its virtual machine.
    pub(super) async fn start_with_flag(
        jars: Jars,
        options: Options,
        extra_flag: Option<String>,
    ) -> Result<Broker> {
        let folder = Folder::lasting_or_throw_away(options.folder.as_deref(), "kafka")?;
        let port = options.port.unwrap_or_else(free_port);
        let log = options
            .log
            .clone()
            .unwrap_or_else(|| folder.path().join("kafka.log"));
        let mut broker = Broker {
            process: None,
            jars,
            jvm: options.jvm,
            extra_flag,
            port,
            log,
            folder,
        };
        broker.write_settings(&options)?;
        if !broker.data().join("meta.properties").exists() {
            broker.format().await?;
        }
        broker.run().await?;
        Ok(broker)
    }

    /// Starts the process and waits until it serves.
    pub(super) async fn run(&mut self) -> Result<()> {
        let mut command = self.java();
        command
            .args(&self.extra_flag)
            .args(["-Xms256m", "-Xmx1g", "kafka.Kafka"])
            .arg(self.properties());
        let process = Child::spawn("Kafka", command, &self.log, "KILL").context(NO_JAVA)?;
        let ready = wait_for(START, "Kafka to be ready", async || {
            ensure!(process.ended()?.is_none(), "Kafka ended while starting");
            let started = process.output().contains("Kafka Server started");
            Ok(
                (started && TcpStream::connect(("127.0.0.1", self.port)).await.is_ok())
                    .then_some(()),
            )
        });
        let ready = ready.await;
        ready.map_err(|error| process.error(&error.to_string()))?;
        self.process = Some(process);
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.process.take().context(NOT_RUNNING)?.kill()?;
        Ok(())
    }

    /// A broker that does not run is stopped already.
    pub(super) async fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.terminate("TERM", STOP).await?;
        }
        Ok(())
    }

    pub(super) fn signal(&self, name: &str) -> Result<()> {
        signal(self.pid().context(NOT_RUNNING)?, name)
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
        tail(&fs::read_to_string(&self.log).unwrap_or_default())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn properties(&self) -> PathBuf {
        self.folder.path().join("server.properties")
    }

    fn logging(&self) -> PathBuf {
        self.folder.path().join("log4j2.xml")
    }

    fn write_settings(&self, options: &Options) -> Result<()> {
        let mut properties = PROPERTIES
            .replace("{port}", &self.port.to_string())
            .replace("{controller_port}", &free_port().to_string())
            .replace("{data}", &self.data().display().to_string());
        for (name, value) in &options.settings {
            properties.push_str(&format!("{name}={value}\n"));
        }
        fs::write(self.properties(), properties)?;
        fs::write(self.logging(), LOGGING)?;
        Ok(())
    }

    /// Gives an empty data folder its cluster and node identity.
    async fn format(&self) -> Result<()> {
        let mut command = self.java();
        command
            .args([
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                "-t",
                CLUSTER_ID,
                "-c",
            ])
            .arg(self.properties());
        let tool =
            Child::spawn("Kafka's StorageTool", command, &self.log, "KILL").context(NO_JAVA)?;
        let status = tool.wait(START).await?;
        ensure!(
            status.success(),
            tool.error("Kafka's data folder could not be formatted")
        );
        Ok(())
    }

    fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.arg("-XX:+UseSerialGC");
        if self.jvm == Jvm::QuickStart {
            java.arg("-XX:TieredStopAtLevel=1");
        }
        if let Some(archive) = self.jars.class_archive() {
            java.arg(format!("-XX:SharedArchiveFile={}", archive.display()));
        }
        java.arg(format!(
            "-Dlog4j2.configurationFile={}",
            self.logging().display()
        ));
        java.args(["-cp", &self.jars.class_path()]);
        java
    }
}

const NO_JAVA: &str =
    "Kafka runs on Java 17 or newer: install the Debian package `openjdk-17-jre-headless`";
const NOT_RUNNING: &str = "this Kafka is not running";
