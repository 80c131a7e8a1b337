//! Every metric and span of this crate. No label ever holds a payload, a key or an id.
//!
//! | metric | kind | labels | counts |
//! |---|---|---|---|
//! | `saga_started_total` | counter | definition | sagas begun |
//! | `saga_ended_total` | counter | definition, status | sagas completed or compensated |
//! | `saga_parked_total` | counter | definition | times a saga came to wait for a person |
//! | `saga_resumed_total` | counter | definition | times a parked saga got its answer after all |
//! | `saga_step_outcomes_total` | counter | definition, step, phase, outcome | settled operations |
//! | `saga_attempts_timed_out_total` | counter | definition, step, phase | answers overdue |
//! | `saga_replies_ignored_total` | counter | reason | replies that changed nothing |
//! | `saga_timers_fired_total` | counter | — | timers turned into a decision |
//! | `saga_timers_postponed_total` | counter | — | timers whose firing failed |
//! | `saga_barrier_total` | counter | participant, phase, outcome | commands by what came of them |
//! | `saga_external_total` | counter | step, answer | what effects outside of the database answered when called, probed or revoked |
//! | `saga_barrier_forgotten_total` | counter | — | barrier rows removed by retention |
//!
//! Counted when decided, inside the transaction: one that is rolled back and redone counts twice.
//!
//! | span | around |
//! |---|---|
//! | `saga.start` | one start |
//! | `saga.reply` | one reply |
//! | `saga.timer` | one firing |
//! | `saga.command` | one command at a participant |

use metrics::counter;

use crate::{
    event::Event,
    instance::{Instance, Status},
    operation::Phase,
};

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
        }
        Event::CommandSent { .. }
        | Event::RetryPlanned { .. }
        | Event::RoundPlanned { .. }
        | Event::CompensationStarted { .. } => {}
    }
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

/// A timer became a decision.
pub(crate) fn timers_fired(count: usize) {
    counter!("saga_timers_fired_total").increment(count as u64);
}

/// A timer's firing failed and was put off.
pub(crate) fn timer_postponed() {
    counter!("saga_timers_postponed_total").increment(1);
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
/// `found_refused`, `not_found`, `unknown` to a probe; `revoked`.
pub(crate) fn external(step: &str, answer: &'static str) {
    counter!("saga_external_total", "step" => step.to_owned(), "answer" => answer).increment(1);
}

/// Retention removed barrier rows.
pub(crate) fn barrier_forgotten(rows: u64) {
    counter!("saga_barrier_forgotten_total").increment(rows);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;
    use crate::{event::IgnoredBecause, wire::Outcome};

    /// Writes down what is counted.
    #[derive(Clone, Default)]
    struct Ledger(Arc<Mutex<Vec<String>>>);

    struct Line(Ledger, String);

    impl CounterFn for Line {
        fn increment(&self, by: u64) {
            let line = format!("{} +{by}", self.1);
            self.0.0.lock().unwrap().push(line);
        }
        fn absolute(&self, _: u64) {}
    }

    impl Recorder for Ledger {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let labels = key.labels().map(|l| format!(" {}={}", l.key(), l.value()));
            let line = key.name().to_owned() + &labels.collect::<String>();
            Counter::from_arc(Arc::new(Line(self.clone(), line)))
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
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
        };
        let parked = Event::Parked {
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
                ignored(IgnoredBecause::Anomaly),
                parked,
                unknown,
                Event::Completed,
                Event::Compensated,
            ] {
                count("trip", &event);
            }
        });
        let lines = ledger.0.lock().unwrap().clone();
        let expected = [
            "saga_replies_ignored_total reason=duplicate +1",
            "saga_replies_ignored_total reason=anomaly +1",
            "saga_parked_total definition=trip +1",
            "saga_step_outcomes_total definition=trip step=pay phase=action outcome=unknown +1",
            "saga_ended_total definition=trip status=completed +1",
            "saga_ended_total definition=trip status=compensated +1",
        ];
        assert_eq!(lines, expected);
        let table = include_str!("telemetry.rs");
        for line in lines {
            let name = line.split(' ').next().unwrap();
            assert!(
                table.contains(&format!("//! | `{name}`")),
                "{name} is in the table"
            );
        }
    }
}
