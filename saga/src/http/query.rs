//! Query strings, parsed at the door.

use std::{str::FromStr, time::Duration};

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    UnknownWord,
    http::problem::Problem,
    operator::{Selection, bulk::ItemResult},
    words::words,
};

/// The pairs of a query string, each taken out by whoever knows it.
pub(crate) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Pairs from elsewhere; no name stands there twice.
    pub(crate) fn of(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    pub(crate) fn new(
        query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    ) -> Result<Self, Problem> {
        let Query(pairs) = query.map_err(|error| Problem::field("query", error.body_text()))?;
        for (index, (name, _)) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(Problem::field(name, "it is given twice"));
            }
        }
        Ok(Self(pairs))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        #[cfg(test)]
        TAKEN.with_borrow_mut(|taken| taken.insert(name.to_owned()));
        let index = self.0.iter().position(|(found, _)| found == name)?;
        Some(self.0.swap_remove(index).1)
    }

    pub(crate) fn take_parsed<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        let value = self.take(name);
        let parsed = value.map(|value| parse(&value)).transpose();
        parsed.map_err(|detail| Problem::field(name, detail))
    }

    fn take_limit(&mut self) -> Result<i64, Problem> {
        let limit = self.take_parsed("limit", between(1, 200))?;
        Ok(limit.unwrap_or(50))
    }

    /// The filters of sagas, wherever they stand.
    pub(crate) fn take_selection(&mut self) -> Result<Selection, Problem> {
        let version = self.take_parsed("version", between(1, i32::MAX.into()))?;
        Ok(Selection {
            definition: self.take_parsed("definition", text)?,
            version: version.and_then(|version| i32::try_from(version).ok()),
            status: self.take_parsed("status", word)?,
            business_key: self.take_parsed("business_key", text)?,
            business_key_prefix: self.take_parsed("business_key_prefix", text)?,
            tag: self.take_parsed("tag", tag)?,
            waiting_for: self.take_parsed("waiting_for", word)?,
            stuck_for: self.take_parsed("stuck_for", duration)?,
            created_after: self.take_parsed("created_after", moment)?,
            created_before: self.take_parsed("created_before", moment)?,
        })
    }

    pub(crate) fn nothing_left(&self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::field(name, "no such parameter")),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Every name that a parser has asked for.
    pub(crate) static TAKEN: std::cell::RefCell<std::collections::BTreeSet<String>> =
        const { std::cell::RefCell::new(std::collections::BTreeSet::new()) };
}

/// What `GET /sagas` asks for.
pub(crate) struct ListQuery {
    pub(crate) selection: Selection,
    pub(crate) limit: i64,
    pub(crate) after: Option<Place>,
}

impl ListQuery {
    pub(crate) fn parse(mut pairs: Pairs) -> Result<Self, Problem> {
        let query = Self {
            selection: pairs.take_selection()?,
            limit: pairs.take_limit()?,
            after: pairs.take_parsed("cursor", Place::parse)?,
        };
        pairs.nothing_left()?;
        Ok(query)
    }
}

/// What `GET /sagas/stream` asks for.
pub(crate) fn lasting_selection(mut pairs: Pairs) -> Result<Selection, Problem> {
    for changing in ["status", "waiting_for", "stuck_for"] {
        if pairs.take(changing).is_some() {
            let detail = "changes while a saga lives: leave out of the stream what you do not show";
            return Err(Problem::field(changing, detail));
        }
    }
    let selection = pairs.take_selection()?;
    pairs.nothing_left()?;
    Ok(selection)
}

words! {
    /// What sagas are counted by.
    pub enum GroupBy {
        /// Where they stand.
        Status = "status",
        /// What they are.
        Definition = "definition",
        /// What they wait for; those that have ended wait for nothing.
        WaitingFor = "waiting_for",
    }
}

/// What `GET /sagas/count` asks for.
pub(crate) struct CountQuery {
    pub(crate) selection: Selection,
    pub(crate) group_by: GroupBy,
}

impl CountQuery {
    pub(crate) fn parse(mut pairs: Pairs) -> Result<Self, Problem> {
        let group_by = pairs.take_parsed("group_by", word)?;
        let query = Self {
            selection: pairs.take_selection()?,
            group_by: group_by.unwrap_or(GroupBy::Status),
        };
        pairs.nothing_left()?;
        Ok(query)
    }
}

/// What `GET /anomalies` asks for.
pub(crate) struct AnomaliesQuery {
    pub(crate) kind: Option<AnomalyKind>,
    pub(crate) definition: Option<String>,
    pub(crate) saga_id: Option<Uuid>,
    pub(crate) limit: i64,
    pub(crate) after: Option<AnomalyPlace>,
}

