//! The filter of a list, in the page's URL.

use form_urlencoded::{Serializer, parse};

/// Names and values, those that say something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter(Vec<(String, String)>);

impl Filter {
    /// Of a query, the `known` names. What is empty says nothing; what is unknown is somebody else's.
    pub(crate) fn of(query: Option<&str>, known: &[&str]) -> Self {
        let pairs = parse(query.unwrap_or_default().as_bytes());
        let pairs =
            pairs.filter(|(name, value)| !value.is_empty() && known.contains(&name.as_ref()));
        Self(
            pairs
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    pub(crate) fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = &'a (String, String)>,
        known: &[&str],
    ) -> Self {
        let pairs = pairs.into_iter();
        let pairs =
            pairs.filter(|(name, value)| !value.is_empty() && known.contains(&name.as_str()));
        Self(pairs.cloned().collect())
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        let pair = self.0.iter().find(|pair| pair.0 == name);
        pair.map_or("", |pair| pair.1.as_str())
    }

    pub(crate) fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == value
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn without(&self, names: &[&str]) -> Self {
        let pairs = self
            .0
            .iter()
            .filter(|(name, _)| !names.contains(&name.as_str()));
        Self(pairs.cloned().collect())
    }

    pub(crate) fn only(&self, names: &[&str]) -> Self {
        let pairs = self
            .0
            .iter()
            .filter(|(name, _)| names.contains(&name.as_str()));
        Self(pairs.cloned().collect())
    }

    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut filter = self.without(&[name]);
        if !value.is_empty() {
            filter.0.push((name.to_owned(), value.to_owned()));
        }
        filter
    }

    /// As a query.
    pub(crate) fn query(&self) -> String {
        Serializer::new(String::new())
            .extend_pairs(&self.0)
            .finish()
    }

    /// As a query after a path: nothing, or with its question mark.
    pub(crate) fn after_path(&self) -> String {
        match self.is_empty() {
            true => String::new(),
            false => format!("?{}", self.query()),
        }
    }

    /// As the end of a query that has begun.
    pub(crate) fn rest(&self) -> String {
        let filter = self.without(&["service", "cursor"]);
        match filter.is_empty() {
            true => String::new(),
            false => format!("&{}", filter.query()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_keeps_what_it_knows_and_survives_its_own_query() {
        let filter = Filter::of(Some("a=1%202&b=&c=%3Cb%3E%26&d=4"), &["a", "b", "c"]);
        assert_eq!(filter.get("a"), "1 2");
        assert_eq!((filter.get("b"), filter.get("d")), ("", ""));
        assert_eq!(Filter::of(Some(&filter.query()), &["a", "c"]), filter);
        assert_eq!(filter.with("a", "").after_path(), "?c=%3Cb%3E%26");
        assert_eq!(Filter::default().after_path(), "");
    }
}
