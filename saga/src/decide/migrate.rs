//! From one version of a definition to another, under a saga in flight.

use crate::{
    Error,
    decide::{
        Decision,
        intervene::{not_allowed, noted},
        turn::Turn,
    },
    definition::Plan,
    event::Event,
    instance::{Instance, StepStatus},
    intervention::{Intervention, OperationName, What},
};

/// Brings a saga from the version it is on to another one, as a person wished. What was sent stays
/// sent and is known by the names of its steps.
///
/// # Errors
///
/// [`Error::NotAllowed`] when the saga has ended, the target has no migration from its version, or
/// the target would forget, reorder or reinterpret a step that was sent. Nothing is decided then.
pub fn migrate(
    from: &Plan,
    to: &Plan,
    instance: &Instance,
    intervention: &Intervention,
) -> Result<Decision, Error> {
    advance_under(from, to, instance.clone(), intervention).map(|(_, decision)| decision)
}

/// The same, with the state that follows.
pub(crate) fn advance_under(
    from: &Plan,
    to: &Plan,
    instance: Instance,
    intervention: &Intervention,
) -> Result<(Instance, Decision), Error> {
    let refused = |reason: String| Err(not_allowed(OperationName::Migrate, reason));
    if instance.status.is_terminal() {
        return refused(format!("the saga is {} already", instance.status));
    }
    debug_assert!(matches!(intervention.what, What::Migrate { .. }));
    let Some(migration) = to.migrations.get(&from.version) else {
        return refused(format!(
            "version {} has no migration from version {}",
            to.version, from.version
        ));
    };
    if let Some(reason) = unfit(from, to, &instance) {
        return refused(reason);
    }
    let data = migration(&instance.data).map_err(|reason| to.unreadable(reason))?;
    let mut turn = Turn {
        plan: to,
        now: instance,
        decision: Decision::default(),
    };
    turn.record(noted(intervention));
    turn.record(Event::Migrated {
        from: from.version,
        to: to.version,
        hash: to.hash.clone(),
        steps: to.steps.iter().map(|step| step.name.clone()).collect(),
        data,
    });
    turn.advance()?;
    Ok((turn.now, turn.decision))
}

/// Why the target cannot take over what was begun under the other version.
fn unfit(from: &Plan, to: &Plan, instance: &Instance) -> Option<String> {
    let begun = |name: &str| {
        instance
            .step(name)
            .is_some_and(|s| s.status != StepStatus::Pending)
    };
    let mut stage = 0;
    for old in from.steps.iter().filter(|step| begun(&step.name)) {
        let name = &old.name;
        let Ok(new) = to.step(name) else {
            return Some(format!("step {name} was begun, and the target has none"));
        };
        if new.class.as_str() != old.class.as_str() {
            return Some(format!(
                "step {name} was begun as {}, in the target it is {}",
                old.class.as_str(),
                new.class.as_str()
            ));
        }
        if new.stage < stage {
            return Some(format!(
                "step {name} was begun, and in the target it is earlier"
            ));
        }
        stage = new.stage;
    }
    let passed_over = to
        .steps
        .iter()
        .find(|new| new.stage < stage && !begun(&new.name));
    passed_over
        .filter(|_| instance.reason.is_none())
        .map(|new| {
            format!(
                "step {} is new, and its place in the order has passed",
                new.name
            )
        })
}
