//! What the load meant to do and what became of it, in a file: the memory of the oracle.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What became of a transaction, as its writer saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Committed,
    Aborted,
    /// The connection was lost while the server was deciding.
    Unknown,
}

/// A message that a transaction enqueued: the `n`-th of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Enqueued {
    pub(crate) id: Uuid,
    pub(crate) key: String,
    pub(crate) n: i64,
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// Written before the commit. What a savepoint took back is not in `messages`.
    Intent {
        intent: i64,
        messages: Vec<Enqueued>,
    },
    Outcome {
        intent: i64,
        outcome: Outcome,
    },
}

/// A file of lines, each handed to the system at once: it survives everything but the machine.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    intents: AtomicI64,
}

/// One transaction, read back.
#[derive(Debug)]
pub(crate) struct Intent {
    pub(crate) messages: Vec<Enqueued>,
    pub(crate) outcome: Outcome,
}

impl Journal {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("journal-{}", Uuid::now_v7().simple()));
        let file = Mutex::new(File::create(&path).unwrap());
        let intents = AtomicI64::default();
        Self {
            path,
            file,
            intents,
        }
    }

    /// A number for a transaction to come.
    pub(crate) fn next_intent(&self) -> i64 {
        self.intents.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn intent(&self, intent: i64, messages: &[Enqueued]) {
        let messages = messages.to_vec();
        self.write(&Line::Intent { intent, messages });
    }

    pub(crate) fn outcome(&self, intent: i64, outcome: Outcome) {
        self.write(&Line::Outcome { intent, outcome });
    }

    fn write(&self, line: &Line) {
        let mut text = serde_json::to_string(line).unwrap();
        text.push('\n');
        self.file
            .lock()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Everything noted. An intent without an outcome never came to its commit.
    pub(crate) fn read(&self) -> BTreeMap<i64, Intent> {
        let text = std::fs::read_to_string(&self.path).unwrap();
        let mut intents = BTreeMap::new();
        for line in text.lines() {
            match serde_json::from_str(line).unwrap() {
                Line::Intent { intent, messages } => {
                    let outcome = Outcome::Aborted;
                    intents.insert(intent, Intent { messages, outcome });
                }
                Line::Outcome { intent, outcome } => {
                    // Without an intent it failed before it had enqueued everything.
                    if let Some(noted) = intents.get_mut(&intent) {
                        noted.outcome = outcome;
                    }
                }
            }
        }
        intents
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the load's journal: {}", self.path.display());
        } else {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
