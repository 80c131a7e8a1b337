//! `GET /sagas/{id}/messages`: what a saga asked and what it was answered.
//!
//! The history is what this is told from: it is there as long as the saga. Beside it stand the parked
//! messages, on either side of the pipe. The log of the outbox is not asked: it knows no saga,
//! and is emptied once it is sent. So where a record stands in the broker is told by whoever read
//! it: of a reply by the coordinator, of a command by the participant, in its reply. A command that
//! nobody has answered yet is found there by its key, the saga's id.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use outbox::{incoming::parked as inbox, operator::parked as outbox_side};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Coordinator, Error,
    definition::Class,
    event::Event,
    http::{
        house::{House, RawId, RawQuery, keep},
        params,
        problem::Problem,
        query::{EventsQuery, Pairs, saga_id},
        table,
        view::{Direction, MessageView, Messages},
    },
    instance::Instance,
    operation::{Operation, Phase},
    origin::Origin,
    wire::{self, Outcome},
};

/// How many parked messages of a saga are looked at, on each side.
const PARKED: i64 = 20;

/// How many answers are looked through for the records of a page's commands, for each message of it:
/// nearly always an answer follows close behind.
const ANSWERS: i64 = 2;

/// Each command and each reply of a saga, in order
///
/// Told from the history: topic, partition, offset, attempt, op_key, trace and what was answered. A
/// message that is parked names its place in `/parked`. A parked reply, which the history does not
/// know, comes last. A command has a partition and an offset once it is answered: its participant
/// says them. Until then look for the saga's id, which is its record key.
#[utoipa::path(get, path = "/sagas/{id}/messages", tag = "sagas", operation_id = "saga_messages",
    params(params::Id, params::History),
    responses((status = 200, description = "A page", body = Messages)))]
pub(crate) async fn messages(
    State(House {
        pool, coordinator, ..
    }): State<House>,
    id: RawId,
    query: RawQuery,
) -> Result<Json<Messages>, Problem> {
    let id = saga_id(id)?;
    let query = EventsQuery::parse(Pairs::new(query)?)?;
    let saga = table::find(&pool, id).await?.ok_or(Problem::UnknownSaga)?;
    let mut events = table::correspondence(&pool, id, &query).await?;
    let more = keep(&mut events, query.limit);
    let next_after = events.last().filter(|_| more).map(|event| event.seq);
    let desk = Desk {
        coordinator: &coordinator,
        saga_id: id,
        instance: saga.instance().ok(),
    };
    let (mut messages, mut unreadable) = (Vec::new(), Vec::new());
    for event in events {
        match event.told {
            Ok((told, origin)) => messages.extend(desk.message(event.seq, event.at, told, origin)),
            Err(why) => unreadable.push(why),
        }
    }
    let answers = table::answers(&pool, id, query.after, ANSWERS * query.limit).await?;
    find_records(&answers, &mut messages);
    find_parked_commands(&pool, id, &mut messages).await?;
    if next_after.is_none() {
        let parked = parked_replies(&pool, id, coordinator.reply_topic()).await?;
        messages.extend(parked);
    }
    Ok(Json(Messages {
        messages,
        unreadable,
        next_after,
    }))
}

/// Who knows where messages of a saga go.
struct Desk<'a> {
    coordinator: &'a Coordinator,
    saga_id: Uuid,
    /// None if its row cannot be read: then nobody knows where its commands go.
    instance: Option<Instance>,
}

/// What an event says of a message.
struct Said {
    direction: Direction,
    step: String,
    phase: Phase,
    round: i32,
    attempt: Option<i32>,
    probe: bool,
    outcome: Option<Outcome>,
    counted: bool,
}

