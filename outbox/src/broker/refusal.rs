//! Whose fault a failed delivery is: the one place where the broker's errors, and its client's, are
//! classified. The table is in docs/failure-modes.md too, and a test compares the two.

use rdkafka::error::RDKafkaErrorCode::{self as Code, *};

use crate::broker::{
    Failure,
    FailureClass::{self, *},
};

/// An error, whose fault it is, and a word for it: labels must be bounded, and a broker's own text is
/// not. Everything else is [`FailureClass::Unlisted`].
pub(crate) const ERRORS: [(Code, FailureClass, &str); 51] = [
    (MessageSizeTooLarge, Record, "too_large"),
    (MessageBatchTooLarge, Record, "too_large"),
    (InvalidMessageSize, Record, "too_large"),
    (InvalidMessage, Record, "invalid"),
    (InvalidRecord, Record, "invalid"),
    (PolicyViolation, Record, "policy"),
    (UnknownTopicOrPartition, Topic, "unknown_topic"),
    (UnknownTopic, Topic, "unknown_topic"),
    (UnknownPartition, Topic, "unknown_topic"),
    (InvalidTopic, Topic, "unknown_topic"),
    (TopicAuthorizationFailed, Topic, "not_permitted"),
    // The relay's clock or the topic's `message.timestamp.*.max.ms` is wrong, no message.
    (InvalidTimestamp, Topic, "timestamp"),
    (UnsupportedForMessageFormat, Topic, "format"),
    (BrokerTransportFailure, Outage, "away"),
    (AllBrokersDown, Outage, "away"),
    (Resolve, Outage, "away"),
    (NetworkException, Outage, "away"),
    (MessageTimedOut, Outage, "away"),
    (OperationTimedOut, Outage, "away"),
    (TimedOutQueue, Outage, "away"),
    (RequestTimedOut, Outage, "away"),
    (LeaderNotAvailable, Outage, "moving"),
    (NotLeaderForPartition, Outage, "moving"),
    (BrokerNotAvailable, Outage, "moving"),
    (ReplicaNotAvailable, Outage, "moving"),
    (FencedLeaderEpoch, Outage, "moving"),
    (UnknownLeaderEpoch, Outage, "moving"),
    (NotEnoughReplicas, Outage, "replicas"),
    (NotEnoughReplicasAfterAppend, Outage, "replicas"),
    (KafkaStorageError, Outage, "storage"),
    (ThrottlingQuotaExceeded, Outage, "quota"),
    (Fatal, Outage, "producer"),
    (GaplessGuarantee, Outage, "producer"),
    (PurgeQueue, Outage, "producer"),
    (PurgeInflight, Outage, "producer"),
    (Retry, Outage, "producer"),
    (OutOfOrderSequenceNumber, Outage, "producer"),
    (DuplicateSequenceNumber, Outage, "producer"),
    (UnknownProducerId, Outage, "producer"),
    (InvalidProducerEpoch, Outage, "producer"),
    (ProducerFenced, Outage, "producer"),
    (Fenced, Outage, "producer"),
    (Authentication, Ours, "log_in"),
    (SaslAuthenticationFailed, Ours, "log_in"),
    (UnsupportedSASLMechanism, Ours, "log_in"),
    (IllegalSASLState, Ours, "log_in"),
    (SSL, Ours, "log_in"),
    (ClusterAuthorizationFailed, Ours, "cluster_permission"),
    (InvalidRequiredAcks, Ours, "setting"),
    (UnsupportedCompressionType, Ours, "setting"),
    (UnsupportedVersion, Ours, "setting"),
];

/// The relay's own words for a topic that answers nothing.
const SILENT: [(&str, &str); 2] = [
    ("has no leader", "no_leader"),
    ("acknowledges nothing", "no_answer"),
];

/// Whose fault an error is.
pub(super) fn class_of(code: Option<Code>) -> FailureClass {
    let known = |code| ERRORS.iter().find(|(known, ..)| *known == code);
    code.and_then(known)
        .map_or(Unlisted, |(_, class, _)| *class)
}

/// The word for a failed delivery: `outage`, one of the above, or `other`.
pub(crate) fn refusal(failure: &Failure) -> &'static str {
    match failure.class {
        Outage | Ours | Unlisted => "outage",
        Record | Topic => refusal_in(&failure.reason),
    }
}

/// The same, where only the text is left. The client's texts begin with the names of its codes.
pub(crate) fn refusal_in(reason: &str) -> &'static str {
    let silent = SILENT.iter().find(|(text, _)| reason.contains(text));
    if let Some((_, word)) = silent {
        return word;
    }
    let named = ERRORS
        .iter()
        .filter(|(_, class, _)| matches!(class, Record | Topic));
    let named = named.map(|(code, _, word)| (format!("{code:?}"), *word));
    // `InvalidMessageSize` has `InvalidMessage` in it.
    let named = named.filter(|(name, _)| reason.contains(name.as_str()));
    let longest = named.max_by_key(|(name, _)| name.len());
    longest.map_or("other", |(_, word)| word)
}

/// Whether a record or its batch was more than the topic takes.
pub(crate) fn is_too_large(failure: &Failure) -> bool {
    failure.class == Record && refusal_in(&failure.reason) == "too_large"
}

#[cfg(test)]
mod tests {
    use rdkafka::error::KafkaError;

    use super::*;

    #[test]
    fn what_the_client_says_has_a_word() {
        for (code, class, word) in ERRORS {
            let reason = KafkaError::MessageProduction(code).to_string();
            assert_eq!(class_of(Some(code)), class);
            let expected = match class {
                Record | Topic => word,
                _ => "other",
            };
            assert_eq!(refusal_in(&reason), expected, "{reason}");
        }
        assert_eq!(class_of(Some(Code::Unknown)), Unlisted);
        let outage = Failure {
            class: Outage,
            reason: "MessageSizeTooLarge".to_owned(),
        };
        assert_eq!(refusal(&outage), "outage", "its class counts");
    }

    #[test]
    fn the_table_in_the_docs_is_this_one() {
        let docs = include_str!("../../../docs/failure-modes.md");
        let rows = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| broker: "));
        let rows: Vec<_> = rows
            .map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
            .collect();
        for (class, whose) in [
            (Record, "the message's"),
            (Topic, "the topic's"),
            (Outage, "the broker's"),
            (Ours, "ours"),
        ] {
            let of = ERRORS.iter().filter(|(_, of, _)| *of == class);
            let codes: Vec<_> = of.map(|(code, ..)| format!("`{code:?}`")).collect();
            let row = rows.iter().find(|row| row[0] == whose);
            let row = row.unwrap_or_else(|| panic!("no row for {whose}"));
            assert_eq!(row[1], codes.join(", "), "{whose}");
        }
    }
}
