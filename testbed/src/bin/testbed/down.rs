//! `testbed down`: stops what `up` started, in an order in which nobody misses what it needs.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use testbed::{signal, wait_for};

use crate::record::{Entry, Record};

/// What a process gets to finish in before SIGKILL.
const GRACE: Duration = Duration::from_secs(15);

/// Stops every recorded process that still lives, and throws the servers' data away.
pub(crate) async fn down(folder: &Path) -> Result<ExitCode> {
    let Some(record) = Record::read(folder)? else {
        println!("nothing to stop: the shop is not up");
        return Ok(ExitCode::SUCCESS);
    };
    for group in record.groups() {
        stop(&group).await?;
    }
    for data in record.folders().iter().filter(|path| is_ours(path)) {
        // Gone already is as good.
        let _ = fs::remove_dir_all(data);
    }
    Record::remove(folder)?;
    println!("the shop is down; its logs stay in {}", folder.display());
    Ok(ExitCode::SUCCESS)
}

/// Asks all of a group at once, then waits for each.
async fn stop(group: &[Entry]) -> Result<()> {
    let alive: Vec<&Entry> = group.iter().filter(|entry| entry.is_alive()).collect();
    for entry in &alive {
        // Postgres takes SIGTERM as "when the last client has left"; SIGINT means now, in order.
        tell(
            entry,
            if entry.name == "postgres" {
                "INT"
            } else {
                "TERM"
            },
        );
    }
    for entry in alive {
        if ended(entry).await.is_err() {
            tell(entry, "KILL");
            ended(entry).await?;
        }
    }
    Ok(())
}

async fn ended(entry: &Entry) -> Result<()> {
    wait_for(GRACE, &format!("the end of {}", entry.name), async || {
        Ok((!entry.is_alive()).then_some(()))
    })
    .await
}

/// It may end in the moment between a look and a signal.
fn tell(entry: &Entry, name: &str) {
    let _ = signal(entry.pid, name);
}

/// Only what `up` made itself is removed, whatever the file says.
fn is_ours(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("recompense-"))
}
