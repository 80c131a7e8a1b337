//! What a command found out, for eyes or for programs.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Result, bail};
use clap::ValueEnum;
use outbox::operator::Payload;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns, for eyes. May change.
    Table,
    /// JSON, for programs. Stable: fields are added, not renamed.
    Json,
}

/// Rows of text in aligned columns, the first row a heading.
#[derive(Debug)]
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self(vec![heading.map(str::to_owned).to_vec()])
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.to_vec());
    }

    /// Whether it has nothing but its heading.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.len() < 2
    }

    /// Each column is as wide as its widest cell; the last one is not filled up.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines_below(&mut Vec::new())
    }

    /// As [`lines`](Self::lines), below a table of these widths, if there was one: without the heading, in the
    /// same columns where the cells fit.
    pub(crate) fn lines_below(&self, widths: &mut Vec<usize>) -> Vec<String> {
        let heading = usize::from(!widths.is_empty());
        let rows: Vec<Vec<String>> = self
            .0
            .iter()
            .skip(heading)
            .map(|row| printable_cells(row))
            .collect();
        widths.resize(self.0.first().map_or(0, Vec::len), 0);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&*widths);
            let text: String = cells
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.width() + 2)))
                .collect();
            text.trim_end().to_owned()
        };
        rows.iter().map(line).collect()
    }
}

/// As they will be shown, because their widths are measured.
fn printable_cells(row: &[String]) -> Vec<String> {
    row.iter().map(|cell| printable(cell)).collect()
}

/// Facts about one thing, a line each.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<String>);

impl Facts {
    pub(crate) fn add(&mut self, name: &str, text: impl Display) {
        self.0.push(format!("{name:12} {text}"));
    }

    pub(crate) fn add_some(&mut self, name: &str, text: Option<impl Display>) {
        if let Some(text) = text {
            self.add(name, text);
        }
    }

    pub(crate) fn lines(self) -> Vec<String> {
        self.0
    }
}

/// Prints a table.
pub(crate) fn table(table: &Table) -> Result<()> {
    lines(&table.lines())
}

/// Prints lines to stdout.
pub(crate) fn lines(lines: &[String]) -> Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{}", printable(line))?;
    }
    Ok(out.flush()?)
}

/// Prints a text of ours as it is.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// As [`printable`], of a text that may have several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// Control characters of somebody's key must not reach the terminal, nor what changes the direction or the
/// lines of the text around it, nor what nobody sees.
pub(crate) fn printable(text: &str) -> String {
    let safe = |c: char| match c {
        '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(safe).collect()
}

/// Prints a value as JSON over several lines.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(out.flush()?)
}

/// Prints a value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    Ok(out.flush()?)
}

/// Whether the error is that nobody reads our output any more.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Asks whether to go on, unless that was said already. Without a terminal to ask on it must have been.
pub(crate) fn confirm(what: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        bail!("this would {what}; say --yes to do it, or --dry-run to look only");
    }
    eprint!("{what}? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was done"),
    }
}

/// A time for eyes.
pub(crate) fn age(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0}ms", s.max(0.0) * 1e3),
        s if s < 120.0 => format!("{s:.1}s"),
        s if s < 7_200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.1}h", s / 3_600.0),
        s => format!("{:.1}d", s / 86_400.0),
    }
}

/// Bytes in a line.
pub(crate) fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Text(text) => text.clone(),
        Payload::Hex(hex) => format!("0x{hex}"),
    }
}

/// A size for eyes.
pub(crate) fn size(bytes: i64) -> String {
    match bytes as f64 {
        b if b < 1024.0 => format!("{b}B"),
        b if b < 1_048_576.0 => format!("{:.1}KiB", b / 1024.0),
        b if b < 1_073_741_824.0 => format!("{:.1}MiB", b / 1_048_576.0),
        b => format!("{:.1}GiB", b / 1_073_741_824.0),
    }
}

/// What a program exits with when a look has found problems.
pub(crate) fn found_problems() -> ExitCode {
    ExitCode::from(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["a", "topic"]);
        table.row(["1234".to_owned(), "x".to_owned()]);
        table.row(["ä".to_owned(), String::new()]);
        assert_eq!(table.lines(), ["a     topic", "1234  x", "ä"]);
    }

    #[test]
    fn a_column_is_as_wide_as_its_cells_on_the_screen() {
        let mut table = Table::new(["key", "topic"]);
        table.row(["注文".to_owned(), "x".to_owned()]);
        table.row(["e\u{301}e\u{301}".to_owned(), "y".to_owned()]);
        assert_eq!(
            table.lines(),
            ["key   topic", "注文  x", "e\u{301}e\u{301}    y"]
        );
    }

    #[test]
    fn a_table_that_goes_on_has_one_heading_and_keeps_its_columns() {
        let mut widths = Vec::new();
        let mut first = Table::new(["key", "topic"]);
        first.row(["12345678".to_owned(), "x".to_owned()]);
        assert_eq!(
            first.lines_below(&mut widths),
            ["key       topic", "12345678  x"]
        );
        let mut more = Table::new(["key", "topic"]);
        more.row(["1".to_owned(), "y".to_owned()]);
        assert_eq!(more.lines_below(&mut widths), ["1         y"]);
    }

    #[test]
    fn a_key_cannot_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
        let turned = "a\u{202e}b\u{2066}c\u{200f}d\u{2028}e\u{feff}";
        assert_eq!(printable(turned).matches('\u{fffd}').count(), 5);
        let lines = "a\u{1b}[31mb\nc\u{7}";
        assert_eq!(printable_lines(lines), "a\u{fffd}[31mb\nc\u{fffd}");
    }

    #[test]
    fn times_and_sizes_are_short() {
        let ages = [0.02, 90.0, 600.0, 7_300.0, 200_000.0].map(age);
        assert_eq!(ages, ["20ms", "90.0s", "10m", "2.0h", "2.3d"]);
        let sizes = [12, 2048, 5 << 20, 3 << 30].map(size);
        assert_eq!(sizes, ["12B", "2.0KiB", "5.0MiB", "3.0GiB"]);
    }
}
