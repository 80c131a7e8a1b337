//! The user a server runs as: ourselves, or another one when we are root, as which Postgres refuses to run.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// The user of least rights on Linux and macOS alike, by convention.
const NOBODY: u32 = 65534;

#[derive(Debug, Clone, Copy)]
pub(super) enum Account {
    Ourselves,
    Other { uid: u32, gid: u32 },
}

impl Account {
    /// The user for a server with this folder, who owns it from now on.
    pub(super) fn for_folder(folder: &Path) -> Result<Account> {
        if !is_root() {
            return Ok(Account::Ourselves);
        }
        let uid = id(&["-u", "postgres"]).unwrap_or(NOBODY);
        let gid = id(&["-g", "postgres"]).unwrap_or(NOBODY);
        chown(folder, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} to user {uid}", folder.display()))?;
        Ok(Account::Other { uid, gid })
    }

    /// `program`, to be run as this user inside `folder`.
    pub(super) fn command(self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder);
        if let Account::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// Whether we are root.
pub(super) fn is_root() -> bool {
    id(&["-u"]) == Some(0)
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id")
        .args(arguments)
        .stderr(std::process::Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
