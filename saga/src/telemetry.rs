//! Every metric and span of this crate. No label ever holds a payload, a key or an id.
//!
//! | metric | kind | labels | counts |
//! |---|---|---|---|
//! | `saga_started_total` | counter | definition | sagas begun |
//! | `saga_ended_total` | counter | definition, status | sagas completed or compensated |
//! | `saga_parked_total` | counter | definition | times a saga came to wait for a person |
//! | `saga_parked_instances` | gauge | definition | sagas that wait for a person now, in the whole database |
//! | `saga_unattended_instances` | gauge | definition, version | open sagas of a version that no replica has, in the whole database; counted up to 1,000 |
//! | `saga_resumed_total` | counter | definition | times a parked saga got its answer after all |
//! | `saga_step_outcomes_total` | counter | definition, step, phase, outcome | settled operations |
//! | `saga_attempts_timed_out_total` | counter | definition, step, phase | answers overdue |
//! | `saga_replies_ignored_total` | counter | reason | replies that changed nothing |
//! | `saga_replies_kept_total` | counter | — | replies kept for a replica that knows their sagas' versions, or until their sagas are resumed |
//! | `saga_pending_replies` | gauge | — | replies that are kept now, in the whole database; counted up to 1,000 |
//! | `saga_pending_oldest_seconds` | gauge | — | how long the oldest of these is kept; 0 if there is none |
//! | `saga_anomalies_total` | counter | definition, kind | what should not have happened: see `GET /anomalies` |
//! | `saga_probes_total` | counter | definition, step | questions what became of a pivot |
//! | `saga_interventions_total` | counter | definition, operation | what people did |
//! | `saga_bulk_items_total` | counter | operation, result | sagas of bulk operations that had their turn |
//! | `saga_streams_open` | gauge | — | clients of live streams now |
//! | `saga_deadlines_passed_total` | counter | definition | sagas that became late |
//! | `saga_timers_fired_total` | counter | — | timers turned into a decision |
//! | `saga_timers_postponed_total` | counter | — | timers whose firing failed |
//! | `saga_lock_claims_total` | counter | outcome | claims made, by what came of them |
//! | `saga_lock_granted_from_line_total` | counter | — | claims that waited and were granted |
//! | `saga_lock_waiting` | gauge | — | claims that wait now, in the whole database |
//! | `saga_lock_unnoticed` | gauge | — | claims granted whose sagas have not had their turn |
//! | `saga_lock_oldest_waiting_seconds` | gauge | — | how long the oldest of those waits; 0 if none does |
//! | `saga_lock_oldest_held_seconds` | gauge | — | how long the oldest claim is held; 0 if none is |
//! | `saga_lock_ended_holders_total` | counter | — | ended sagas that claimed something still, and do not any more |
//! | `saga_retention_forgotten_total` | counter | — | ended sagas removed with their history |
//! | `saga_barrier_total` | counter | participant, phase, outcome | commands by what came of them |
//! | `saga_external_total` | counter | step, answer | what effects outside of the database answered when called, probed or revoked |
//! | `saga_external_running` | gauge | participant | operations with something outside of the database that have no answer yet, up to 100,000 |
//! | `saga_external_failing` | gauge | participant | those of them whose last try came to nothing |
//! | `saga_external_oldest_seconds` | gauge | participant | how long ago the oldest of them began; 0 if there is none |
//! | `saga_barrier_forgotten_total` | counter | — | barrier rows removed by retention |
//!
//! Counted when decided, inside the transaction: one that is rolled back and redone counts twice.
//!
//! | span | around |
//! |---|---|
//! | `saga.start` | one start |
//! | `saga.reply` | one reply, decided, and the hooks that follow from it |
//! | `saga.timer` | what a saga's timer, or a claim that was granted, leads to |
//! | `saga.kept_reply` | the turn of one saga whose reply was kept |
//! | `saga.intervention` | one intervention of a person |
//! | `saga.bulk` | the turn of one saga of a bulk operation |
//! | `saga.command` | one command at a participant |
//! | `saga.external` | one try at an operation with something outside of the database |
//!
//! `saga.replies` (a batch), `saga.timers`, `saga.grants` and `saga.pending` (a look at what is due,
//! granted, kept) are of level *debug*: they stand beside log lines and are not exported.

use metrics::{counter, gauge};

use crate::{
    event::Event,
    instance::{Instance, Status},
    intervention::OperationName,
    locks::{Acquired, Seen},
    operation::Phase,
};

