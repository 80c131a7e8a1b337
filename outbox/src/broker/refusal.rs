//! Why the broker refused, in one of a few words: labels must be bounded, and a broker's own text is not.

use crate::broker::{Failure, FailureClass};

/// Names of the client's error codes, as its texts show them, and the word for each.
const WORDS: [(&str, &str); 13] = [
    ("MessageSizeTooLarge", "too_large"),
    ("MessageBatchTooLarge", "too_large"),
    ("InvalidMessageSize", "too_large"),
    ("InvalidMessage", "invalid"),
    ("InvalidRecord", "invalid"),
    ("InvalidTimestamp", "invalid"),
    ("PolicyViolation", "policy"),
    ("TopicAuthorizationFailed", "not_permitted"),
    ("UnknownTopic", "unknown_topic"),
    ("UnknownPartition", "unknown_topic"),
    ("InvalidTopic", "unknown_topic"),
    // The relay's own words.
    ("has no leader", "no_leader"),
    ("acknowledges nothing", "no_answer"),
];

/// The word for a failed delivery: `outage`, one of the above, or `other`.
pub(crate) fn refusal(failure: &Failure) -> &'static str {
    match failure.class {
        FailureClass::Outage => "outage",
        FailureClass::Record | FailureClass::Topic => refusal_in(&failure.reason),
    }
}

/// The same, where only the text is left.
pub(crate) fn refusal_in(reason: &str) -> &'static str {
    let known = WORDS.iter().find(|(code, _)| reason.contains(code));
    known.map_or("other", |(_, word)| word)
}

#[cfg(test)]
mod tests {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

    use super::*;

    #[test]
    fn what_the_client_says_has_a_word() {
        for (code, word) in [
            (Code::MessageSizeTooLarge, "too_large"),
            (Code::MessageBatchTooLarge, "too_large"),
            (Code::InvalidMessageSize, "too_large"),
            (Code::InvalidMessage, "invalid"),
            (Code::InvalidRecord, "invalid"),
            (Code::InvalidTimestamp, "invalid"),
            (Code::PolicyViolation, "policy"),
            (Code::TopicAuthorizationFailed, "not_permitted"),
            (Code::UnknownTopicOrPartition, "unknown_topic"),
            (Code::UnknownTopic, "unknown_topic"),
            (Code::UnknownPartition, "unknown_topic"),
            (Code::InvalidTopic, "unknown_topic"),
            (Code::RequestTimedOut, "other"),
        ] {
            let reason = KafkaError::MessageProduction(code).to_string();
            assert_eq!(refusal_in(&reason), word, "{reason}");
        }
        let outage = Failure {
            class: FailureClass::Outage,
            reason: "MessageSizeTooLarge".to_owned(),
        };
        assert_eq!(refusal(&outage), "outage", "its class counts");
    }
}