impl Desk<'_> {
    /// None where no message is told of.
    fn message(
        &self,
        seq: i64,
        at: DateTime<Utc>,
        told: Event,
        origin: Origin,
    ) -> Option<MessageView> {
        let said = said(told)?;
        let operation = Operation {
            saga_id: self.saga_id,
            step: said.step,
            phase: said.phase,
            round: said.round,
        };
        let (topic, kind) = self.address(said.direction, &operation);
        Some(MessageView {
            direction: said.direction,
            seq: Some(seq),
            at,
            op_key: operation.key(),
            step: operation.step,
            phase: operation.phase,
            round: operation.round,
            attempt: said.attempt.or(origin.attempt),
            probe: said.probe,
            outcome: said.outcome,
            counted: said.counted,
            topic,
            kind,
            key: self.saga_id,
            parked: None,
            partition: origin.record.map(|record| record.partition),
            offset: origin.record.map(|record| record.offset),
            trace_id: origin.trace_id(),
        })
    }

    /// None where this replica does not know the saga's version, or its steps have changed.
    fn address(
        &self,
        direction: Direction,
        operation: &Operation,
    ) -> (Option<String>, Option<String>) {
        if direction == Direction::Reply {
            return (Some(self.coordinator.reply_topic().to_owned()), None);
        }
        let instance = self.instance.as_ref();
        let defined = instance.and_then(|instance| self.coordinator.pinned(instance).ok());
        let step = defined.and_then(|defined| defined.plan.step(&operation.step).ok());
        match step {
            None => (None, None),
            Some(step) => {
                let kind = match (operation.phase, &step.class) {
                    (Phase::Action, _) => Some(step.kind),
                    (Phase::Compensation, Class::Compensatable(undo)) => Some(undo.kind),
                    (Phase::Compensation, _) => None,
                };
                (Some(step.topic.clone()), kind.map(ToOwned::to_owned))
            }
        }
    }
}

/// None where no message is told of: a person took the step for done.
fn said(event: Event) -> Option<Said> {
    let sent = |step, phase, round, attempt, probe| Said {
        direction: Direction::Command,
        step,
        phase,
        round,
        attempt: Some(attempt),
        probe,
        outcome: None,
        counted: true,
    };
    let answered = |step, phase, round, outcome, counted| Said {
        direction: Direction::Reply,
        step,
        phase,
        round,
        attempt: None,
        probe: false,
        outcome: Some(outcome),
        counted,
    };
    use Phase::{Action, Compensation};
    Some(match event {
        Event::CommandSent {
            step,
            phase,
            round,
            attempt,
            ..
        } => sent(step, phase, round, attempt, false),
        Event::ProbeSent {
            step,
            round,
            attempt,
            ..
        } => sent(step, Action, round, attempt, true),
        Event::ActionSucceeded { answer: None, .. } => return None,
        Event::ActionSucceeded { step, round, .. } => {
            answered(step, Action, round, Outcome::Succeeded, true)
        }
        Event::ActionFailed { step, round, .. } => {
            answered(step, Action, round, Outcome::Failed, true)
        }
        Event::StepCompensated { step, round } => {
            answered(step, Compensation, round, Outcome::Compensated, true)
        }
        Event::StepNullCompensated { step, round } => {
            answered(step, Compensation, round, Outcome::NullCompensated, true)
        }
        Event::Ignored {
            step,
            phase,
            round,
            outcome,
            ..
        } => answered(step, phase, round, outcome, false),
        _ => return None,
    })
}

/// Says where the commands stand in the broker, as their answers tell.
fn find_records(answers: &[(Event, Origin)], messages: &mut [MessageView]) {
    for (event, origin) in answers {
        let (Some(answered), Some(record)) = (said(event.clone()), origin.command) else {
            continue;
        };
        let is_answered = |message: &&mut MessageView| {
            message.direction == Direction::Command
                && message.step == answered.step
                && message.phase == answered.phase
                && message.round == answered.round
                && message.attempt == origin.attempt
        };
        if let Some(command) = messages.iter_mut().find(is_answered) {
            command.partition = Some(record.partition);
            command.offset = Some(record.offset);
        }
    }
}