/// A client watches.
pub(crate) fn stream_opened() {
    gauge!("saga_streams_open").increment(1.0);
}

/// It does not any more.
pub(crate) fn stream_closed() {
    gauge!("saga_streams_open").decrement(1.0);
}

/// A saga was parked as a whole.
pub(crate) fn stopped(definition: String) {
    counter!("saga_parked_total", "definition" => definition).increment(1);
}

/// Counts what a decision recorded.
pub(crate) fn decided(instance: &Instance, events: &[Event]) {
    for event in events {
        count(&instance.definition, event);
    }
}

fn count(definition: &str, event: &Event) {
    let definition = definition.to_owned();
    match event {
        Event::Started { .. } => {
            counter!("saga_started_total", "definition" => definition).increment(1);
        }
        Event::AttemptTimedOut { step, phase, .. } => {
            let (step, phase) = (step.clone(), phase.as_str());
            counter!("saga_attempts_timed_out_total", "definition" => definition, "step" => step, "phase" => phase)
                .increment(1);
        }
        Event::ActionSucceeded { step, .. } => {
            settled(definition, step, Phase::Action, "succeeded");
        }
        Event::ActionFailed { step, .. } => settled(definition, step, Phase::Action, "failed"),
        Event::ActionUnknown { step, .. } => settled(definition, step, Phase::Action, "unknown"),
        Event::StepCompensated { step, .. } => {
            settled(definition, step, Phase::Compensation, "compensated");
        }
        Event::StepNullCompensated { step, .. } => {
            settled(definition, step, Phase::Compensation, "null_compensated");
        }
        Event::Parked { .. } => {
            counter!("saga_parked_total", "definition" => definition).increment(1);
        }
        Event::Resumed => {
            counter!("saga_resumed_total", "definition" => definition).increment(1);
        }
        Event::Completed => ended(definition, Status::Completed),
        Event::Compensated => ended(definition, Status::Compensated),
        Event::Ignored { reason, .. } => {
            counter!("saga_replies_ignored_total", "reason" => reason.as_str()).increment(1);
            if reason.is_anomaly() {
                anomaly(definition, reason.as_str());
            }
        }
        Event::Abandoned => ended(definition, Status::Abandoned),
        Event::ProbeSent { step, .. } => {
            counter!("saga_probes_total", "definition" => definition, "step" => step.clone())
                .increment(1);
        }
        Event::Intervened { operation, .. } => {
            counter!("saga_interventions_total", "definition" => definition, "operation" => operation.as_str())
                .increment(1);
        }
        Event::CompensationSkipped { step, .. } => {
            settled(definition, step, Phase::Compensation, "skipped");
        }
        Event::DeadlinePassed => {
            counter!("saga_deadlines_passed_total", "definition" => definition).increment(1);
        }
        Event::AnomalyFound { outcome, .. } => anomaly(definition, outcome.as_str()),
        Event::LockRequested(_)
        | Event::LockGranted { .. }
        | Event::LockRefused { .. }
        | Event::StepSkipped { .. }
        | Event::Migrated { .. }
        | Event::CommandSent { .. }
        | Event::RetryPlanned { .. }
        | Event::RoundPlanned { .. }
        | Event::CompensationStarted { .. } => {}
    }
}

fn anomaly(definition: String, kind: &'static str) {
    counter!("saga_anomalies_total", "definition" => definition, "kind" => kind).increment(1);
}

fn ended(definition: String, status: Status) {
    counter!("saga_ended_total", "definition" => definition, "status" => status.as_str())
        .increment(1);
}

fn settled(definition: String, step: &str, phase: Phase, outcome: &'static str) {
    counter!(
        "saga_step_outcomes_total",
        "definition" => definition, "step" => step.to_owned(), "phase" => phase.as_str(), "outcome" => outcome
    )
    .increment(1);
}

/// A reply that changed nothing was not even recorded: its saga has enough of them.
pub(crate) fn reply_unrecorded() {
    counter!("saga_replies_ignored_total", "reason" => "unrecorded").increment(1);
}

/// Replies were kept for a replica that knows their sagas' versions.
pub(crate) fn replies_kept(replies: usize) {
    counter!("saga_replies_kept_total").increment(replies as u64);
}

/// A timer became a decision.
pub(crate) fn timers_fired(count: usize) {
    counter!("saga_timers_fired_total").increment(count as u64);
}

