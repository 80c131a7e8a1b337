//! What `up` started, as a file of shell assignments: for tools that join in, and for `down`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use testbed::shop::{PLANS, Plan};
use testbed::{Kafka, Postgres, Shop, command_line};

/// The assignments in `env`, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Record {
    assignments: Vec<(String, String)>,
}

/// A process of the record.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// A part of its command line: the pid may be somebody else's by now.
    mark: String,
}

impl Entry {
    /// Whether the process lives, and is the one that was recorded.
    pub(crate) fn is_alive(&self) -> bool {
        command_line(self.pid).is_some_and(|line| line.contains(&self.mark))
    }
}

impl Record {
    /// Everything that a person or a tool needs to join in.
    pub(crate) fn of(postgres: &Postgres, kafka: &Kafka, shop: &Shop) -> Record {
        let mut record = Record::default();
        for department in shop.departments() {
            let (name, service) = (upper(department.plan.name), upper(department.plan.service));
            record.put(format!("{name}_DATABASE_URL"), &department.database_url);
            record.put(format!("{service}_URL"), &department.service_url);
            record.put(format!("{service}_PID"), pid(department.service.pid()));
            record.put(format!("{name}_RELAY_URL"), &department.relay_url);
            record.put(format!("{name}_RELAY_PID"), pid(department.relay.pid()));
        }
        record.put("KAFKA_BROKERS", kafka.bootstrap());
        record.put("KAFKA_PID", pid(kafka.pid()));
        record.put("KAFKA_FOLDER", folder(kafka.folder()));
        record.put("POSTGRES_PID", pid(postgres.pid()));
        record.put("POSTGRES_FOLDER", folder(postgres.folder()));
        record
    }

    /// A process that answers at a URL.
    pub(crate) fn put_process(&mut self, name: &str, url: &str, process: Option<u32>) {
        self.put(format!("{name}_URL"), url);
        self.put(format!("{name}_PID"), pid(process));
    }

    /// What the folder's `env` says; `None` without that file.
    pub(crate) fn read(up: &Path) -> Result<Option<Record>> {
        let file = file(up);
        if !file.exists() {
            return Ok(None);
        }
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let assignments = text.lines().filter_map(|line| line.split_once('='));
        let unquoted =
            assignments.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()));
        Ok(Some(Record {
            assignments: unquoted.collect(),
        }))
    }

    /// Writes the folder's `env`, whole or not at all.
    pub(crate) fn write(&self, up: &Path) -> Result<()> {
        let lines: String = self
            .assignments
            .iter()
            .map(|(name, value)| format!("{name}={}\n", quoted(value)))
            .collect();
        let fresh = up.join("env.new");
        fs::write(&fresh, lines).with_context(|| format!("cannot write {}", fresh.display()))?;
        Ok(fs::rename(fresh, file(up))?)
    }

    pub(crate) fn remove(up: &Path) -> Result<()> {
        Ok(fs::remove_file(file(up))?)
    }

    /// Gateway, services, relays, Kafka, Postgres: the order in which to stop them, and in which each group may go at once.
    pub(crate) fn groups(&self) -> [Vec<Entry>; 5] {
        let service = |plan: &Plan| self.entry(&upper(plan.service), format!("/{}", plan.service));
        let relay =
            |plan: &Plan| self.entry(&format!("{}_RELAY", upper(plan.name)), "/relay".into());
        let server = |name: &str| self.entry(name, self.value(&format!("{name}_FOLDER"))?);
        let second = self.entry("ORDER_SERVICE_2", "/order-service".into());
        let gateway = self.entry("GATEWAY", "gateway/Caddyfile".into());
        [
            gateway.into_iter().collect(),
            PLANS.iter().filter_map(service).chain(second).collect(),
            PLANS.iter().filter_map(relay).collect(),
            server("KAFKA").into_iter().collect(),
            server("POSTGRES").into_iter().collect(),
        ]
    }

    /// The throw-away folders of the servers.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        ["KAFKA_FOLDER", "POSTGRES_FOLDER"]
            .iter()
            .filter_map(|name| self.value(name))
            .map(PathBuf::from)
            .collect()
    }

    /// `mark` is a path: a binary's ends in its name, and a server was given its folder.
    fn entry(&self, name: &str, mark: String) -> Option<Entry> {
        let pid = self.value(&format!("{name}_PID"))?.parse().ok()?;
        let name = name.to_lowercase().replace('_', "-");
        Some(Entry { name, pid, mark })
    }

    fn put(&mut self, name: impl Into<String>, value: impl AsRef<str>) {
        self.assignments
            .push((name.into(), value.as_ref().to_owned()));
    }

    fn value(&self, name: &str) -> Option<String> {
        self.assignments
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    }
}

/// For the shell, and readable without one where nothing needs a quote.
fn quoted(value: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/:@._-".contains(letter);
    if value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{value}'")
    }
}

fn file(up: &Path) -> PathBuf {
    up.join("env")
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn pid(pid: Option<u32>) -> String {
    pid.map(|pid| pid.to_string()).unwrap_or_default()
}

fn folder(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string())
        .unwrap_or_default()
}
