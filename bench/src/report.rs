//! Figures with their spread and their targets.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::json;

use crate::settings::Arguments;

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

struct Figure {
    name: String,
    unit: &'static str,
    target: Option<Target>,
    runs: Vec<f64>,
}

/// Lowest, median, highest.
struct Spread(f64, f64, f64);

impl Figure {
    fn spread(&self) -> Spread {
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Spread(at(0), (at(last / 2) + at(sorted.len() / 2)) / 2.0, at(last))
    }

    fn row(&self) -> String {
        let Spread(lowest, median, highest) = self.spread();
        let (target, met) = match self.target {
            None => (String::new(), ""),
            Some(target) => {
                let text = match target {
                    Target::AtMost(limit) => format!("≤ {}", number(limit)),
                    Target::AtLeast(limit) => format!("≥ {}", number(limit)),
                };
                let met = match target.is_met(median) {
                    true => "met",
                    false => "**missed**",
                };
                (text, met)
            }
        };
        format!(
            "| {} | {} | {} | {} | {} | {target} | {met} |",
            self.name,
            number(median),
            number(lowest),
            number(highest),
            self.unit,
        )
    }
}

/// As many digits as anyone believes.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => format!("{value:.0}"),
        middle if middle >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

pub(crate) struct Report {
    machine: Vec<(&'static str, String)>,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(machine: Vec<(&'static str, String)>) -> Self {
        Self {
            machine,
            figures: Vec::new(),
        }
    }

    /// A figure of one run.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, run: f64) {
        self.note(name, unit, None, run);
    }

    /// A figure of one run that has a target.
    pub(crate) fn aim(&mut self, name: &str, unit: &'static str, target: Target, run: f64) {
        self.note(name, unit, Some(target), run);
    }

    fn note(&mut self, name: &str, unit: &'static str, target: Option<Target>, run: f64) {
        match self.figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.runs.push(run),
            None => self.figures.push(Figure {
                name: name.to_owned(),
                unit,
                target,
                runs: vec![run],
            }),
        }
        eprintln!("{name}: {} {unit}", number(run));
    }

    /// Prints the table, and writes the files asked for. A missed target is no error.
    pub(crate) fn print(&self, arguments: &Arguments) -> Result<()> {
        let table = self.table(arguments);
        println!("\n{table}");
        if let Some(path) = &arguments.json {
            let text = serde_json::to_string_pretty(&self.json(arguments))?;
            fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Some(path) = &arguments.markdown {
            replace(path, &table)?;
        }
        Ok(())
    }

    fn table(&self, arguments: &Arguments) -> String {
        let mut text = String::new();
        let mut line = |line: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        };
        for (name, value) in &self.machine {
            line(&format!("- {name}: {value}"));
        }
        line(&format!("- settings: {}\n", arguments.describe()));
        line("| measurement | median | lowest | highest | unit | target | |");
        line("|---|---:|---:|---:|---|---|---|");
        for figure in &self.figures {
            line(&figure.row());
        }
        text
    }

    fn json(&self, arguments: &Arguments) -> serde_json::Value {
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|figure| {
                let Spread(lowest, median, highest) = figure.spread();
                let (at_most, at_least) = match figure.target {
                    None => (None, None),
                    Some(Target::AtMost(limit)) => (Some(limit), None),
                    Some(Target::AtLeast(limit)) => (None, Some(limit)),
                };
                json!({
                    "name": figure.name, "unit": figure.unit, "median": median, "lowest": lowest,
                    "highest": highest, "runs": figure.runs, "at_most": at_most,
                    "at_least": at_least,
                    "met": figure.target.map(|target| target.is_met(median)),
                })
            })
            .collect();
        let machine: serde_json::Map<_, _> = self
            .machine
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
            .collect();
        json!({ "machine": machine, "settings": arguments.describe(), "figures": figures })
    }
}

/// Puts the table between the marks of a Markdown file.
fn replace(path: &Path, table: &str) -> Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let marks = || format!("{} has no marks {BEGIN} and {END}", path.display());
    let (before, rest) = text.split_once(BEGIN).with_context(marks)?;
    let (_, after) = rest.split_once(END).with_context(marks)?;
    let text = format!("{before}{BEGIN}\n\n{table}\n{END}{after}");
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
