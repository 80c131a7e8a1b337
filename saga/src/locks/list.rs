//! Who holds what and who waits for it, for people.
//!
//! What passes here: reads. Promised: what is said of one resource was true at one moment, except
//! its capacity, read a moment earlier. Not promised: a frozen list.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Error, locks::table};

/// How many holders and how many waiters of one resource are shown; their numbers are exact.
const SHOWN: i64 = 100;

/// Which resources are asked for.
#[derive(Debug, Clone)]
pub struct Filter {
    /// That one.
    pub resource: Option<String>,
    /// Those that this saga claims.
    pub saga_id: Option<Uuid>,
    /// Those that somebody waits for, or nobody.
    pub waiting: Option<bool>,
    /// Those whose names come after this one.
    pub after: Option<String>,
    /// How many at most.
    pub limit: i64,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            resource: None,
            saga_id: None,
            waiting: None,
            after: None,
            limit: 50,
        }
    }
}

/// A resource that is claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Lock {
    /// Its name.
    pub resource: String,
    /// How many units can be held together.
    pub capacity: i64,
    /// How many are held. More than the capacity if that was lowered.
    pub used: i64,
    /// How many sagas hold some of it.
    pub holding: i64,
    /// How many sagas wait.
    pub waiting: i64,
    /// The first 100 who hold, in the order in which they claimed.
    pub holders: Vec<Claimant>,
    /// The first 100 who wait, in order. Here and above, a saga that was asked for is shown even
    /// if it is further behind.
    pub waiters: Vec<Claimant>,
}

/// A saga that claims a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Claimant {
    /// The saga.
    pub saga_id: Uuid,
    /// How much it claims.
    pub units: i64,
    /// Since when it holds it, or waits.
    pub since: DateTime<Utc>,
    /// Its place, from 1: in the line, or among the holders.
    pub position: i64,
}

/// The resources that are claimed, by name, with who holds them and who waits.
///
/// # Errors
///
/// The database's.
pub async fn list(pool: &PgPool, filter: &Filter) -> Result<Vec<Lock>, Error> {
    let page = table::page(pool, filter).await?;
    let names: Vec<String> = page.iter().map(|(resource, _)| resource.clone()).collect();
    let mut claims: HashMap<String, Vec<table::Shown>> = HashMap::new();
    for claim in table::claims_of(pool, &names, SHOWN, filter.saga_id).await? {
        let of = claims.entry(claim.resource.clone()).or_default();
        of.push(claim);
    }
    let locks = page.into_iter().map(|(resource, capacity)| {
        let claims = claims.remove(&resource).unwrap_or_default();
        lock(resource, capacity, claims)
    });
    Ok(locks.collect())
}

fn lock(resource: String, capacity: i64, claims: Vec<table::Shown>) -> Lock {
    let used = claims.first().map_or(0, |claim| claim.used);
    let (waiters, holders): (Vec<_>, Vec<_>) = claims.into_iter().partition(|claim| claim.waits);
    let count = |claims: &[table::Shown]| claims.first().map_or(0, |claim| claim.count);
    Lock {
        resource,
        capacity,
        used,
        holding: count(&holders),
        waiting: count(&waiters),
        holders: holders.into_iter().map(claimant).collect(),
        waiters: waiters.into_iter().map(claimant).collect(),
    }
}

fn claimant(claim: table::Shown) -> Claimant {
    Claimant {
        saga_id: claim.saga_id,
        units: claim.units,
        since: claim.since.into(),
        position: claim.place,
    }
}
