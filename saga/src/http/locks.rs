//! `GET /locks`: who holds what, and who waits for it.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Serialize;
use sqlx::PgPool;
use utoipa::ToSchema;

use crate::{
    http::{
        params,
        problem::Problem,
        query::{Pairs, between, text},
    },
    locks::{self, Filter, Lock},
};

/// A page of the resources that are claimed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Locks {
    /// By name.
    pub items: Vec<Lock>,
    /// Give it back as `cursor` for the next page; none on the last.
    pub next_cursor: Option<String>,
}

/// Claimed resources by name, with who holds them and who waits
#[utoipa::path(get, path = "/locks", tag = "sagas", operation_id = "locks",
    params(params::Claims, params::Paging),
    responses((status = 200, description = "A page", body = Locks)))]
pub(crate) async fn locks(
    State(pool): State<PgPool>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Locks>, Problem> {
    let mut filter = parse(Pairs::new(query)?)?;
    let limit = filter.limit;
    filter.limit += 1;
    let mut items = locks::list(&pool, &filter).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| more);
    let next_cursor = last.map(|lock| to_cursor(&lock.resource));
    Ok(Json(Locks { items, next_cursor }))
}

pub(crate) fn parse(mut pairs: Pairs) -> Result<Filter, Problem> {
    let filter = Filter {
        resource: pairs.take_parsed("resource", text)?,
        saga_id: pairs.take_parsed("saga_id", |id| {
            id.parse().map_err(|_| "not a UUID".to_owned())
        })?,
        waiting: pairs.take_parsed("waiting", |word| {
            word.parse().map_err(|_| "not true or false".to_owned())
        })?,
        limit: pairs.take_parsed("limit", between(1, 200))?.unwrap_or(50),
        after: pairs.take_parsed("cursor", from_cursor)?,
    };
    pairs.nothing_left()?;
    Ok(filter)
}

/// The name of the last resource of a page, in hexadecimal: a name may hold anything, and whoever
/// sees it shall not think that it may be made up.
fn to_cursor(resource: &str) -> String {
    resource.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn from_cursor(cursor: &str) -> Result<String, String> {
    let resource = || {
        let (pairs, rest) = cursor.as_bytes().as_chunks::<2>();
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = pairs.iter().map(byte).collect::<Option<Vec<u8>>>()?;
        let resource = String::from_utf8(bytes).ok()?;
        let fits = rest.is_empty() && !resource.is_empty() && !resource.contains('\0');
        // Only what was given out comes back: there is one spelling of each place.
        (fits && to_cursor(&resource) == cursor).then_some(resource)
    };
    resource().ok_or_else(|| "not a cursor of this list".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_round_trip_and_nothing_else_is_one() {
        for resource in ["a", "credit/018f", "Größe %/?&=", "\u{1f512}"] {
            assert_eq!(from_cursor(&to_cursor(resource)).as_deref(), Ok(resource));
        }
        for wrong in ["", "6", "zz", "+6", "6A", "00", "ff", "ÄÄ", "61626"] {
            assert!(from_cursor(wrong).is_err(), "{wrong}");
        }
    }
}