/// A timer's firing failed and was put off.
pub(crate) fn timer_postponed() {
    counter!("saga_timers_postponed_total").increment(1);
}

/// What came of claims, and how many others they, or what was given up with them, let in.
pub(crate) fn claims(acquired: &[Acquired], from_line: usize) {
    for acquired in acquired {
        let outcome = match acquired {
            Acquired::Granted => "granted",
            Acquired::Waiting => "waiting",
            Acquired::TooLarge => "too_large",
        };
        counter!("saga_lock_claims_total", "outcome" => outcome).increment(1);
    }
    if from_line > 0 {
        counter!("saga_lock_granted_from_line_total").increment(from_line as u64);
    }
}

/// How old the claims are. Every replica shows the same: take the largest, not the sum.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; nobody counts 2^52 claims"
)]
pub(crate) fn locks(seen: &Seen) {
    gauge!("saga_lock_waiting").set(seen.waiting as f64);
    gauge!("saga_lock_unnoticed").set(seen.unnoticed as f64);
    gauge!("saga_lock_oldest_waiting_seconds").set(seen.oldest_waiting.as_secs_f64());
    gauge!("saga_lock_oldest_held_seconds").set(seen.oldest_held.as_secs_f64());
    if !seen.ended.is_empty() {
        counter!("saga_lock_ended_holders_total").increment(seen.ended.len() as u64);
    }
}

/// So many sagas wait for a person. Every replica shows the same: take the largest, not the sum.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; nobody counts 2^52 sagas"
)]
pub(crate) fn parked_now(definition: &str, sagas: i64) {
    gauge!("saga_parked_instances", "definition" => definition.to_owned()).set(sagas as f64);
}

/// So many sagas stand still because no replica has their version. Every replica shows the same.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; no more than 1,000 are counted"
)]
pub(crate) fn unattended_now(definition: &str, version: i32, sagas: i64) {
    gauge!(
        "saga_unattended_instances",
        "definition" => definition.to_owned(), "version" => version.to_string()
    )
    .set(sagas as f64);
}

/// So many replies are kept for a replica that knows their sagas' versions. Every replica shows the
/// same: take the largest, not the sum.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; nobody counts 2^52 replies"
)]
pub(crate) fn replies_kept_now(replies: i64, oldest_seconds: f64) {
    gauge!("saga_pending_replies").set(replies as f64);
    gauge!("saga_pending_oldest_seconds").set(oldest_seconds);
}

/// A saga of a bulk operation had its turn.
pub(crate) fn bulk_item(operation: OperationName, result: &'static str) {
    counter!("saga_bulk_items_total", "operation" => operation.as_str(), "result" => result)
        .increment(1);
}

/// Ended sagas were removed.
pub(crate) fn forgotten(sagas: usize) {
    counter!("saga_retention_forgotten_total").increment(sagas as u64);
}

/// What came of a command at the barrier: the outcome answered, or `silent`; `repeated` when a
/// stored reply was sent again.
pub(crate) fn barrier(participant: &str, phase: Phase, outcome: &'static str) {
    counter!(
        "saga_barrier_total",
        "participant" => participant.to_owned(), "phase" => phase.as_str(), "outcome" => outcome
    )
    .increment(1);
}

/// What an effect outside of the database answered: `done`, `refused`, `silent` to a call; `found`,
/// `found_refused`, `not_found`, `unknown` to a probe; `revoked`; `undone` to a compensation's call.
/// `put_off` when a try came to nothing.
pub(crate) fn external(step: &str, answer: &'static str) {
    counter!("saga_external_total", "step" => step.to_owned(), "answer" => answer).increment(1);
}

/// So many operations with something outside of the database have no answer yet, so many of them
/// failed at least once, and the oldest is this old. Every process of a service shows the same: take
/// the largest, not the sum.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; nobody counts 2^52 operations"
)]
pub(crate) fn external_running(participant: &str, running: i64, failing: i64, oldest: f64) {
    let participant = participant.to_owned();
    gauge!("saga_external_running", "participant" => participant.clone()).set(running as f64);
    gauge!("saga_external_failing", "participant" => participant.clone()).set(failing as f64);
    gauge!("saga_external_oldest_seconds", "participant" => participant).set(oldest);
}