/// Says which of the commands were not sent.
async fn find_parked_commands(
    pool: &PgPool,
    id: Uuid,
    messages: &mut [MessageView],
) -> Result<(), Error> {
    let mut topics: Vec<String> = messages.iter().filter_map(|m| m.topic.clone()).collect();
    topics.sort_unstable();
    topics.dedup();
    for topic in topics {
        let selection = outbox_side::Selection {
            topic: Some(topic),
            key: Some(id.to_string()),
            class: None,
        };
        for item in outbox_side::list(pool, &selection, None, PARKED).await? {
            let Some(parked) = outbox_side::show(pool, item.seq, false).await? else {
                continue;
            };
            let is_meant = |message: &&mut MessageView| {
                let is = |name: &str, value: String| parked.headers.get(name) == Some(&value);
                message.direction == Direction::Command
                    && is(wire::OP_KEY, message.op_key.to_string())
                    && message
                        .attempt
                        .is_some_and(|attempt| is(wire::ATTEMPT, attempt.to_string()))
            };
            if let Some(message) = messages.iter_mut().find(is_meant) {
                message.parked = Some(format!("outbox-{}", item.seq));
            }
        }
    }
    Ok(())
}

/// Replies that could not be handled.
async fn parked_replies(pool: &PgPool, id: Uuid, topic: &str) -> Result<Vec<MessageView>, Error> {
    let filter = inbox::Filter {
        topic: Some(topic.to_owned()),
        key: Some(id.to_string().into_bytes()),
        ..inbox::Filter::default()
    };
    let mut replies = Vec::new();
    for parked in inbox::list(pool, &filter, 0, PARKED).await? {
        let Some(shown) = inbox::show(pool, parked.id, false).await? else {
            continue;
        };
        replies.extend(parked_reply(id, &shown));
    }
    Ok(replies)
}

/// None if its headers say nothing of an operation.
fn parked_reply(id: Uuid, shown: &inbox::Shown) -> Option<MessageView> {
    let header = |name: &str| {
        let header = shown.headers.iter().find(|header| header.name == name)?;
        match header.value.as_ref()? {
            outbox::operator::Payload::Text(text) => Some(text.clone()),
            outbox::operator::Payload::Hex(_) => None,
        }
    };
    let operation = Operation {
        saga_id: id,
        step: header(wire::STEP)?,
        phase: header(wire::PHASE)?.parse().ok()?,
        round: header(wire::ROUND)?.parse().ok()?,
    };
    let trace = Origin {
        trace: header("traceparent"),
        ..Origin::default()
    };
    let parked = &shown.parked;
    Some(MessageView {
        direction: Direction::Reply,
        seq: None,
        at: parked.parked_at,
        op_key: operation.key(),
        step: operation.step,
        phase: operation.phase,
        round: operation.round,
        attempt: header(wire::ATTEMPT).and_then(|attempt| attempt.parse().ok()),
        probe: false,
        outcome: header(wire::OUTCOME).and_then(|outcome| outcome.parse().ok()),
        counted: false,
        topic: Some(parked.topic.clone()),
        kind: header("ce_type"),
        key: id,
        parked: Some(format!("inbox-{}", parked.id)),
        partition: Some(parked.partition),
        offset: Some(parked.offset),
        trace_id: trace.trace_id(),
    })
}

/// The kinds of events that are about a message.
pub(crate) const ABOUT_MESSAGES: [&str; 7] = [
    "command_sent",
    "probe_sent",
    "action_succeeded",
    "action_failed",
    "step_compensated",
    "step_null_compensated",
    "ignored",
];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_read_is_what_is_told() {
        let some = |kind: &str| {
            let event: Value = json!({
                "type": kind, "step": "s", "phase": "action", "round": 1, "attempt": 1, "data": {},
                "op_key": Uuid::nil(), "refusal": {"code": "c", "message": "m"},
                "reason": "duplicate", "outcome": "succeeded", "answer": "a",
            });
            serde_json::from_value::<Event>(event)
        };
        for kind in ABOUT_MESSAGES {
            assert!(said(some(kind).unwrap()).is_some(), "{kind}");
        }
        for kind in [
            "action_unknown",
            "round_planned",
            "attempt_timed_out",
            "completed",
        ] {
            assert!(said(some(kind).unwrap()).is_none(), "{kind}");
        }
    }
}