words! {
    /// What should not have happened.
    pub enum AnomalyKind {
        /// An answer to a saga that had ended without it.
        AfterTerminal = "after_terminal",
        /// An action took effect after its compensation had found nothing to undo.
        LateSuccess = "late_success",
        /// Another answer to the same operation than the first one.
        Contradiction = "contradiction",
        /// A compensation found nothing to undo of an action that had taken effect.
        NullCompensated = "null_compensated",
    }
}

impl AnomaliesQuery {
    pub(crate) fn parse(mut pairs: Pairs) -> Result<Self, Problem> {
        let query = Self {
            kind: pairs.take_parsed("kind", word)?,
            definition: pairs.take_parsed("definition", text)?,
            saga_id: pairs.take_parsed("saga_id", uuid)?,
            limit: pairs.take_limit()?,
            after: pairs.take_parsed("cursor", AnomalyPlace::parse)?,
        };
        pairs.nothing_left()?;
        Ok(query)
    }
}

/// What `GET /bulk-operations/{id}/items` asks for.
pub(crate) struct ItemsQuery {
    pub(crate) result: Option<ItemResult>,
    pub(crate) after: i32,
    pub(crate) limit: i64,
}

impl ItemsQuery {
    pub(crate) fn parse(mut pairs: Pairs) -> Result<Self, Problem> {
        let after = pairs.take_parsed("after", between(0, i32::MAX.into()))?;
        let query = Self {
            result: pairs.take_parsed("result", word)?,
            after: i32::try_from(after.unwrap_or(0)).unwrap_or(i32::MAX),
            limit: pairs.take_limit()?,
        };
        pairs.nothing_left()?;
        Ok(query)
    }
}

/// Whether a request is only a question: `?dry_run=true`.
pub(crate) fn dry_run(mut pairs: Pairs) -> Result<bool, Problem> {
    let dry_run = pairs.take_parsed("dry_run", yes_or_no)?;
    pairs.nothing_left()?;
    Ok(dry_run.unwrap_or(false))
}

/// What `GET /sagas/{id}/events` asks for.
pub(crate) struct EventsQuery {
    pub(crate) after: i64,
    pub(crate) limit: i64,
}

impl EventsQuery {
    pub(crate) fn parse(mut pairs: Pairs) -> Result<Self, Problem> {
        let query = Self {
            after: pairs
                .take_parsed("after", between(0, i64::MAX))?
                .unwrap_or(0),
            limit: pairs.take_parsed("limit", between(1, 1000))?.unwrap_or(200),
        };
        pairs.nothing_left()?;
        Ok(query)
    }
}

words! {
    /// How a definition is drawn.
    pub enum GraphFormat {
        /// Text that mermaid draws.
        Mermaid = "mermaid",
        /// A picture that needs nothing else.
        Svg = "svg",
    }
}

/// What `GET /sagas/{id}/graph` asks for.
pub(crate) struct GraphQuery {
    pub(crate) format: GraphFormat,
}

impl GraphQuery {
    pub(crate) fn parse(mut pairs: Pairs) -> Result<Self, Problem> {
        let format = pairs.take_parsed("format", word)?;
        pairs.nothing_left()?;
        let format = format.unwrap_or(GraphFormat::Mermaid);
        Ok(Self { format })
    }
}

/// A place in the list: the last saga of a page. Opaque outside: sixteen digits of microseconds,
/// then the id, in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) id: Uuid,
}

impl Place {
    pub(crate) fn to_cursor(self) -> String {
        let micros = self.created_at.timestamp_micros();
        format!("{micros:016x}{}", self.id.simple())
    }

    fn parse(cursor: &str) -> Result<Self, String> {
        let place = || {
            let (micros, id) = cursor.split_at_checked(16)?;
            let micros = i64::from_str_radix(micros, 16).ok()?;
            let place = Self {
                created_at: DateTime::from_timestamp_micros(micros)?,
                id: id.parse().ok()?,
            };
            // Only what was given out comes back: there is one spelling of each place.
            (place.to_cursor() == cursor).then_some(place)
        };
        place().ok_or_else(|| "not a cursor of this list".to_owned())
    }
}

/// A place in the list of anomalies: as [`Place`], then sixteen digits of the event's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnomalyPlace {
    pub(crate) at: Place,
    pub(crate) seq: i64,
}

