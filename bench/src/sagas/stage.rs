//! Everything a saga meets, running: databases, topics, participants, a coordinator; and the check
//! that what was measured is what should have happened.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use outbox::broker::{OnPoison, Topic};
use saga::Coordinator;
use sqlx::PgPool;
use testbed::Database;
use uuid::Uuid;

use crate::{
    sagas::{
        coordinator::Steering,
        ended::Endings,
        participant::{self, ACCOUNTS, Effects, Serving},
        role::Role,
        trip::{self, Topics, Trip},
    },
    settings::Arguments,
    world::World,
};

/// How long all sagas may take to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
pub(crate) struct Stage {
    name: String,
    /// The coordinator's, then each participant's.
    databases: Vec<(Database, PgPool)>,
    roles: Vec<Role>,
    endings: Endings,
    coordinator: Coordinator,
}

/// Sagas that belong together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Act {
    /// What their business keys begin with.
    pub(crate) name: &'static str,
    /// Whether their last step is refused.
    pub(crate) refused: bool,
}

impl Act {
    fn key(self, n: usize) -> String {
        format!("{}-{n:08}", self.name)
    }
}

impl Stage {
    /// With everything running but the coordinator.
    pub(crate) async fn without_coordinator(world: &World, arguments: &Arguments) -> Result<Self> {
        let name = format!("sagas.{}", Uuid::now_v7().simple());
        let topics = Topics::new(&name, arguments.participants);
        let names = (0..arguments.participants).map(|n| topics.commands(n));
        let declared: Vec<_> = names
            .chain([topics.replies()])
            .map(|name| Topic::new(name, arguments.partitions).on_poison(OnPoison::SkipMessage))
            .collect();
        let (mut databases, mut roles) = (Vec::new(), Vec::new());
        for place in 0..=arguments.participants {
            let (database, pool) = world.database("sagas").await?;
            saga::migrate(&pool).await?;
            outbox::declare(&pool, &*world.broker, &declared).await?;
            if let Some(number) = place.checked_sub(1) {
                participant::prepare(&pool).await?;
                let serving = Serving {
                    number,
                    topic: topics.commands(number),
                    url: database.url.clone(),
                    broker: Arc::clone(&world.broker),
                    relay: arguments.relay(),
                };
                let role = Role::start(format!("participant-{number}"), |ready, stop| {
                    serving.run(ready, stop)
                });
                roles.push(role.await?);
            }
            databases.push((database, pool));
        }
        let endings = Endings::default();
        Ok(Self {
            coordinator: trip::coordinator(&topics, &endings)?,
            name,
            databases,
            roles,
            endings,
        })
    }

    /// With everything running.
    pub(crate) async fn start(world: &World, arguments: &Arguments) -> Result<Self> {
        let mut stage = Self::without_coordinator(world, arguments).await?;
        let steering = Steering {
            coordinator: stage.coordinator.clone(),
            url: stage.url().to_owned(),
            broker: Arc::clone(&world.broker),
            relay: arguments.relay(),
        };
        let role = Role::start("coordinator", |ready, stop| steering.run(ready, stop));
        stage.roles.push(role.await?);
        Ok(stage)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The coordinator's database.
    pub(crate) fn url(&self) -> &str {
        &self.databases[0].0.url
    }

    /// The coordinator's database.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.databases[0].1
    }

    pub(crate) fn endings(&self) -> &Endings {
        &self.endings
    }

    /// Starts one saga, in a transaction of its own like a service that was asked for it.
    pub(crate) async fn begin(&self, saga: Uuid, act: Act, n: usize) -> Result<()> {
        let mut tx = self.pool().begin().await?;
        self.begin_in(&mut tx, saga, act, n).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Starts one saga in a transaction of the caller's.
    pub(crate) async fn begin_in(
        &self,
        tx: &mut sqlx::PgTransaction<'_>,
        saga: Uuid,
        act: Act,
        n: usize,
    ) -> Result<()> {
        let trip = Trip::new(i64::try_from(n)? % ACCOUNTS, act.refused);
        let key = act.key(n);
        let started = self.coordinator.start(tx, saga, trip::NAME, &key, &trip);
        ensure!(started.await?.id == saga, "{key} was started before");
        Ok(())
    }

    /// What participants have done so far.
    pub(crate) async fn effects(&self) -> Result<Effects> {
        let participants = self.databases.iter().skip(1);
        Effects::of(participants.map(|(_, pool)| pool)).await
    }

    /// Sagas that have not ended.
    pub(crate) async fn in_flight(&self) -> Result<i64> {
        Ok(sqlx::query_scalar(
            "select count(*) from saga.instance
             where status in ('running', 'compensating', 'parked')",
        )
        .fetch_one(self.pool())
        .await?)
    }

    /// Waits until all sagas have ended, then ensures that these did as they should, each once, and
    /// that participants did what that takes.
    pub(crate) async fn verify(&self, act: Act, sagas: usize, before: Effects) -> Result<()> {
        testbed::wait_for(PATIENCE, "the end of all sagas", async || {
            Ok((self.in_flight().await? == 0).then_some(()))
        })
        .await?;
        let wanted = match act.refused {
            false => "completed",
            true => "compensated",
        };
        let sagas = i64::try_from(sagas)?;
        let (all, good): (i64, i64) = sqlx::query_as(
            "select count(*), count(*) filter (where status = $2)
             from saga.instance where business_key like $1 || '-%'",
        )
        .bind(act.name)
        .bind(wanted)
        .fetch_one(self.pool())
        .await?;
        ensure!(
            all == sagas && good == sagas,
            "of {sagas} sagas {all} exist and {good} are {wanted}"
        );
        let late: i64 = sqlx::query_scalar(
            "select count(*) from saga.event where kind in ('attempt_timed_out', 'parked')",
        )
        .fetch_one(self.pool())
        .await?;
        ensure!(late == 0, "{late} attempts were not answered in time");
        let (effects, expected) = (self.effects().await?, before.with(sagas, act.refused));
        ensure!(
            effects == expected,
            "participants have done {effects:?}, not {expected:?}"
        );
        Ok(())
    }

    /// Ends what runs, and throws the databases away.
    pub(crate) async fn stop(self, world: &World) -> Result<()> {
        for role in self.roles {
            role.end().await?;
        }
        for (database, pool) in self.databases {
            world.discard(database, pool).await?;
        }
        Ok(())
    }
}
