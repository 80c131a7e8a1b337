//! Figures with their spread.

use anyhow::Result;

use crate::{Arguments, world::World};

struct Figure {
    name: String,
    unit: &'static str,
    runs: Vec<f64>,
}

pub(crate) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            figures: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, name: &str, unit: &'static str, run: f64) {
        match self.figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.runs.push(run),
            None => self.figures.push(Figure {
                name: name.to_owned(),
                unit,
                runs: vec![run],
            }),
        }
        eprintln!("{name}: {run:.2} {unit}");
    }

    pub(crate) fn print(&self, arguments: &Arguments, world: &World) -> Result<()> {
        let cores = std::thread::available_parallelism()?;
        println!(
            "\n{}\n{cores} cores, everything on one machine, fsync on; {arguments:?}\n",
            world.versions
        );
        println!("| measurement | median | lowest | highest | unit |\n|---|---:|---:|---:|---|");
        for figure in &self.figures {
            let (lowest, median, highest) = spread(&figure.runs);
            println!(
                "| {} | {median:.2} | {lowest:.2} | {highest:.2} | {} |",
                figure.name, figure.unit
            );
        }
        if arguments.json {
            let figures: serde_json::Map<_, _> = self
                .figures
                .iter()
                .map(|figure| {
                    let (_, median, _) = spread(&figure.runs);
                    let value = serde_json::json!({
                        "unit": figure.unit, "median": median, "runs": figure.runs,
                    });
                    (figure.name.clone(), value)
                })
                .collect();
            println!("{}", serde_json::to_string(&figures)?);
        }
        Ok(())
    }
}

fn spread(runs: &[f64]) -> (f64, f64, f64) {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (
        at(0),
        at(sorted.len() / 2),
        at(sorted.len().saturating_sub(1)),
    )
}
