//! What a check says.

use serde::Serialize;

use crate::Error;

/// How bad it is, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Could not be looked at.
    Unknown,
    /// Works, and should be looked after.
    Warning,
    /// A promise is broken or soon will be.
    Problem,
}

/// What one check has found. A check may find several things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What is so, and why it matters.
    pub explanation: String,
    /// What mends it: SQL statements to be run one by one, or command lines. Empty when there is nothing
    /// to do, or no statement for it.
    pub fix: Vec<String>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, explanation: impl Into<String>) -> Self {
        Self {
            check,
            verdict,
            explanation: explanation.into(),
            fix: Vec::new(),
        }
    }

    pub(super) fn ok(check: &'static str, explanation: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, explanation)
    }

    pub(super) fn unknown(check: &'static str, explanation: impl Into<String>) -> Self {
        Self::new(check, Verdict::Unknown, explanation)
    }

    pub(super) fn warning(check: &'static str, explanation: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, explanation)
    }

    pub(super) fn problem(check: &'static str, explanation: impl Into<String>) -> Self {
        Self::new(check, Verdict::Problem, explanation)
    }

    /// A warning, or a problem when it has grown beyond that.
    pub(super) fn graded(
        check: &'static str,
        serious: bool,
        explanation: impl Into<String>,
    ) -> Self {
        match serious {
            true => Self::problem(check, explanation),
            false => Self::warning(check, explanation),
        }
    }

    pub(super) fn fix(mut self, statement: impl Into<String>) -> Self {
        self.fix.push(statement.into());
        self
    }
}

/// What all checks have found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst verdict; [`Verdict::Ok`] of none.
    #[must_use]
    pub fn worst(&self) -> Verdict {
        let verdicts = self.findings.iter().map(|finding| finding.verdict);
        verdicts.max().unwrap_or(Verdict::Ok)
    }

    pub(super) fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Takes in what a check found. If it may not look, that is a finding; if the database is away,
    /// there is no report.
    pub(super) fn add(
        &mut self,
        check: &'static str,
        found: Result<Vec<Finding>, Error>,
    ) -> Result<(), Error> {
        match found {
            Ok(findings) => self.findings.extend(findings),
            Err(error) if error.is_database_outage() => return Err(error),
            Err(error) => self.push(Finding::unknown(check, error.to_string())),
        }
        Ok(())
    }
}

/// What was found, or else that all is well.
pub(super) fn or_ok(mut found: Vec<Finding>, check: &'static str, well: &str) -> Vec<Finding> {
    if found.is_empty() {
        found.push(Finding::ok(check, well));
    }
    found
}

/// An identifier as a statement needs it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a statement needs it.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A text as a command line needs it.
pub(super) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A time for eyes.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{:.0} minutes", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} hours", s / 3_600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_leave_their_quotes() {
        assert_eq!(quoted(r#"a"; drop"#), r#""a""; drop""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(word("order-service/a.b:c"), "order-service/a.b:c");
        assert_eq!(word("a; rm"), "'a; rm'");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word(""), "''");
    }

    #[test]
    fn the_worst_verdict_is_the_report_s() {
        let mut report = Report::default();
        assert_eq!(report.worst(), Verdict::Ok);
        report.push(Finding::warning("a", ""));
        report.push(Finding::unknown("b", ""));
        assert_eq!(report.worst(), Verdict::Warning);
    }
}
