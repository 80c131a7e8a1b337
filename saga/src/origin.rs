//! Where an event came from, beside what it says: the records in the broker, and the trace.
//!
//! Promised: nothing is decided by it, and a saga whose participants say none of it loses only the
//! telling. It stands in a column of its own, because a history is folded from the events alone.

use std::{fmt, str::FromStr};

use outbox::Received;
use serde::{Deserialize, Serialize};

use crate::{event::Event, wire};

/// The header of the W3C's trace context.
const TRACEPARENT: &str = "traceparent";

/// Where an event came from, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Of an answer: which sending of the operation it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attempt: Option<i32>,
    /// Of an answer: its record on the reply topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) record: Option<Place>,
    /// Of an answer: the record of the command that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) command: Option<Place>,
    /// The `traceparent` of what was done when it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trace: Option<String>,
}

impl Origin {
    /// Of an answer that came in this message.
    pub(crate) fn of_answer(message: &Received) -> Self {
        fn said<T: FromStr>(message: &Received, name: &str) -> Option<T> {
            message.header(name)?.parse().ok()
        }
        Self {
            attempt: said(message, wire::ATTEMPT).filter(|attempt| *attempt > 0),
            record: Some(Place::of(message)),
            command: said(message, wire::IN_REPLY_TO),
            trace: message.header(TRACEPARENT).map(ToOwned::to_owned),
        }
    }

    /// Of each event of one turn. `answer`: of the answer that it is the turn of. `trace`: the
    /// headers with which the turn's commands carry its trace on.
    pub(crate) fn of_each(
        events: &[Event],
        answer: Option<&Self>,
        trace: &[(&'static str, String)],
    ) -> Vec<Option<Self>> {
        let traceparent = trace.iter().find(|(name, _)| *name == TRACEPARENT);
        let trace = traceparent.map(|(_, traceparent)| traceparent.clone());
        let mut answer = answer.cloned();
        let mut of = |event: &Event| {
            let origin = match About::of(event)? {
                // Of the events that follow from an answer only the first is its own.
                About::Answer => answer.take().unwrap_or_default(),
                About::Command | About::Start => Self::default(),
            };
            let trace = trace.clone();
            let origin = Self { trace, ..origin };
            (origin != Self::default()).then_some(origin)
        };
        events.iter().map(&mut of).collect()
    }

    /// The trace's id, if that trace is recorded somewhere.
    pub(crate) fn trace_id(&self) -> Option<String> {
        let mut parts = self.trace.as_deref()?.split('-').skip(1);
        let (id, _, flags) = (parts.next()?, parts.next()?, parts.next()?);
        let is_recorded = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        is_recorded.then(|| id.to_owned())
    }
}

/// What is told with where it came from. Of all else, it is the same as what stands before it.
enum About {
    Start,
    Command,
    Answer,
}

impl About {
    fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Started { .. } => Self::Start,
            Event::CommandSent { .. } | Event::ProbeSent { .. } => Self::Command,
            Event::ActionSucceeded { .. }
            | Event::ActionFailed { .. }
            | Event::StepCompensated { .. }
            | Event::StepNullCompensated { .. }
            | Event::Ignored { .. } => Self::Answer,
            _ => return None,
        })
    }
}

/// A record's place in its topic; on the wire `3/1234`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i32, i64)", into = "(i32, i64)")]
pub(crate) struct Place {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl Place {
    pub(crate) fn of(message: &Received) -> Self {
        Self {
            partition: message.partition,
            offset: message.offset,
        }
    }
}

impl From<(i32, i64)> for Place {
    fn from((partition, offset): (i32, i64)) -> Self {
        Self { partition, offset }
    }
}

impl From<Place> for (i32, i64) {
    fn from(place: Place) -> Self {
        (place.partition, place.offset)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

/// Not a partition and an offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (partition, offset) = text.split_once('/').ok_or(NoPlace)?;
        let partition: u32 = partition.parse().map_err(|_| NoPlace)?;
        let offset: u64 = offset.parse().map_err(|_| NoPlace)?;
        Ok(Self {
            partition: partition.try_into().map_err(|_| NoPlace)?,
            offset: offset.try_into().map_err(|_| NoPlace)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{operation::Phase, wire::Outcome};

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place = Place::from((3, 1234));
        assert_eq!(place.to_string(), "3/1234");
        assert_eq!("3/1234".parse(), Ok(place));
        for no in [
            "",
            "3",
            "3/",
            "/4",
            "-1/4",
            "3/-4",
            "3/4/5",
            "2147483648/0",
            "x/y",
        ] {
            assert_eq!(no.parse::<Place>(), Err(NoPlace), "{no}");
        }
    }

    #[test]
    fn of_a_turn_the_answer_is_told_once_and_the_trace_wherever_a_message_is() {
        let ignored = || Event::Ignored {
            reason: crate::event::IgnoredBecause::Duplicate,
            step: "s".into(),
            phase: Phase::Action,
            round: 1,
            outcome: Outcome::Succeeded,
            answer: None,
        };
        let sent = Event::CommandSent {
            step: "t".into(),
            phase: Phase::Action,
            round: 1,
            attempt: 1,
            op_key: uuid::Uuid::nil(),
        };
        let answer = Origin {
            attempt: Some(2),
            record: Some(Place::from((0, 7))),
            command: Some(Place::from((1, 8))),
            trace: Some("came".into()),
        };
        let events = [Event::Resumed, ignored(), sent, ignored()];
        let trace = [
            (TRACEPARENT, TRACE.to_owned()),
            ("tracestate", "a=b".into()),
        ];
        let told = Origin::of_each(&events, Some(&answer), &trace);
        let only_trace = Some(Origin {
            trace: Some(TRACE.into()),
            ..Origin::default()
        });
        let whole = Origin {
            trace: Some(TRACE.into()),
            ..answer.clone()
        };
        assert_eq!(told, [None, Some(whole), only_trace.clone(), only_trace]);
        assert_eq!(Origin::of_each(&events[..1], None, &[]), [None]);
        assert_eq!(Origin::of_each(&events[2..3], None, &[]), [None]);
    }

    #[test]
    fn a_row_is_short() {
        let origin = Origin {
            attempt: Some(2),
            record: Some(Place::from((0, 7))),
            ..Origin::default()
        };
        let written = json!({"attempt": 2, "record": [0, 7]});
        assert_eq!(serde_json::to_value(&origin).unwrap(), written);
        assert_eq!(serde_json::from_value::<Origin>(written).unwrap(), origin);
    }

    #[test]
    fn only_a_trace_that_is_recorded_has_an_id() {
        let of = |trace: &str| {
            let trace = Some(trace.to_owned());
            let origin = Origin {
                trace,
                ..Origin::default()
            };
            origin.trace_id()
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(of(TRACE).as_deref(), Some(id));
        assert_eq!(of(&TRACE.replace("-01", "-00")), None);
        assert_eq!(of("nonsense"), None);
    }
}
