//! What we started must not outlive us, not even when we are killed with SIGKILL and can tidy up nothing.
//!
//! One shell per process of ours reads from a pipe that only we hold open. While we live it learns what to guard and what to
//! release; when the pipe closes, for whatever reason, it ends the processes and removes the folders still on its list. This
//! needs neither `unsafe` nor a particular system, unlike a parent-death signal.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// `+item` guards, `-item` releases; an item is `p SIGNAL PID` or `d FOLDER`. The positional parameters are the list.
const SCRIPT: &str = r#"
trap '' HUP INT TERM QUIT
while IFS= read -r line; do
  item=${line#?}
  case $line in
    +*) set -- "$@" "$item" ;;
    -*) for known do shift; [ "$known" = "$item" ] || set -- "$@" "$known"; done ;;
  esac
done
for item do case $item in p*) kill -s ${item#p } ;; esac; done
for item do case $item in d*)
  for attempt in 1 2 3 4 5; do rm -rf -- "${item#d }" && break; sleep 1; done ;;
esac; done
"#;

static PIPE: Mutex<Option<Watchdog>> = Mutex::new(None);

struct Watchdog {
    pipe: ChildStdin,
    /// Never waited for: it ends after us.
    _shell: Child,
}

/// A guarded thing; dropping this releases it.
#[derive(Debug)]
pub(crate) struct Ward {
    item: String,
}

/// From now on `pid` gets `signal` (`KILL`, `QUIT`) when we are gone.
pub(crate) fn guard_process(pid: u32, signal: &str) -> Result<Ward> {
    guard(format!("p {signal} {pid}"))
}

/// From now on `path` is removed when we are gone.
pub(crate) fn guard_folder(path: &Path) -> Result<Ward> {
    let path = path.to_str().filter(|path| !path.contains('\n'));
    guard(format!(
        "d {}",
        path.context("a temporary folder's name must be plain text")?
    ))
}

fn guard(item: String) -> Result<Ward> {
    tell('+', &item).context("cannot start the watchdog: is there a shell `sh` on the PATH?")?;
    Ok(Ward { item })
}

fn tell(sign: char, item: &str) -> std::io::Result<()> {
    let mut pipe = PIPE.lock().unwrap_or_else(PoisonError::into_inner);
    let watchdog = match &mut *pipe {
        Some(watchdog) => watchdog,
        none => none.insert(start()?),
    };
    writeln!(watchdog.pipe, "{sign}{item}")
}

fn start() -> std::io::Result<Watchdog> {
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own: Ctrl-C in the terminal is not for it.
        .process_group(0)
        .spawn()?;
    let pipe = shell.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    Ok(Watchdog {
        pipe,
        _shell: shell,
    })
}

impl Drop for Ward {
    fn drop(&mut self) {
        // If the shell is gone there is nothing left to release from.
        let _ = tell('-', &self.item);
    }
}
