//! The coordinator: one transaction for each turn of a saga.
//!
//! What passes here: every start, reply and timer, on the way from a decision to rows and
//! messages. Promised: history, state, commands, timers and hooks of one turn commit together or
//! not at all, and two replicas never take the same turn. Not promised: that a command is sent
//! once; that is the barrier's part. If we die here, the transaction is rolled back and whoever
//! gets the same reply or timer next takes the turn.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgPool, PgTransaction};
use tracing::{Instrument, info_span};
use uuid::Uuid;

use crate::{
    Error,
    decide::{self, Decision, Effect},
    definition::{Definition, Ended, Hooks, Plan},
    error::without_content,
    event::{Event, Input},
    instance::{Instance, Status},
    replies::Replies,
    table::{self, Loaded, TimerChanges},
    telemetry,
    timers::Timers,
    wire,
};

/// How long a participant may begin what a command asks. Shorter than it keeps its barrier rows.
const COMMAND_EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// Steers the sagas of its definitions. Cheap to clone; any number of replicas may run.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

struct Inner {
    reply_topic: String,
    /// By name, then version: the last is the newest.
    definitions: HashMap<String, BTreeMap<i32, Defined>>,
}

struct Defined {
    plan: Plan,
    hooks: Hooks,
}

impl Coordinator {
    /// Starts building one. Participants answer on `reply_topic`; feed [`Coordinator::replies`]
    /// from it.
    pub fn builder(reply_topic: impl Into<String>) -> Builder {
        Builder {
            inner: Inner {
                reply_topic: reply_topic.into(),
                definitions: HashMap::new(),
            },
        }
    }

