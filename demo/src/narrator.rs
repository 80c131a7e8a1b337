//! A saga's history in a person's words.

use saga::{Phase, event::Event};

/// One line for an event; `None` for those that say nothing to a spectator.
pub(crate) fn line(event: &Event) -> Option<String> {
    let line = match event {
        Event::Started { .. } => {
            "saga started, in the transaction that placed the order".to_owned()
        }
        Event::CommandSent {
            step,
            phase,
            round,
            attempt,
            ..
        } => {
            let verb = match phase {
                Phase::Action => "→",
                Phase::Compensation => "↩ undo",
            };
            let again = match (round, attempt) {
                (1, 1) => String::new(),
                (1, attempt) => format!(" (attempt {attempt})"),
                (round, _) => format!(" (round {round})"),
            };
            format!("{verb} {step}{again}")
        }
        Event::AttemptTimedOut { step, .. } => format!("… no answer to {step}"),
        Event::ActionSucceeded { step, .. } => format!("✓ {step}"),
        Event::ActionFailed { step, refusal, .. } => format!("✗ {step}: {}", refusal.message),
        Event::ActionUnknown { step, .. } => {
            format!("? {step}: nobody knows whether it took effect, so it will be undone")
        }
        Event::CompensationStarted { .. } => "turning back".to_owned(),
        Event::StepCompensated { step, .. } => format!("✓ {step} undone"),
        Event::StepNullCompensated { step, .. } => {
            format!("✓ {step} had done nothing, and never will")
        }
        Event::Parked { reason, .. } => format!("‖ parked: {reason}"),
        Event::Completed => "completed".to_owned(),
        Event::Compensated => "compensated: nothing is left half done".to_owned(),
        _ => return None,
    };
    Some(line)
}
