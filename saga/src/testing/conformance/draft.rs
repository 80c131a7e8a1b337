//! A command before it is sent: whole, or spoilt in one place.

use chrono::{SecondsFormat, TimeDelta, Utc};
use uuid::Uuid;

use crate::{Operation, testing::conformance::subject::Request, wire};

/// The definition our sagas claim to belong to, and who we are to the receiver.
const DEFINITION: &str = "conformance";
const SOURCE: &str = "/conformance";

/// A command.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) operation: Operation,
    /// Names this sending: a record that is delivered twice has the same both times.
    id: Uuid,
    kind: String,
    payload: Option<Vec<u8>>,
    attempt: i32,
    lifetime: TimeDelta,
    /// How long ago its operation was first sent.
    age: TimeDelta,
    is_probe: bool,
    record_key: String,
    /// Headers written over at the end; without a value they are left out.
    spoilt: Vec<(&'static str, Option<String>)>,
}

impl Draft {
    pub(crate) fn new(operation: Operation, request: Request) -> Self {
        Self {
            record_key: operation.saga_id.to_string(),
            operation,
            id: Uuid::now_v7(),
            kind: request.kind,
            payload: Some(request.payload),
            attempt: 1,
            lifetime: TimeDelta::hours(1),
            age: TimeDelta::zero(),
            is_probe: false,
            spoilt: Vec::new(),
        }
    }

    /// Another attempt at the same operation: a new message.
    pub(crate) fn again(&self) -> Self {
        Self {
            id: Uuid::now_v7(),
            attempt: self.attempt + 1,
            ..self.clone()
        }
    }

    /// The same step's next execution: another operation.
    pub(crate) fn next_round(&self) -> Self {
        let mut next = self.clone();
        next.operation.round += 1;
        next.id = Uuid::now_v7();
        next
    }

    /// One that came too late.
    pub(crate) fn expired(mut self) -> Self {
        self.lifetime = -self.lifetime;
        self
    }

    /// Another attempt, at what was first sent ten years ago.
    pub(crate) fn long_begun(&self) -> Self {
        Self {
            age: TimeDelta::days(3653),
            ..self.again()
        }
    }

    /// Asks what became of it.
    pub(crate) fn probe(&self) -> Self {
        Self {
            is_probe: true,
            ..self.again()
        }
    }

    /// On another record key, so on another partition as a rule.
    pub(crate) fn astray(mut self) -> Self {
        self.record_key = Uuid::now_v7().to_string();
        self
    }

    pub(crate) fn with_kind(mut self, kind: &str) -> Self {
        kind.clone_into(&mut self.kind);
        self
    }

    pub(crate) fn with_payload(mut self, payload: Option<&[u8]>) -> Self {
        self.payload = payload.map(<[u8]>::to_vec);
        self
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.spoilt.push((name, Some(value.to_owned())));
        self
    }

    pub(crate) fn without_header(mut self, name: &'static str) -> Self {
        self.spoilt.push((name, None));
        self
    }

    pub(crate) fn record_key(&self) -> &str {
        &self.record_key
    }

    pub(crate) fn payload(&self) -> Option<&[u8]> {
        self.payload.as_deref()
    }

    /// What the relay of a coordinator would write: CloudEvents' binary mode, then ours.
    pub(crate) fn headers(&self, reply_topic: &str) -> Vec<(String, String)> {
        let command = wire::Command {
            op_key: self.operation.key(),
            operation: self.operation.clone(),
            definition: DEFINITION.to_owned(),
            attempt: self.attempt,
            reply_topic: reply_topic.to_owned(),
            expires_at: Utc::now() + self.lifetime,
            begun_at: Some(Utc::now() - self.age),
            probe: self.is_probe,
        };
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut headers: Vec<(String, String)> = [
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", self.id.to_string()),
            ("ce_source", SOURCE.to_owned()),
            ("ce_type", self.kind.clone()),
            ("ce_time", time),
            ("ce_subject", self.record_key.clone()),
            ("content-type", "application/json".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        headers.extend(command.message("", "", Vec::new()).headers);
        for (spoilt, value) in &self.spoilt {
            headers.retain(|(name, _)| name != spoilt);
            headers.extend(value.clone().map(|value| ((*spoilt).to_owned(), value)));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Phase;

    fn draft() -> Draft {
        let operation = Operation {
            saga_id: Uuid::now_v7(),
            step: "pay".to_owned(),
            phase: Phase::Action,
            round: 1,
        };
        Draft::new(operation, Request::json("pay.v1", serde_json::json!({})))
    }

    fn header(draft: &Draft, name: &str) -> Option<String> {
        let headers = draft.headers("replies");
        let mut values = headers.into_iter().filter(|(n, _)| n == name);
        let found = values.next().map(|(_, value)| value);
        assert_eq!(values.next(), None, "one header {name}");
        found
    }

    #[test]
    fn another_attempt_is_another_message_about_the_same_operation() {
        let (once, again) = (draft(), draft().again());
        assert_eq!(header(&again, wire::ATTEMPT).as_deref(), Some("2"));
        let again = once.again();
        assert_ne!(header(&once, "ce_id"), header(&again, "ce_id"));
        assert_eq!(header(&once, wire::OP_KEY), header(&again, wire::OP_KEY));
        let next = once.next_round();
        assert_ne!(header(&once, wire::OP_KEY), header(&next, wire::OP_KEY));
    }

    #[test]
    fn a_spoilt_header_is_replaced_and_a_missing_one_missing() {
        assert_eq!(header(&draft(), wire::PROBE), None);
        let value = header(&draft().probe(), wire::PROBE);
        assert_eq!(value.as_deref(), Some("true"));
        let spoilt = draft().with_header(wire::ROUND, "one");
        assert_eq!(header(&spoilt, wire::ROUND).as_deref(), Some("one"));
        let spoilt = draft().without_header("ce_id");
        assert_eq!(header(&spoilt, "ce_id"), None);
    }
}