/// Retention removed barrier rows.
pub(crate) fn barrier_forgotten(rows: u64) {
    counter!("saga_barrier_forgotten_total").increment(rows);
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder,
        SharedString, Unit,
    };

    use super::*;
    use crate::{event::IgnoredBecause, wire::Outcome};

    /// Writes down what is counted.
    #[derive(Clone, Default)]
    struct Ledger(Arc<Mutex<Vec<String>>>);

    struct Line(Ledger, String);

    impl Ledger {
        fn line(&self, key: &Key) -> Line {
            let labels = key.labels().map(|l| format!(" {}={}", l.key(), l.value()));
            Line(
                self.clone(),
                key.name().to_owned() + &labels.collect::<String>(),
            )
        }

        /// These lines, with names that stand in the table of this file.
        fn written_as(&self, expected: &[&str]) {
            assert_eq!(*self.0.lock().unwrap(), expected);
            let table = include_str!("telemetry.rs");
            for line in expected {
                let name = line.split(' ').next().unwrap();
                let row = format!("//! | `{name}`");
                assert!(table.contains(&row), "{name} is in the table");
            }
        }
    }

    impl CounterFn for Line {
        fn increment(&self, by: u64) {
            let line = format!("{} +{by}", self.1);
            self.0.0.lock().unwrap().push(line);
        }
        fn absolute(&self, _: u64) {}
    }

    impl GaugeFn for Line {
        fn increment(&self, _: f64) {}
        fn decrement(&self, _: f64) {}
        fn set(&self, value: f64) {
            let line = format!("{} ={value}", self.1);
            self.0.0.lock().unwrap().push(line);
        }
    }

    impl Recorder for Ledger {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(self.line(key)))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::new(self.line(key)))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn what_is_recorded_is_counted_under_the_names_above() {
        let ledger = Ledger::default();
        let ignored = |reason| Event::Ignored {
            reason,
            step: "pay".to_owned(),
            phase: Phase::Action,
            round: 1,
            outcome: Outcome::Succeeded,
            answer: None,
        };
        let parked = Event::Parked {
            step: "pay".to_owned(),
            reason: "a secret".to_owned(),
            awaits_reply: true,
        };
        let unknown = Event::ActionUnknown {
            step: "pay".to_owned(),
            round: 1,
        };
        metrics::with_local_recorder(&ledger, || {
            for event in [
                ignored(IgnoredBecause::Duplicate),
                ignored(IgnoredBecause::LateSuccess),
                parked,
                unknown,
                Event::Completed,
                Event::Compensated,
            ] {
                count("trip", &event);
            }
            reply_unrecorded();
        });
        ledger.written_as(&[
            "saga_replies_ignored_total reason=duplicate +1",
            "saga_replies_ignored_total reason=late_success +1",
            "saga_anomalies_total definition=trip kind=late_success +1",
            "saga_parked_total definition=trip +1",
            "saga_step_outcomes_total definition=trip step=pay phase=action outcome=unknown +1",
            "saga_ended_total definition=trip status=completed +1",
            "saga_ended_total definition=trip status=compensated +1",
            "saga_replies_ignored_total reason=unrecorded +1",
        ]);
    }

    #[test]
    fn claims_and_forgetting_are_counted_under_the_names_above() {
        let ledger = Ledger::default();
        let seen = Seen {
            waiting: 3,
            unnoticed: 2,
            oldest_waiting: Duration::from_millis(1500),
            oldest_held: Duration::from_secs(60),
            told: Vec::new(),
            ended: vec![uuid::Uuid::nil()],
        };
        metrics::with_local_recorder(&ledger, || {
            let acquired = [Acquired::Granted, Acquired::Waiting, Acquired::TooLarge];
            claims(&acquired, 0);
            claims(&[], 7);
            locks(&seen);
            forgotten(5);
            parked_now("trip", 2);
            unattended_now("trip", 1, 3);
            replies_kept_now(6, 1.5);
        });
        ledger.written_as(&[
            "saga_lock_claims_total outcome=granted +1",
            "saga_lock_claims_total outcome=waiting +1",
            "saga_lock_claims_total outcome=too_large +1",
            "saga_lock_granted_from_line_total +7",
            "saga_lock_waiting =3",
            "saga_lock_unnoticed =2",
            "saga_lock_oldest_waiting_seconds =1.5",
            "saga_lock_oldest_held_seconds =60",
            "saga_lock_ended_holders_total +1",
            "saga_retention_forgotten_total +5",
            "saga_parked_instances definition=trip =2",
            "saga_unattended_instances definition=trip version=1 =3",
            "saga_pending_replies =6",
            "saga_pending_oldest_seconds =1.5",
        ]);
    }
}
