//! The broker's jars: copied once by Maven into a cache folder, with an archive of loaded classes that halves the start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child::Child;
use crate::folder;
use crate::kafka::broker::{ARCHIVE_AT_EXIT, Broker};
use crate::kafka::options::Options;

const POM: &str = include_str!("../../kafka/pom.xml");
/// On a slow network, from an empty cache.
const FETCH: Duration = Duration::from_secs(600);

/// An installed broker.
#[derive(Debug, Clone)]
pub(super) struct Jars {
    folder: PathBuf,
}

impl Jars {
    /// The class path.
    pub(super) fn class_path(&self) -> String {
        format!("{}/*", self.folder.display())
    }

    /// The archive of loaded classes, if one could be made with this virtual machine.
    pub(super) fn class_archive(&self) -> Option<PathBuf> {
        let path = self.folder.join("classes.jsa");
        fs::metadata(&path)
            .is_ok_and(|found| found.len() > 0)
            .then_some(path)
    }
}

/// The jars, fetched if need be. Two processes at once are safe: one fetches, the other waits.
pub(super) async fn installed() -> Result<Jars> {
    let home = folder::chosen_cache()
        .unwrap_or_else(folder::target)
        .join("kafka");
    let jars = Jars {
        folder: home.join("lib"),
    };
    let _lock = folder::lock(home.clone()).await?;
    if !is_complete(&jars.folder) {
        fetch(&home, &jars.folder).await?;
    }
    if !jars.folder.join("classes.jsa").exists() {
        archive_classes(&jars).await?;
    }
    Ok(jars)
}

/// The POM lies beside the jars it names: another POM, other jars.
fn is_complete(lib: &Path) -> bool {
    fs::read_to_string(lib.join("pom.xml")).is_ok_and(|pom| pom == POM)
}

async fn fetch(home: &Path, lib: &Path) -> Result<()> {
    let fresh = home.join("lib.new");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh)?;
    fs::write(fresh.join("pom.xml"), POM)?;
    let mut command = Command::new("mvn");
    command
        .args(["-q", "-B", "dependency:copy-dependencies"])
        .arg("-f")
        .arg(fresh.join("pom.xml"));
    command.arg(format!("-DoutputDirectory={}", fresh.display()));
    let maven = Child::spawn("Maven", command, &home.join("mvn.log"), "KILL")
        .context("Kafka's jars come through Maven: install the Debian packages `maven` and `openjdk-17-jre-headless`")?;
    let status = maven.wait(FETCH).await?;
    ensure!(
        status.success(),
        maven.error("Maven could not copy Kafka's jars")
    );
    // Whole or not at all: the rename is the last step.
    let _ = fs::remove_dir_all(lib);
    fs::rename(&fresh, lib).context("the fetched jars cannot be put in their place")
}

/// Runs a broker once and keeps the list of classes it loaded. Without it everything works, a second later; so a failure
/// only leaves an empty file, which says not to try again.
async fn archive_classes(jars: &Jars) -> Result<()> {
    let fresh = jars.folder.join("classes.new");
    let train = async {
        let flag = format!("{ARCHIVE_AT_EXIT}{}", fresh.display());
        let mut broker =
            Broker::start_with_flag(jars.clone(), Options::default(), Some(flag)).await?;
        broker.stop().await
    };
    let trained = train.await;
    if !fresh.exists() {
        // A broker that does not start at all is not a matter of the archive.
        trained?;
        fs::write(&fresh, "")?;
    }
    fs::rename(&fresh, jars.folder.join("classes.jsa"))
        .context("the class archive cannot be put in its place")
}
