//! `testbed trials`: the table that the long trials left.

use std::process::ExitCode;

use anyhow::{Context, Result};

const HEAD: [&str; 6] = [
    "trial",
    "seed",
    "messages",
    "duplicates",
    "first publish after healing",
    "verdict",
];

/// Prints the table.
pub(crate) fn trials() -> Result<ExitCode> {
    let path = testbed::trials::table();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no trial has written {}", path.display()))?;
    let rows: Vec<Vec<&str>> = std::iter::once(HEAD.to_vec())
        .chain(text.lines().map(|line| line.split('\t').collect()))
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    println!();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        println!("{}", line.join("  ").trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
