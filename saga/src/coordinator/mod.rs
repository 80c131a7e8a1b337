//! The coordinator: one transaction for turns of sagas.
//!
//! What passes here: every start, reply, timer, lock and intervention, on the way from a decision
//! to rows and messages. Promised: history, state, commands, timers and hooks of a turn commit
//! together or not at all, and two replicas never take the same turn. Not promised: that a command
//! is sent once; that is the barrier's part. If we die here, the transaction is rolled back and
//! whoever gets the same reply or timer next takes the turn.

mod stop;
mod turns;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use outbox::{
    Batched, Consumer,
    broker::{Broker, OnPoison},
    incoming,
};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgPool, PgTransaction};
use tracing::{Instrument, Span, info_span};
use uuid::Uuid;

use crate::{
    Error,
    decide::{self, Effect},
    definition::{Definition, Hooks, Plan},
    error::without_content,
    event::{Input, LockAnswer},
    instance::Instance,
    locks::{self, Acquired, Claim},
    operation::check_saga_id,
    origin::Origin,
    replies::Replies,
    table::{self, Versions},
    timers::Timers,
};

pub(crate) use stop::stop;
pub(crate) use turns::{Failed, Turns};

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

/// A definition as a coordinator keeps it.
pub(crate) struct Defined {
    pub(crate) plan: Plan,
    pub(crate) hooks: Hooks,
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
    /// Where the definition claims resources, start one saga a transaction, and last: two such
    /// transactions could otherwise wait for each other's resources.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDefinition`], [`Error::Data`] when `data` is of another type than the
    /// definition's, [`Error::Claim`], [`Error::IdTaken`], [`Error::SagaId`] when the id is not a
    /// UUIDv7 of about now, or the database's. The transaction must be rolled back then.
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

    /// The consumer of the reply topic, under this name. What replies need is set whatever `settings`
    /// say: one that cannot be read holds up no other of its saga.
    #[must_use]
    pub fn consumer(
        &self,
        name: &str,
        pool: PgPool,
        broker: Arc<dyn Broker>,
        settings: incoming::Config,
    ) -> Consumer<Batched<Replies>> {
        let settings = incoming::Config {
            on_poison: OnPoison::SkipMessage,
            ..settings
        };
        let topic = self.reply_topic();
        Consumer::new(name, &[topic], pool, broker, Batched(self.replies())).with(settings)
    }

    /// Handles replies. [`Coordinator::consumer`] feeds it from the reply topic; this is for tests, and
    /// for whoever has another source.
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
        let start = || decide::start(&defined.plan, saga_id, business_key, &data);
        let (instance, decision) = outbox::caught_in(start)?;
        let claims = claims_of(&decision.effects, saga_id);
        let timers = turns::timers_of(&decision.effects);
        let events = &decision.events;
        let origins = Origin::of_each(events, None, &outbox::carry(&Span::current()));
        let inserted = table::insert_instance(tx, &instance, events, &origins, &timers).await?;
        let Some(now) = inserted else {
            let existing = table::load_by_business_key(tx, definition, business_key).await?;
            return Ok(existing.ok_or(Error::IdTaken(saga_id))?.instance);
        };
        check_saga_id(saga_id, now)?;
        let mut turns = Turns::begun(self, instance, decision, now);
        for ((_, claim), acquired) in claims.iter().zip(locks::acquire(tx, &claims).await?) {
            let granted = match acquired {
                Acquired::Granted => true,
                Acquired::TooLarge => false,
                Acquired::Waiting => continue,
            };
            let resource = claim.resource.clone();
            turns.take(saga_id, &Input::Lock(LockAnswer { resource, granted }))?;
        }
        let mut started = turns.write(tx).await?;
        started.pop().ok_or(Error::UnknownSaga(saga_id))
    }

    /// Which versions this replica can steer.
    pub(crate) fn known(&self) -> Versions {
        let definitions = self.inner.definitions.values();
        let plans = definitions.flat_map(BTreeMap::values).map(|d| &d.plan);
        let (names, versions) = plans.map(|plan| (plan.name.clone(), plan.version)).unzip();
        Versions { names, versions }
    }

    fn newest(&self, name: &str) -> Result<&Defined, Error> {
        let versions = self.inner.definitions.get(name);
        let newest = versions.and_then(|versions| versions.values().next_back());
        newest.ok_or_else(|| Error::UnknownDefinition {
            name: name.to_owned(),
            version: None,
        })
    }

    pub(crate) fn reply_topic(&self) -> &str {
        &self.inner.reply_topic
    }

    pub(crate) fn version(&self, name: &str, version: i32) -> Result<&Defined, Error> {
        let versions = self.inner.definitions.get(name);
        let defined = versions.and_then(|versions| versions.get(&version));
        defined.ok_or_else(|| Error::UnknownDefinition {
            name: name.to_owned(),
            version: Some(version),
        })
    }

    pub(crate) fn pinned(&self, instance: &Instance) -> Result<&Defined, Error> {
        let defined = self.version(&instance.definition, instance.version)?;
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

fn claims_of(effects: &[Effect], saga_id: Uuid) -> Vec<(Uuid, Claim)> {
    let claims = effects.iter().filter_map(|effect| match effect {
        Effect::Acquire(claims) => Some(claims),
        _ => None,
    });
    claims.flatten().map(|c| (saga_id, c.clone())).collect()
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
