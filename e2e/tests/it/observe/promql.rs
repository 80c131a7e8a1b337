//! As much of PromQL as it takes to see which series an expression asks for.

use std::collections::BTreeSet;

const OPERATORS: [&str; 8] = [
    "and", "or", "unless", "offset", "bool", "inf", "nan", "atan2",
];
const GROUPINGS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

/// A series asked for: `name{label="value"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) name: String,
    pub(super) labels: Vec<String>,
    /// As it stands in the expression.
    pub(super) text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

/// Every series that an expression asks for.
pub(super) fn selectors(expression: &str) -> Vec<Selector> {
    let tokens = tokens(expression);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let Token::Word(word) = &tokens[at] else {
            at += 1;
            continue;
        };
        let next = tokens.get(at + 1);
        let is_grouping = GROUPINGS.contains(&word.as_str());
        let groups = matches!(next, Some(Token::Word(next)) if GROUPINGS.contains(&next.as_str()));
        if is_grouping && next == Some(&Token::Sign('(')) {
            at = end(&tokens, at + 1, ')') + 1;
        } else if next == Some(&Token::Sign('(')) || groups || OPERATORS.contains(&word.as_str()) {
            at += 1;
        } else {
            let last = match next {
                Some(Token::Sign('{')) => end(&tokens, at + 1, '}'),
                _ => at,
            };
            found.push(selector(word, &tokens[at + 1..=last]));
            at = last + 1;
        }
    }
    found
}

/// Every label that something in an expression is grouped or matched by.
pub(super) fn labels_grouped_by(expression: &str) -> BTreeSet<String> {
    let tokens = tokens(expression);
    let mut labels = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        let Token::Word(word) = token else { continue };
        if GROUPINGS.contains(&word.as_str()) && tokens.get(at + 1) == Some(&Token::Sign('(')) {
            let inner = &tokens[at + 1..end(&tokens, at + 1, ')')];
            labels.extend(inner.iter().filter_map(word_of));
        }
    }
    labels
}

fn selector(name: &str, matchers: &[Token]) -> Selector {
    let mut text = name.to_owned();
    for token in matchers {
        match token {
            Token::Word(word) => text.push_str(word),
            Token::Text(value) => text.push_str(&format!("\"{value}\"")),
            Token::Sign(sign) => text.push(*sign),
        }
    }
    Selector {
        name: name.to_owned(),
        labels: matchers.iter().filter_map(word_of).collect(),
        text,
    }
}

fn word_of(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) => Some(word.clone()),
        _ => None,
    }
}

/// Where the next such sign is; neither label lists nor matchers nest.
fn end(tokens: &[Token], from: usize, sign: char) -> usize {
    let rest = tokens[from..].iter();
    let length = rest
        .take_while(|token| **token != Token::Sign(sign))
        .count();
    (from + length).min(tokens.len() - 1)
}

/// Ranges, numbers and durations are left out.
fn tokens(expression: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let taken = if first == '"' {
            let inner = rest[1..].split('"').next().unwrap_or_default();
            tokens.push(Token::Text(inner.to_owned()));
            inner.len() + 2
        } else if first == '[' {
            rest.find(']').map_or(rest.len(), |at| at + 1)
        } else if first.is_ascii_digit() {
            word_length(rest)
        } else if first.is_ascii_alphabetic() || first == '_' {
            let length = word_length(rest);
            tokens.push(Token::Word(rest[..length].to_owned()));
            length
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Sign(first));
            }
            first.len_utf8()
        };
        rest = &rest[taken.min(rest.len())..];
    }
    tokens
}

fn word_length(text: &str) -> usize {
    let belongs = |letter: char| letter.is_ascii_alphanumeric() || "_:.".contains(letter);
    text.find(|letter| !belongs(letter)).unwrap_or(text.len())
}

#[test]
fn an_expression_is_seen_through() {
    let expression = r#"sum by (database, le) (rate(a_bucket{route!~"/x|by(z)", status="5.."}[5m] offset 1h30m))
        / on (database) group_left (le) max without (instance) (b) > bool 1.5e3 unless absent(c:d{})"#;
    let found = selectors(expression);
    let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a_bucket", "b", "c:d"]);
    assert_eq!(found[0].labels, ["route", "status"]);
    assert_eq!(found[0].text, r#"a_bucket{route!~"/x|by(z)",status="5.."}"#);
    let labels: Vec<_> = labels_grouped_by(expression).into_iter().collect();
    assert_eq!(labels, ["database", "instance", "le"]);
}
