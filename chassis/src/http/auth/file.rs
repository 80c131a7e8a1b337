//! A file that may change under us.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Larger ones are refused: somebody named another file.
const LARGEST: u64 = 1024 * 1024;

/// A file, and what stood in it when somebody last looked. Compared by its content and not by its
/// time of change: two changes within one tick of the file system's clock look like one.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    seen: Mutex<Option<Result<String, String>>>,
}

impl File {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            seen: Mutex::new(None),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What stands in it, if that is something else than at the last look; an error is told once.
    pub(super) fn changed(&self) -> Option<Result<String, String>> {
        let now = read(&self.path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref() == Some(&now) {
            return None;
        }
        *seen = Some(now.clone());
        Some(now)
    }
}

/// The error says why and not what: it may be another secret.
fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let mut limited = file.take(LARGEST + 1);
    match limited.read_to_string(&mut text) {
        Ok(length) if length as u64 > LARGEST => Err(format!("it has more than {LARGEST} bytes")),
        Ok(_) => Ok(text),
        Err(error) => Err(error.to_string()),
    }
}
