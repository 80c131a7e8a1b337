//! Giving up and claiming, in the caller's transaction.

use std::collections::{BTreeMap, HashSet};

use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{
    Error,
    locks::{
        claim::{Acquired, Claim, Granted},
        line, table,
    },
    telemetry,
};

/// What an [`exchange`] came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exchanged {
    /// One for each claim, in their order.
    pub acquired: Vec<Acquired>,
    /// Who stood in the line and was granted by it.
    pub granted: Vec<Granted>,
}

/// Claims for sagas, in the order given. The same saga claiming the same units of a resource again
/// changes nothing and is told how it stands.
///
/// The transaction is READ COMMITTED and holds the rows of these sagas; it calls nothing else of
/// this module. Somebody who waited may be granted by it, when a claim names a larger capacity:
/// [`notice`] finds them.
///
/// # Errors
///
/// [`Error::Claim`] when a claim cannot be one, or differs from what the saga has claimed already;
/// it never heals. Or the database's.
pub async fn acquire(
    tx: &mut PgTransaction<'_>,
    claims: &[(Uuid, Claim)],
) -> Result<Vec<Acquired>, Error> {
    Ok(exchange(tx, &[], claims).await?.acquired)
}

/// Gives up all that these sagas claim, held or waiting, and grants who can now be granted, in
/// order. Returns these; their turn comes by [`notice`].
///
/// The transaction is as with [`acquire`].
///
/// # Errors
///
/// The database's.
pub async fn release(tx: &mut PgTransaction<'_>, sagas: &[Uuid]) -> Result<Vec<Granted>, Error> {
    Ok(exchange(tx, sagas, &[]).await?.granted)
}

/// [`release`], then [`acquire`], with one order of locking for both.
///
/// # Errors
///
/// As [`acquire`].
pub async fn exchange(
    tx: &mut PgTransaction<'_>,
    released: &[Uuid],
    claims: &[(Uuid, Claim)],
) -> Result<Exchanged, Error> {
    claims.iter().try_for_each(|(_, claim)| claim.check())?;
    let given_up = match released.is_empty() {
        true => Vec::new(),
        false => table::claimed_by(tx, released).await?,
    };
    swap(tx, &given_up, claims).await
}

/// Gives up all that these sagas claim, held or waiting, except what stands beside them: for sagas
/// that have ended or turned back, whose states list what they still hold. The table of claims is
/// asked, because a state may have lost what the table knows.
///
/// # Errors
///
/// The database's.
pub(crate) async fn keep_only(
    tx: &mut PgTransaction<'_>,
    sagas: &[(Uuid, Vec<&str>)],
) -> Result<Vec<Granted>, Error> {
    if sagas.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = sagas.iter().map(|(id, _)| *id).collect();
    let mut claimed = table::claimed_by(tx, &ids).await?;
    claimed.retain(|(id, resource)| {
        let mut kept = sagas.iter().filter(|(saga, _)| saga == id);
        !kept.any(|(_, kept)| kept.contains(&resource.as_str()))
    });
    Ok(swap(tx, &claimed, &[]).await?.granted)
}

/// Gives up these claims, then makes those.
async fn swap(
    tx: &mut PgTransaction<'_>,
    given_up: &[(Uuid, String)],
    claims: &[(Uuid, Claim)],
) -> Result<Exchanged, Error> {
    // The rows of what is given up exist, so nobody reads the capacity.
    let resources = given_up.iter().map(|(_, resource)| (resource.clone(), 1));
    let mut resources: BTreeMap<_, _> = resources.collect();
    let gives_up = !given_up.is_empty();
    for (_, claim) in claims {
        resources.insert(claim.resource.clone(), claim.capacity);
    }
    if resources.is_empty() {
        return Ok(Exchanged::default());
    }
    let (resources, capacities): (Vec<_>, Vec<_>) = resources.into_iter().unzip();
    // From here on nobody else changes a claim of these resources.
    table::lock_in_order(tx, &resources, &capacities).await?;
    if gives_up {
        table::delete_claims(tx, given_up).await?;
    }
    let mut found = table::find(tx, claims).await?;
    let changed = line::changed_capacities(claims, &found);
    if !changed.is_empty() {
        table::set_capacities(tx, &changed).await?;
    }
    let mut granted = Vec::new();
    if gives_up || !changed.is_empty() {
        granted = table::grant(tx, &resources).await?;
        found = table::find(tx, claims).await?;
    }
    let acquired = line::decide(claims, &found)?;
    table::insert_claims(tx, &fresh(claims, &found, &acquired)).await?;
    if gives_up || acquired.contains(&Acquired::TooLarge) {
        table::delete_unclaimed(tx, &resources).await?;
    }
    telemetry::claims(&acquired, granted.len());
    Ok(Exchanged { acquired, granted })
}

/// Takes note, for sagas that waited, that they were granted what they waited for: at most `limit`
/// grants, the oldest first. The sagas are locked for this transaction, which is to make their
/// turn come; sagas that are locked by others are left for the next time.
///
/// Call it before anything that locks a resource.
///
/// # Errors
///
/// The database's.
pub async fn notice(tx: &mut PgTransaction<'_>, limit: i64) -> Result<Vec<Granted>, Error> {
    let sagas = table::lock_granted_instances(tx, limit).await?;
    if sagas.is_empty() {
        return Ok(Vec::new());
    }
    table::hold_granted(tx, &sagas).await
}

/// The claims that are new, with whether they wait.
fn fresh<'a>(
    claims: &'a [(Uuid, Claim)],
    found: &[line::Found],
    acquired: &[Acquired],
) -> Vec<(Uuid, &'a Claim, bool)> {
    let mut seen = HashSet::new();
    let claims = claims.iter().zip(found).zip(acquired);
    let fresh = claims.filter_map(|(((saga_id, claim), found), acquired)| {
        let waits = match acquired {
            Acquired::Granted => false,
            Acquired::Waiting => true,
            Acquired::TooLarge => return None,
        };
        let first = found.own.is_none() && seen.insert((*saga_id, &claim.resource));
        first.then_some((*saga_id, claim, waits))
    });
    fresh.collect()
}