impl AnomalyPlace {
    pub(crate) fn to_cursor(self) -> String {
        format!("{}{:016x}", self.at.to_cursor(), self.seq)
    }

    fn parse(cursor: &str) -> Result<Self, String> {
        let place = || {
            let (at, seq) = cursor.split_at_checked(48)?;
            let place = Self {
                at: Place::parse(at).ok()?,
                seq: i64::from_str_radix(seq, 16).ok()?,
            };
            (place.to_cursor() == cursor).then_some(place)
        };
        place().ok_or_else(|| "not a cursor of this list".to_owned())
    }
}

/// The id in a path.
pub(crate) fn saga_id(id: Result<Path<String>, PathRejection>) -> Result<Uuid, Problem> {
    let id = id.ok().and_then(|Path(id)| Uuid::parse_str(&id).ok());
    id.ok_or_else(|| Problem::field("id", "not a UUID"))
}

pub(crate) fn text(value: &str) -> Result<String, String> {
    match value.contains('\0') {
        true => Err("it contains a NUL character".to_owned()),
        false => Ok(value.to_owned()),
    }
}

pub(crate) fn between(low: i64, high: i64) -> impl Fn(&str) -> Result<i64, String> {
    move |value| {
        let number = value.parse().ok();
        let number = number.filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| format!("not a number from {low} to {high}"))
    }
}

fn word<T: FromStr<Err = UnknownWord>>(value: &str) -> Result<T, String> {
    value.parse().map_err(unknown)
}

/// What would have been right; not what was sent.
pub(crate) fn unknown(word: UnknownWord) -> String {
    format!("not one of {}", word.known)
}

fn uuid(value: &str) -> Result<Uuid, String> {
    Uuid::parse_str(value).map_err(|_| "not a UUID".to_owned())
}

fn yes_or_no(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "not true or false".to_owned())
}

/// `name:value`; what comes after the first colon is the value.
fn tag(value: &str) -> Result<(String, String), String> {
    let (name, value) = value.split_once(':').ok_or("not a name:value")?;
    Ok((text(name)?, text(value)?))
}

/// The longest time that makes sense; what is longer would leave the calendar.
const TEN_YEARS: u64 = 10 * 365 * 24 * 60 * 60;

/// A number with its unit: `90s`, `10m`, `2h`, `7d`.
fn duration(value: &str) -> Result<Duration, String> {
    let parsed = || {
        let unit = match value.chars().last()? {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            _ => return None,
        };
        let digits = &value[..value.len() - 1];
        let number: u64 = digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())??;
        let seconds = number.checked_mul(unit)?;
        (seconds <= TEN_YEARS).then(|| Duration::from_secs(seconds))
    };
    parsed()
        .ok_or_else(|| "not a duration of at most ten years, as in 90s, 10m, 2h or 7d".to_owned())
}

fn moment(value: &str) -> Result<DateTime<Utc>, String> {
    let moment = DateTime::parse_from_rfc3339(value);
    let moment = moment.map_err(|_| "not a moment as in 2026-01-31T12:00:00Z")?;
    Ok(moment.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_round_trip_and_nothing_else_is_one() {
        let place = Place {
            created_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
            id: Uuid::now_v7(),
        };
        let cursor = place.to_cursor();
        assert_eq!(Place::parse(&cursor), Ok(place));
        let wrong = [
            String::new(),
            "garbage".to_owned(),
            "ÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄ".to_owned(),
            cursor[1..].to_owned(),
            cursor.to_uppercase() + "0",
            "7fffffffffffffff".to_owned() + &cursor[16..],
            "-00000000000000a".to_owned() + &cursor[16..],
        ];
        for wrong in wrong {
            assert!(Place::parse(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cursor_of_anomalies_survives_the_round_trip_and_nothing_else_is_one() {
        let at = Place {
            created_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
            id: Uuid::now_v7(),
        };
        let place = AnomalyPlace { at, seq: 12 };
        let cursor = place.to_cursor();
        assert_eq!(AnomalyPlace::parse(&cursor), Ok(place));
        for wrong in ["", &cursor[1..], &cursor[..48], &at.to_cursor(), "ä"] {
            assert!(AnomalyPlace::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_duration_has_a_unit() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs()).ok();
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("10m"), Some(600));
        assert_eq!(seconds("2h"), Some(7200));
        assert_eq!(seconds("7d"), Some(604_800));
        for wrong in [
            "",
            "10",
            "m",
            "-1m",
            "+1m",
            "1.5h",
            "10 m",
            "9999999999d",
            "99999999999999999999s",
            "1ä",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
