//! The closures of a definition and of a trial, watched: a panic in one is a broken promise, told with
//! which closure it was, and not the end of the test without a story.
//!
//! Whoever calls them may catch panics too. So each closure notes its own panic before it goes on, and
//! [`watched`] looks at the note and not at what the call came to.

use std::{cell::RefCell, sync::Arc};

use crate::{
    definition::{Class, Plan, PlanStep},
    testing::course::Stopped,
};

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls what calls such closures.
pub(crate) fn watched<T>(work: impl FnOnce() -> T) -> Result<T, Stopped> {
    PANIC.take();
    let done = outbox::caught_in(|| Ok::<_, outbox::Error>(work()));
    match (PANIC.take(), done) {
        (Some(panic), _) => Err(Stopped::Broken(panic)),
        (None, Ok(done)) => Ok(done),
        (None, Err(panic)) => Err(Stopped::Broken(format!("it {panic}"))),
    }
}

/// Calls one closure, whose panic is noted under its name.
pub(crate) fn named<T>(name: &str, closure: impl FnOnce() -> T) -> T {
    let done = outbox::caught_in(|| Ok::<_, outbox::Error>(closure()));
    done.unwrap_or_else(|panic| {
        let panic = format!("{name} {panic}");
        PANIC.set(Some(panic.clone()));
        panic!("{panic}")
    })
}

/// The plan, each of its closures under its name.
pub(crate) fn watch(mut plan: Plan) -> Plan {
    for step in &mut plan.steps {
        watch_step(step);
    }
    if let Some(tags) = plan.tags.take() {
        plan.tags = Some(Arc::new(move |data| {
            named("the closure for the tags", || tags(data))
        }));
    }
    for (number, claim) in plan.locks.iter_mut().enumerate() {
        let name = format!("the closure for lock {}", number + 1);
        let inner = Arc::clone(claim);
        *claim = Arc::new(move |data| named(&name, || inner(data)));
    }
    for (version, migration) in &mut plan.migrations {
        let name = format!("the migration from version {version}");
        let inner = Arc::clone(migration);
        *migration = Arc::new(move |data| named(&name, || inner(data)));
    }
    plan
}

fn watch_step(step: &mut PlanStep) {
    let name = step.name.clone();
    if let Some(when) = step.when.take() {
        let name = format!("the condition of step {name}");
        step.when = Some(Arc::new(move |data| named(&name, || when(data))));
    }
    let (encode, called) = (
        Arc::clone(&step.encode),
        format!("the command of step {name}"),
    );
    step.encode = Arc::new(move |data| named(&called, || encode(data)));
    let (fold, called) = (
        Arc::clone(&step.fold),
        format!("the fold of the reply of step {name}"),
    );
    step.fold = Arc::new(move |data, reply| named(&called, || fold(data, reply)));
    if let Class::Compensatable(undo) = &mut step.class {
        let (encode, called) = (
            Arc::clone(&undo.encode),
            format!("the compensation of step {name}"),
        );
        undo.encode = Arc::new(move |data| named(&called, || encode(data)));
    }
}
