//! What is shown: both sides of the pipe in one shape.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    incoming::parked as inbox,
    operator::{Lag, Status, parked as outbox},
    printable::{self, Payload},
};

/// The outbox at a glance.
#[derive(Debug, Serialize, ToSchema)]
pub struct Outbox {
    /// What goes on.
    pub status: Status,
    /// What the broker has not acknowledged, by topic; counted up to a thousand messages.
    pub lag: Lag,
}

/// Which side of the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ParkedSide)]
pub enum Side {
    /// It was not sent.
    Outbox,
    /// It was not handled.
    Inbox,
}

/// The id of a parked message: its side and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Its side.
    pub side: Side,
    /// Its number there.
    pub number: i64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.side {
            Side::Outbox => write!(f, "outbox-{}", self.number),
            Side::Inbox => write!(f, "inbox-{}", self.number),
        }
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = || {
            let (side, number) = text.split_once('-')?;
            let side = match side {
                "outbox" => Side::Outbox,
                "inbox" => Side::Inbox,
                _ => return None,
            };
            let number = number.parse().ok().filter(|number| *number >= 0)?;
            let id = Self { side, number };
            (id.to_string() == text).then_some(id)
        };
        id().ok_or("the id of a parked message, as in outbox-12 or inbox-7")
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let id = text.parse();
        id.map_err(|expected| serde::de::Error::custom(format!("must be {expected}")))
    }
}

/// A message that could not be sent, or not be handled.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ParkedMessage)]
pub struct Parked {
    /// Names it here.
    #[schema(value_type = String, example = "outbox-12")]
    pub id: Id,
    /// Which side of the pipe.
    pub side: Side,
    /// The sort of reason: `poison`, `blocked` or `held` of the outbox; `unreadable`, `refused`,
    /// `exhausted` or `blocked` of an inbox.
    pub class: &'static str,
    /// Where it was going, or where it was read.
    pub topic: String,
    /// Its record key, if it has one; in hexadecimal where it is no text.
    pub key: Option<String>,
    /// What its payload is; of an inbox that stands in its headers.
    pub kind: Option<String>,
    /// Who could not handle it.
    pub consumer: Option<String>,
    /// Where it was read, of an inbox.
    pub partition: Option<i32>,
    /// Likewise.
    pub offset: Option<i64>,
    /// The message's id.
    pub message_id: Uuid,
    /// Since when it is parked.
    pub parked_at: DateTime<Utc>,
    /// For how long, in seconds.
    pub parked_seconds: f64,
    /// How often it was tried.
    pub attempts: i32,
    /// What went wrong, in words.
    pub reason: String,
    /// Since when it is asked for again, and by whom.
    pub replay: Option<inbox::Request>,
}

impl From<outbox::Item> for Parked {
    fn from(item: outbox::Item) -> Self {
        let side = Side::Outbox;
        Self {
            id: Id {
                side,
                number: item.seq,
            },
            side,
            class: item.class.as_str(),
            topic: item.topic,
            key: Some(item.key),
            kind: Some(item.kind),
            consumer: None,
            partition: None,
            offset: None,
            message_id: item.message_id,
            parked_at: item.parked_at,
            parked_seconds: item.parked_seconds,
            attempts: item.attempts,
            reason: item.reason,
            replay: item.replay,
        }
    }
}

impl From<inbox::Parked> for Parked {
    fn from(parked: inbox::Parked) -> Self {
        let side = Side::Inbox;
        let text = |key: Vec<u8>| {
            String::from_utf8(key).unwrap_or_else(|error| printable::hex(error.as_bytes()))
        };
        Self {
            id: Id {
                side,
                number: parked.id,
            },
            side,
            class: parked.class.as_str(),
            topic: parked.topic,
            key: parked.key.map(text),
            kind: None,
            consumer: Some(parked.consumer),
            partition: Some(parked.partition),
            offset: Some(parked.offset),
            message_id: parked.message_id,
            parked_at: parked.parked_at,
            parked_seconds: parked.parked_seconds,
            attempts: parked.attempts,
            reason: parked.reason,
            replay: parked.replay,
        }
    }
}

/// A page of what is parked.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParkedList {
    /// In the order of parking: the outbox first, then the inbox.
    pub items: Vec<Parked>,
    /// Give it back as `cursor` for the next page; null on the last.
    pub next_cursor: Option<chassis::http::Cursor>,
    /// How many there are on all pages.
    pub total: i64,
}

/// A parked message with its content.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ParkedContent)]
pub struct Shown {
    /// As in the list.
    #[serde(flatten)]
    pub parked: Parked,
    /// The first of its key, which it waits behind.
    #[schema(value_type = Option<String>)]
    pub head: Option<Id>,
    /// When it was enqueued, of the outbox.
    pub created_at: Option<DateTime<Utc>>,
    /// Of the outbox: the last message of its key that was under way when this one was refused,
    /// and may have arrived first.
    pub overtaken_by: Option<i64>,
    /// Its headers, in order.
    pub headers: Vec<Header>,
    /// Size of its payload; none for a tombstone.
    pub bytes: Option<i64>,
    /// Its payload, where that was asked for and it is no tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
}

/// A header of a message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ParkedHeader)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value, if it has one.
    pub value: Option<Payload>,
}

impl From<outbox::Parked> for Shown {
    fn from(parked: outbox::Parked) -> Self {
        let trace = parked
            .traceparent
            .map(|value| ("traceparent".to_owned(), value));
        let headers = trace.into_iter().chain(parked.headers);
        let headers = headers.map(|(name, value)| Header {
            name,
            value: Some(Payload::Text(value)),
        });
        Self {
            head: parked.head.map(|number| Id {
                side: Side::Outbox,
                number,
            }),
            created_at: Some(parked.created_at),
            overtaken_by: parked.overtaken_by,
            headers: headers.collect(),
            bytes: parked.bytes,
            payload: parked.payload,
            parked: parked.item.into(),
        }
    }
}

impl From<inbox::Shown> for Shown {
    fn from(shown: inbox::Shown) -> Self {
        let headers = shown.headers.into_iter();
        let headers = headers.map(|header| Header {
            name: header.name,
            value: header.value,
        });
        Self {
            head: shown.head.map(|number| Id {
                side: Side::Inbox,
                number,
            }),
            created_at: None,
            overtaken_by: None,
            headers: headers.collect(),
            bytes: shown.bytes.map(i64::from),
            payload: shown.payload,
            parked: shown.parked.into(),
        }
    }
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ParkedAsked)]
pub struct Asked {
    /// Which message.
    #[schema(value_type = String, example = "outbox-12")]
    pub id: Id,
    /// What came of it, or would.
    pub outcome: Outcome,
    /// Whether it was only asked what would come of it.
    pub dry_run: bool,
    /// Messages of its key that wait behind it and come next.
    pub followers: i64,
}

/// In a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ParkedOutcome)]
pub enum Outcome {
    /// It will be sent or handled within a second, and then its followers.
    Requested,
    /// It was asked for before; nothing changed.
    AlreadyRequested,
    /// It is gone for good.
    Discarded,
    /// It is not parked: it was sent, handled or discarded, or never was. Nothing was done.
    NotParked,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        for text in ["outbox-0", "outbox-12", "inbox-9223372036854775807"] {
            assert_eq!(text.parse::<Id>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "12",
            "outbox",
            "outbox-",
            "outbox--1",
            "outbox-+1",
            "inbox-01",
            "Inbox-1",
        ] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong}");
        }
    }
}
