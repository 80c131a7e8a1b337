//! Query strings, parsed at the door.

use std::fmt::Display;

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{http::problem::Problem, instance::Status};

/// The pairs of a query string, each taken out by whoever knows it.
pub(crate) struct Pairs(Vec<(String, String)>);

impl Pairs {
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

    pub(crate) fn nothing_left(&self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::field(name, "no such parameter")),
        }
    }
}

/// What `GET /sagas` asks for.
pub(crate) struct ListQuery {
    pub(crate) definition: Option<String>,
    pub(crate) status: Option<Status>,
    pub(crate) business_key: Option<String>,
    pub(crate) limit: i64,
    pub(crate) after: Option<Place>,
}

impl ListQuery {
    pub(crate) fn parse(mut pairs: Pairs) -> Result<Self, Problem> {
        let query = Self {
            definition: pairs.take_parsed("definition", text)?,
            status: pairs.take_parsed("status", |word| word.parse().map_err(display))?,
            business_key: pairs.take_parsed("business_key", text)?,
            limit: pairs.take_parsed("limit", between(1, 200))?.unwrap_or(50),
            after: pairs.take_parsed("cursor", Place::parse)?,
        };
        pairs.nothing_left()?;
        Ok(query)
    }
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

fn display(error: impl Display) -> String {
    error.to_string()
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
}
