//! Folders: throw-away ones for data, lasting ones for downloads, and the lock that lets two processes share a download.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::watchdog::{self, Ward};

/// A folder with a server's data or logs.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Present while the folder is to be removed with us.
    ward: Option<Ward>,
}

impl Folder {
    /// A new folder that is removed when this value is dropped, or when our process dies.
    pub(crate) fn throw_away(prefix: &str) -> Result<Folder> {
        let parent = traversable_temp();
        let path = tempfile::Builder::new()
            .prefix(&format!("recompense-{prefix}-"))
            .tempdir_in(&parent)
            .with_context(|| {
                format!(
                    "no folder can be made in {}: set TMPDIR to one that is writable",
                    parent.display()
                )
            })?
            .keep();
        let ward = Some(watchdog::guard_folder(&path)?);
        Ok(Folder { path, ward })
    }

    /// A folder of the caller's, created if need be and never removed.
    pub(crate) fn lasting(path: &Path) -> Result<Folder> {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Folder {
            path: path.canonicalize()?,
            ward: None,
        })
    }

    /// The caller's folder if there is one, otherwise a throw-away one.
    pub(crate) fn lasting_or_throw_away(path: Option<&Path>, prefix: &str) -> Result<Folder> {
        path.map_or_else(|| Folder::throw_away(prefix), Folder::lasting)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder behind.
    pub(crate) fn keep(&mut self) {
        self.ward = None;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A server that was just killed may still be writing its last file: look again, for some seconds.
        for _ in 0..200 {
            if self.ward.is_none() || fs::remove_dir_all(&self.path).is_ok() || !self.path.exists()
            {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Where data goes: the system's temporary folder, or /tmp where another user could not enter that one.
fn traversable_temp() -> PathBuf {
    let preferred = std::env::temp_dir();
    if is_traversable(&preferred) {
        preferred
    } else {
        PathBuf::from("/tmp")
    }
}

/// Whether every user may walk through this folder and all above it.
pub(crate) fn is_traversable(path: &Path) -> bool {
    let open = |folder: &Path| {
        fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o001 != 0)
    };
    // What does not exist yet will be created with ordinary permissions.
    path.ancestors().filter(|folder| folder.exists()).all(open)
}

/// The workspace's `target` folder.
#[must_use]
pub fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    workspace.join("target")
}

/// The folder for downloads that `RECOMPENSE_CACHE` names.
pub(crate) fn chosen_cache() -> Option<PathBuf> {
    std::env::var_os("RECOMPENSE_CACHE")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// A program that `testbed/install-tools` fetched; if it did not, the one on the `PATH`.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let fetched = chosen_cache()
        .unwrap_or_else(target)
        .join("tools/bin")
        .join(name);
    if fetched.is_file() {
        std::path::absolute(&fetched).unwrap_or(fetched)
    } else {
        PathBuf::from(name)
    }
}

/// Holds the lock of `folder` until the returned file is dropped; a second process waits here while a first one downloads.
pub(crate) async fn lock(folder: PathBuf) -> Result<File> {
    let locked = tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let file = File::create(folder.join("lock"))
            .with_context(|| format!("cannot write in {}", folder.display()))?;
        file.lock()?;
        anyhow::Ok(file)
    });
    locked.await?
}
