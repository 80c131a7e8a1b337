//! The schemas that are known here, and where their migrations stand.

use std::collections::HashMap;

use anyhow::Result;
use chrono::{DateTime, Utc};
use clap::ValueEnum;
use serde::Serialize;
use sqlx::{
    PgConnection, PgPool,
    migrate::{Migration, Migrator},
};

use crate::{
    migrate::table::{self, Applied},
    usage::Usage,
};

/// The schemas, each with one owner: a crate of the framework or a service of the shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Schema {
    /// The log, the relay's lease and cursor, the inbox.
    Outbox,
    /// Sagas and their history, timers, the participant's barrier.
    Saga,
    /// The shop's orders.
    Orders,
    /// The shop's payments and ledger.
    Payments,
    /// The shop's deliveries.
    Deliveries,
    /// The shop's notifications.
    Notifications,
}

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It was applied as it is.
    Applied,
    /// It was not applied yet.
    Pending,
    /// It was another one when it was applied.
    Changed,
    /// It was applied by a program that knows more than this one.
    Unknown,
    /// It was begun and not finished.
    Failed,
}

impl State {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Pending => "pending",
            Self::Changed => "changed",
            Self::Unknown => "unknown here",
            Self::Failed => "failed",
        }
    }
}

/// One migration of a schema, as the database and this program know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Standing {
    /// Its schema.
    pub(crate) schema: String,
    /// Its number.
    pub(crate) version: i64,
    /// What it does.
    pub(crate) description: String,
    /// Where it stands.
    pub(crate) state: State,
    /// When it was applied.
    pub(crate) applied_at: Option<DateTime<Utc>>,
}

/// How schemas stand.
#[derive(Serialize)]
pub(crate) struct Status {
    /// Whether nothing is pending, and nothing is wrong.
    pub(crate) up_to_date: bool,
    /// Each migration.
    pub(crate) migrations: Vec<Standing>,
}

impl Status {
    pub(crate) async fn of(connection: &mut PgConnection, schemas: &[Schema]) -> Result<Self> {
        let mut migrations = Vec::new();
        for schema in schemas {
            migrations.extend(schema.stands(connection).await?);
        }
        let mut all = migrations.iter();
        Ok(Self {
            up_to_date: all.all(|standing| standing.state == State::Applied),
            migrations,
        })
    }
}

impl Schema {
    pub(crate) fn name(self) -> String {
        // Every variant has a name: none is skipped.
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Where its history is kept: beside its tables.
    pub(crate) fn history(self) -> String {
        format!("{}._sqlx_migrations", self.name())
    }

    pub(crate) async fn migrate(self, pool: &PgPool) -> Result<()> {
        match self {
            Self::Outbox => outbox::migrate(pool).await?,
            Self::Saga => saga::migrate(pool).await?,
            _ => outbox::run_migrations(pool, &self.migrator()).await?,
        }
        Ok(())
    }

    /// Its migrations, in order.
    pub(crate) fn migrations(self) -> Vec<Migration> {
        let migrator = self.migrator();
        let forwards = |migration: &&Migration| !migration.migration_type.is_down_migration();
        migrator.iter().filter(forwards).cloned().collect()
    }

    /// Where each of its migrations stands.
    pub(crate) async fn stands(self, connection: &mut PgConnection) -> Result<Vec<Standing>> {
        let applied = match table::is_there(connection, &self.history()).await? {
            true => table::applied(connection, &self.history()).await?,
            false => Vec::new(),
        };
        Ok(self.compare(applied))
    }

    fn compare(self, applied: Vec<Applied>) -> Vec<Standing> {
        let applied = applied
            .into_iter()
            .map(|applied| (applied.version, applied));
        let mut applied: HashMap<i64, Applied> = applied.collect();
        let known = self.migrations().into_iter().map(|migration| {
            let before = applied.remove(&migration.version);
            let state = match &before {
                None => State::Pending,
                Some(before) if !before.success => State::Failed,
                Some(before) if before.checksum != *migration.checksum => State::Changed,
                Some(_) => State::Applied,
            };
            Standing {
                schema: self.name(),
                version: migration.version,
                description: migration.description.into_owned(),
                state,
                applied_at: before.map(|before| before.installed_on),
            }
        });
        let mut all: Vec<Standing> = known.collect();
        all.extend(applied.into_values().map(|unknown| Standing {
            schema: self.name(),
            version: unknown.version,
            description: unknown.description,
            state: State::Unknown,
            applied_at: Some(unknown.installed_on),
        }));
        all.sort_by_key(|standing| standing.version);
        all
    }

    /// The shop's folders are compiled in here once more, so that this crate need not depend on the
    /// services.
    fn migrator(self) -> Migrator {
        let migrator = match self {
            Self::Outbox => return copy(&outbox::MIGRATOR),
            Self::Saga => return copy(&saga::MIGRATOR),
            Self::Orders => sqlx::migrate!("../migrations/orders"),
            Self::Payments => sqlx::migrate!("../migrations/payments"),
            Self::Deliveries => sqlx::migrate!("../migrations/deliveries"),
            Self::Notifications => sqlx::migrate!("../migrations/notifications"),
        };
        self.kept_beside_its_tables(migrator)
    }

    /// As the services' own `sqlx.toml` says.
    fn kept_beside_its_tables(self, mut migrator: Migrator) -> Migrator {
        migrator.create_schema(self.name());
        migrator.dangerous_set_table_name(self.history());
        migrator
    }
}

/// A library's own, which cannot be moved.
fn copy(migrator: &Migrator) -> Migrator {
    Migrator::with_migrations(migrator.iter().cloned().collect())
}

/// Those given; without any, those that are in the database.
pub(crate) async fn given_or_there(
    connection: &mut PgConnection,
    given: &[Schema],
) -> Result<Vec<Schema>> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let mut there = Vec::new();
    for schema in Schema::value_variants() {
        if table::is_there(connection, &schema.history()).await? {
            there.push(*schema);
        }
    }
    if there.is_empty() {
        let wrong = "none of the schemas is in this database; say by --schema which are to be";
        return Err(Usage::new(wrong).into());
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(migration: &Migration) -> Applied {
        Applied {
            version: migration.version,
            description: migration.description.to_string(),
            installed_on: DateTime::UNIX_EPOCH,
            success: true,
            checksum: migration.checksum.to_vec(),
        }
    }

    #[test]
    fn each_migration_stands_where_the_history_says() {
        let migrations = Schema::Outbox.migrations();
        assert!(migrations.len() >= 4);
        let mut history: Vec<_> = migrations[..3].iter().map(applied).collect();
        history[1].checksum[0] ^= 1;
        history[2].success = false;
        let mut foreign = applied(&migrations[0]);
        foreign.version = 9_999;
        history.push(foreign);
        let all = Schema::Outbox.compare(history);
        let states: Vec<_> = all.iter().map(|standing| standing.state).collect();
        let pending = vec![State::Pending; migrations.len() - 3];
        let begin = [State::Applied, State::Changed, State::Failed];
        let expected = [&begin[..], &pending, &[State::Unknown]].concat();
        assert_eq!(states, expected);
        assert_eq!(all[0].applied_at, Some(DateTime::UNIX_EPOCH));
        assert_eq!(all[3].applied_at, None);
    }

    #[test]
    fn every_schema_has_migrations_that_run_in_transactions() {
        for schema in Schema::value_variants() {
            let migrations = schema.migrations();
            assert!(!migrations.is_empty(), "{schema:?}");
            assert!(migrations.iter().all(|migration| !migration.no_tx));
        }
    }
}
