//! What a participant answered, as it came.

use std::fmt;

use outbox::{Headers, Received, broker::Record};
use uuid::Uuid;

use crate::wire;

/// A record on the reply topic.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) key: Option<String>,
    /// All of them, CloudEvents' too.
    pub(crate) headers: Headers,
    pub(crate) payload: Option<Vec<u8>>,
    /// What a coordinator would read in it, or why it would not.
    pub(crate) read: Result<wire::Reply, String>,
}

impl Reply {
    pub(crate) fn new(record: Record) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
        let headers = record.headers.into_iter();
        let headers: Headers = headers
            .filter_map(|(name, value)| Some((name, text(value?)?)))
            .collect();
        let received = Received {
            id: Uuid::nil(),
            topic: record.topic,
            partition: record.partition,
            offset: record.offset,
            key: String::new(),
            kind: String::new(),
            source: String::new(),
            time: None,
            payload: None,
            headers,
        };
        let read = wire::Reply::parse(&received).map_err(|error| error.to_string());
        Self {
            key: record.key.and_then(text),
            headers: received.headers,
            payload: record.payload,
            read,
        }
    }

    /// The saga it speaks of, however clumsily.
    pub(crate) fn saga_id(&self) -> Option<Uuid> {
        let named = self.headers.get(wire::SAGA_ID);
        let named = named.and_then(|id| id.parse().ok());
        named.or_else(|| self.key.as_ref()?.parse().ok())
    }

    pub(crate) fn kind(&self) -> &str {
        self.headers.get("ce_type").map_or("", String::as_str)
    }

    /// Whether it says the same: another message may carry it.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let said = |reply: &Self| (reply.kind().to_owned(), reply.payload.clone());
        self.read == other.read && said(self) == said(other)
    }
}

/// Without its content, which may not reach a log.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match &self.read {
            Ok(wire::Reply { operation, outcome }) => {
                let (phase, round) = (operation.phase, operation.round);
                let bytes = self.payload.as_ref().map_or(0, Vec::len);
                write!(
                    f,
                    "`{outcome}` to the {phase} of round {round} ({kind}, {bytes} bytes)"
                )
            }
            Err(reason) => write!(f, "a reply that no coordinator can read ({reason})"),
        }
    }
}
