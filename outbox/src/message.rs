//! The value that travels: a message on its way out ([`Message`]) and on its way in ([`Received`]).
//!
//! The attributes are those of CloudEvents 1.0 in Kafka's binary mode
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>):
//! the payload is the record's value, everything about it is a header.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{Error, without_values};

/// A typed payload: a serde type with the name it has on the wire.
///
/// ```
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct OrderConfirmed { order_id: uuid::Uuid }
///
/// impl outbox::Payload for OrderConfirmed {
///     const KIND: &'static str = "order.confirmed.v1";
/// }
/// ```
pub trait Payload: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Dotted and versioned: commands imperative (`payment.authorize.v1`), replies and events
    /// past tense (`payment.authorized.v1`). Sent as the CloudEvents `type`.
    const KIND: &'static str;
}

/// Headers beyond the attributes with a field of their own, by lowercase name.
pub type Headers = BTreeMap<String, String>;

/// A message to be enqueued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Unique for ever: the receiver's inbox tells a duplicate by it. A UUIDv7, so that it also
    /// tells when the message was made.
    pub id: Uuid,
    /// The Kafka topic.
    pub topic: String,
    /// The Kafka record key. Messages of one key stay in order.
    pub key: String,
    /// What the payload is, see [`Payload::KIND`].
    pub kind: String,
    /// The record's value; `None` is a tombstone (a null value, which log compaction understands).
    pub payload: Option<Vec<u8>>,
    /// Sent as they are, after the CloudEvents attributes.
    pub headers: Headers,
}

impl Message {
    /// A message with a typed payload, encoded as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`] when the payload cannot be represented in JSON.
    pub fn new<P: Payload>(
        topic: impl Into<String>,
        key: impl Into<String>,
        payload: &P,
    ) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(payload).map_err(|source| Error::Encode {
            kind: P::KIND.to_owned(),
            source,
        })?;
        Ok(Self::raw(topic, key, P::KIND, bytes))
    }

    /// A message whose payload is already bytes: JSON, unless
    /// [`with_content_type`](Self::with_content_type) says otherwise.
    ///
    /// ```
    /// let png = vec![0x89, b'P', b'N', b'G'];
    /// let message = outbox::Message::raw("pictures", "cat-1", "picture.taken.v1", png)
    ///     .with_content_type("image/png");
    /// ```
    pub fn raw(
        topic: impl Into<String>,
        key: impl Into<String>,
        kind: impl Into<String>,
        payload: Vec<u8>,
    ) -> Self {
        Self {
            id: Uuid::now_v7(),
            topic: topic.into(),
            key: key.into(),
            kind: kind.into(),
            payload: Some(payload),
            headers: Headers::new(),
        }
    }

    /// A message with a null value: "this key is gone".
    pub fn tombstone(
        topic: impl Into<String>,
        key: impl Into<String>,
        kind: impl Into<String>,
    ) -> Self {
        Self {
            payload: None,
            ..Self::raw(topic, key, kind, Vec::new())
        }
    }

    /// Says what the payload is, as a media type; without it receivers are told `application/json`.
    #[must_use]
    pub fn with_content_type(self, media_type: impl Into<String>) -> Self {
        self.with_header("content-type", media_type)
    }

    /// Adds a header; the last value of a name wins. Names beginning with `ce_` are refused by
    /// [`enqueue`](crate::enqueue): they are ours.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Replaces the message id, for a caller who has one that identifies the message already. A
    /// receiver takes a second message with the same id for a repetition of the first.
    #[must_use]
    pub fn with_id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }
}

/// A message as the consumer parsed it from the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The sender's message id.
    pub id: Uuid,
    /// Where it was read.
    pub topic: String,
    /// The topic's partition.
    pub partition: i32,
    /// The record's place in the partition.
    pub offset: i64,
    /// The record key; empty when there was none.
    pub key: String,
    /// The CloudEvents `type`.
    pub kind: String,
    /// The CloudEvents `source`: who sent it.
    pub source: String,
    /// When the sender's transaction enqueued it, by the sender's database clock.
    pub time: Option<DateTime<Utc>>,
    /// The record's value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Every header that is not a CloudEvents attribute, `traceparent` among them.
    pub headers: Headers,
}

impl Received {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Decodes the payload as `P`.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`], which is permanent: the message is of another kind, is a tombstone, or
    /// its bytes are not `P`. The message names the place, never the content.
    pub fn decode<P: Payload>(&self) -> Result<P, Error> {
        let refuse = |reason: String| Error::Decode {
            kind: self.kind.clone(),
            reason,
        };
        if self.kind != P::KIND {
            return Err(refuse(format!("expected the kind {}", P::KIND)));
        }
        let bytes = self
            .payload
            .as_deref()
            .ok_or_else(|| refuse("the payload is null".to_owned()))?;
        serde_json::from_slice(bytes).map_err(|error| refuse(without_values(&error)))
    }
}
