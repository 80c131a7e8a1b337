//! From one version of a definition to another, under a saga in flight.

use crate::{
    Error,
    decide::{
        Decision, Effect,
        intervene::{not_allowed, noted},
        turn::Turn,
    },
    definition::{Class, Plan, PlanStep},
    event::{Event, Timer},
    instance::{Instance, LockState, StepStatus},
    intervention::{Intervention, OperationName, What},
    locks::Claim,
    operation::Phase,
};

/// Brings a saga from the version it is on to another one, as a person wished. What was sent stays
/// sent and is known by the names of its steps; what is still to be sent of such a step goes where its
/// action went. The target's tags take the place of the saga's, and its deadline, where it is another
/// one, counts from now.
///
/// # Errors
///
/// [`Error::NotAllowed`] when the saga has ended, the target has no migration from its version, the
/// target would forget, reorder or reinterpret a step that was sent, or send its retry, probe or
/// compensation elsewhere or as another kind, or it claims other resources. Nothing is decided then.
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
    if let Some(reason) = other_claims(&to.claims_of(&data)?, &instance) {
        return refused(reason);
    }
    let tags = to.tags_of(&data)?;
    let tags = (tags != instance.tags).then_some(tags);
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
        tags,
    });
    if let Some(after) = to.deadline.filter(|_| to.deadline != from.deadline) {
        let timer = Timer::Deadline;
        turn.effect(Effect::SetTimer { timer, after });
    }
    turn.advance()?;
    Ok((turn.now, turn.decision))
}

/// Why what the target claims is not what the saga has claimed. Claims are made at the start: one
/// that is made on the way would wait for others while it holds what they wait for.
fn other_claims(claims: &[Claim], instance: &Instance) -> Option<String> {
    let locks = &instance.locks;
    let is_claimed = |claim: &&Claim| {
        let mut locks = locks.iter();
        locks.any(|lock| (&lock.resource, lock.units) == (&claim.resource, claim.units))
    };
    let is_kept = |lock: &&LockState| claims.iter().any(|c| c.resource == lock.resource);
    // On the way back nothing is claimed any more, and what is held is given up at the end.
    let goes_on = instance.reason.is_none();
    let new = claims.iter().find(|claim| goes_on && !is_claimed(claim));
    let old = locks.iter().find(|lock| goes_on && !is_kept(lock));
    let new = new.map(|claim| {
        let Claim {
            resource, units, ..
        } = claim;
        format!("the target claims {units} of {resource}, and the saga has not claimed that")
    });
    new.or_else(|| {
        old.map(|lock| format!("the saga claims {}, and the target does not", lock.resource))
    })
}

/// Why the target cannot take over what was begun under the other version.
fn unfit(from: &Plan, to: &Plan, instance: &Instance) -> Option<String> {
    let begun = |name: &str| {
        instance
            .step(name)
            .is_some_and(|s| s.status != StepStatus::Pending)
    };
    let is_final = has_no_way_back(from, instance);
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
        if let Some(other) = elsewhere(old, new, instance, is_final) {
            return Some(format!("step {name} was begun, and {other}"));
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

/// What may still be sent of a begun step, and would go to another participant or be nothing that
/// this one knows: there it would be done a second time, or nothing would be found to undo.
fn elsewhere(
    old: &PlanStep,
    new: &PlanStep,
    instance: &Instance,
    is_final: bool,
) -> Option<String> {
    let state = instance.step(&old.name)?;
    // A refused action is settled: a new round is another operation.
    let is_asked = state.phase() == Phase::Action
        && state.waiting.is_some()
        && state.status != StepStatus::Failed;
    let undo = match (&old.class, &new.class) {
        (Class::Compensatable(old), Class::Compensatable(new)) => Some((old.kind, new.kind)),
        _ => None,
    };
    let undo = undo.filter(|_| state.status.may_have_effect() && !is_final);
    let asked = is_asked.then_some([
        ("command", old.kind, new.kind),
        ("reply", old.reply_kind, new.reply_kind),
    ]);
    let undone = undo.map(|(old, new)| ("compensation", old, new));
    let topics = (asked.is_some() || undone.is_some()).then_some((
        "topic",
        old.topic.as_str(),
        new.topic.as_str(),
    ));
    let words = topics
        .into_iter()
        .chain(asked.into_iter().flatten())
        .chain(undone);
    let mut words = words.filter(|(_, old, new)| old != new);
    let (what, old, new) = words.next()?;
    Some(format!("its {what} is {old}; in the target it is {new}"))
}

/// Whether nothing will be undone any more.
fn has_no_way_back(plan: &Plan, instance: &Instance) -> bool {
    plan.steps.iter().any(|step| {
        let status = instance.step(&step.name).map(|state| state.status);
        match (&step.class, status) {
            (Class::Compensatable(_), _) | (_, None) => false,
            (Class::Pivot, Some(status)) => status == StepStatus::Succeeded,
            (Class::Retriable { .. }, Some(status)) => {
                !matches!(status, StepStatus::Pending | StepStatus::Skipped)
            }
        }
    })
}
