//! `docs/problems.md`, section by section: where the `type` of a problem leads.

use askama::Template;

const PROBLEMS: &str = include_str!("../../../../docs/problems.md");

/// What there is to say about a kind of problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The last part of the `type`.
    pub slug: &'static str,
    /// Status and title, as in `404 · Not found`.
    pub summary: &'static str,
    /// The rest, paragraph by paragraph.
    pub paragraphs: Vec<&'static str>,
}

/// Every section of `docs/problems.md`.
#[must_use]
pub fn sections() -> Vec<Section> {
    PROBLEMS
        .split("\n## ")
        .skip(1)
        .filter_map(|section| {
            let mut parts = section.split("\n\n").map(str::trim);
            Some(Section {
                slug: parts.next()?,
                summary: parts.next()?,
                paragraphs: parts.filter(|part| !part.is_empty()).collect(),
            })
        })
        .collect()
}

/// Some sections, for eyes.
#[derive(Template)]
#[template(path = "problems.html")]
pub(super) struct Problems {
    pub(super) sections: Vec<Section>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Kind;

    #[test]
    fn every_kind_of_problem_has_its_section() {
        let sections = sections();
        for kind in Kind::ALL {
            let section = sections.iter().find(|section| section.slug == kind.slug);
            let section = section.unwrap_or_else(|| panic!("no section {}", kind.slug));
            let summary = format!("{} · {}", kind.status, kind.title);
            assert_eq!(section.summary, summary);
            assert!(!section.paragraphs.is_empty(), "{}", kind.slug);
        }
    }
}