    /// Writes the definitions down, so that no other program steers the same name and version
    /// with another graph. Call it once at start, before anything else.
    ///
    /// # Errors
    ///
    /// [`Error::DefinitionChanged`] when a version is known with another hash.
    pub async fn register(&self, pool: &PgPool) -> Result<(), Error> {
        let mut tx = pool.begin_with(table::BEGIN).await?;
        for defined in self.inner.definitions.values().flat_map(BTreeMap::values) {
            let plan = &defined.plan;
            let known =
                table::register_definition(&mut tx, &plan.name, plan.version, &plan.hash).await?;
            same_hash(plan, known)?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Starts a saga of the newest version of a definition, in the caller's transaction: it starts
    /// if and only if that commits. With a business key that has a saga already, nothing starts
    /// and the one that exists is returned; its id tells.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDefinition`], [`Error::Data`] when `data` is of another type than the
    /// definition's, [`Error::IdTaken`], or the database's.
    pub async fn start<D: Serialize + Sync>(
        &self,
        tx: &mut PgTransaction<'_>,
        saga_id: Uuid,
        definition: &str,
        business_key: &str,
        data: &D,
    ) -> Result<Instance, Error> {
        let span = info_span!("saga.start", %saga_id, definition);
        let data = serde_json::to_value(data).map_err(|error| Error::Data {
            definition: definition.to_owned(),
            reason: without_content(&error),
        })?;
        self.start_with(tx, saga_id, definition, business_key, data)
            .instrument(span)
            .await
    }

    /// Handles replies: feed it from an outbox consumer of the reply topic.
    #[must_use]
    pub fn replies(&self) -> Replies {
        Replies::new(self.clone())
    }

    /// Fires what is due. Any number of replicas may run it.
    #[must_use]
    pub fn timers(&self, pool: PgPool) -> Timers {
        Timers::new(self.clone(), pool)
    }

    async fn start_with(
        &self,
        tx: &mut PgTransaction<'_>,
        saga_id: Uuid,
        definition: &str,
        business_key: &str,
        data: Value,
    ) -> Result<Instance, Error> {
        let defined = self.newest(definition)?;
        let (instance, decision) = decide::start(&defined.plan, saga_id, business_key, &data)?;
        let wait = wait_of(&decision);
        let Some(now) = table::insert_instance(tx, &instance, wait).await? else {
            let existing = table::load_by_business_key(tx, definition, business_key).await?;
            return Ok(existing.ok_or(Error::IdTaken(saga_id))?.instance);
        };
        table::append_events(tx, saga_id, 0, &decision.events).await?;
        self.carry_out(tx, defined, &instance, decision, now)
            .await?;
        Ok(instance)
    }

    /// One turn of a saga whose row is locked: decide, record, do.
    pub(crate) async fn turn(
        &self,
        tx: &mut PgTransaction<'_>,
        loaded: Loaded,
        input: &Input,
    ) -> Result<Instance, Error> {
        let Loaded { mut instance, now } = loaded;
        let defined = self.pinned(&instance)?;
        let decision = decide::decide(&defined.plan, &instance, input)?;
        if decision.events.is_empty() {
            return Ok(instance);
        }
        let before = instance.seq;
        for event in &decision.events {
            instance.apply(event);
        }
        let moved = match &decision.events[..] {
            // The state is as it was: what it waits for, and until when, stays untouched.
            [Event::Ignored { .. }] => {
                table::advance_seq(tx, instance.id, before, instance.seq).await?
            }
            _ => table::update_instance(tx, &instance, before, wait_of(&decision)).await?,
        };
        if !moved {
            return Err(Error::Conflict(instance.id));
        }
        table::append_events(tx, instance.id, before, &decision.events).await?;
        self.carry_out(tx, defined, &instance, decision, now)
            .await?;
        Ok(instance)
    }

    async fn carry_out(
        &self,
        tx: &mut PgTransaction<'_>,
        defined: &Defined,
        instance: &Instance,
        decision: Decision,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        telemetry::decided(instance, &decision.events);
        let todo = sort(decision.effects);
        let messages: Vec<_> = todo
            .commands
            .into_iter()
            .map(|command| {
                let op_key = command.operation.key();
                let headers = wire::Command {
                    operation: command.operation,
                    op_key,
                    definition: instance.definition.clone(),
                    attempt: command.attempt,
                    reply_topic: self.inner.reply_topic.clone(),
                    expires_at: now + COMMAND_EXPIRY,
                    probe: false,
                };
                headers.message(&command.topic, command.kind, command.payload)
            })
            .collect();
        if !messages.is_empty() {
            outbox::enqueue_all(tx, &messages).await?;
        }
        if !todo.timers.clear.is_empty() || !todo.timers.set.is_empty() {
            table::change_timers(tx, instance.id, &todo.timers).await?;
        }
        if let Some(status) = todo.ended {
            run_hook(tx, &defined.hooks, instance, status).await?;
        }
        Ok(())
    }

    fn newest(&self, name: &str) -> Result<&Defined, Error> {
        let versions = self.inner.definitions.get(name);
        let newest = versions.and_then(|versions| versions.values().next_back());
        newest.ok_or_else(|| Error::UnknownDefinition {
            name: name.to_owned(),
            version: None,
        })
    }

    fn pinned(&self, instance: &Instance) -> Result<&Defined, Error> {
        let versions = self.inner.definitions.get(&instance.definition);
        let defined = versions.and_then(|versions| versions.get(&instance.version));
        let defined = defined.ok_or_else(|| Error::UnknownDefinition {
            name: instance.definition.clone(),
            version: Some(instance.version),
        })?;
        same_hash(&defined.plan, instance.hash.clone())?;
        Ok(defined)
    }
}

/// Collects a coordinator's definitions.
#[must_use]
pub struct Builder {
    inner: Inner,
}

impl Builder {
    /// Adds a definition. Versions of one name live side by side: new sagas take the newest, sagas
    /// in flight end under theirs.
    ///
    /// # Errors
    ///
    /// [`Error::Definition`] when this version of it was added before.
    pub fn define<D>(mut self, definition: Definition<D>) -> Result<Self, Error> {
        let Definition { plan, hooks, .. } = definition;
        let versions = self.inner.definitions.entry(plan.name.clone());
        let versions = versions.or_default();
        if versions.contains_key(&plan.version) {
            return Err(Error::Definition {
                reason: format!("version {} is defined twice", plan.version),
                definition: plan.name,
            });
        }
        versions.insert(plan.version, Defined { plan, hooks });
        Ok(self)
    }

    /// Done.
    #[must_use]
    pub fn build(self) -> Coordinator {
        Coordinator {
            inner: Arc::new(self.inner),
        }
    }
}

#[derive(Default)]
struct Todo {
    commands: Vec<decide::Command>,
    timers: TimerChanges,
    ended: Option<Status>,
}

/// Effects by kind, so that each kind takes one statement. Of a timer's changes the last counts.
fn sort(effects: Vec<Effect>) -> Todo {
    let mut todo = Todo::default();
    let mut timers = BTreeMap::new();
    for effect in effects {
        match effect {
            Effect::Send(command) => todo.commands.push(command),
            Effect::SetTimer { timer, after } => {
                let of = (timer.step.clone(), timer.phase.as_str());
                timers.insert(of, Some((timer, after)));
            }
            Effect::ClearTimer { step, phase } => {
                timers.insert((step, phase.as_str()), None);
            }
            Effect::Ended(status) => todo.ended = Some(status),
        }
    }
    for (of, set) in timers {
        match set {
            Some(set) => todo.timers.set.push(set),
            None => todo.timers.clear.push(of),
        }
    }
    todo
}

/// How long the saga will wait, for the eyes of whoever looks at it.
fn wait_of(decision: &Decision) -> Option<Duration> {
    decision
        .effects
        .iter()
        .rev()
        .find_map(|effect| match effect {
            Effect::SetTimer { after, .. } => Some(*after),
            _ => None,
        })
}

async fn run_hook(
    tx: &mut PgTransaction<'_>,
    hooks: &Hooks,
    instance: &Instance,
    status: Status,
) -> Result<(), outbox::Error> {
    let hook = match status {
        Status::Completed => &hooks.on_completed,
        Status::Compensated => &hooks.on_compensated,
        _ => &None,
    };
    let Some(hook) = hook else {
        return Ok(());
    };
    let ended = Ended {
        id: instance.id,
        business_key: instance.business_key.clone(),
        data: instance.data.clone(),
        reason: instance.reason.clone(),
    };
    hook(tx, ended).await
}

fn same_hash(plan: &Plan, known: String) -> Result<(), Error> {
    if known == plan.hash {
        return Ok(());
    }
    Err(Error::DefinitionChanged {
        name: plan.name.clone(),
        version: plan.version,
        known,
        ours: plan.hash.clone(),
    })
}
