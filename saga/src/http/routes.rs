//! From a request to what is shown.

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    routing::get,
};
use sqlx::PgPool;

use crate::http::{
    locks::locks,
    problem::Problem,
    query::{EventsQuery, ListQuery, Pairs, Place, saga_id},
    table,
    view::{Events, List, Saga, Summary},
};

/// The routes, to be nested under `/v1`.
pub fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/sagas", get(list))
        .route("/sagas/{id}", get(show))
        .route("/sagas/{id}/events", get(events))
        .route("/locks", get(locks))
        .with_state(pool)
}

type RawId = Result<Path<String>, PathRejection>;
type RawQuery = Result<Query<Vec<(String, String)>>, QueryRejection>;

async fn list(State(pool): State<PgPool>, query: RawQuery) -> Result<Json<List>, Problem> {
    let query = ListQuery::parse(Pairs::new(query)?)?;
    let found = table::list(&pool, &query).await?;
    let mut sagas: Vec<Summary> = found.into_iter().map(|saga| saga.summary).collect();
    let more = keep(&mut sagas, query.limit);
    let last = sagas.last().filter(|_| more);
    let next_cursor = last.map(|saga| {
        let place = Place {
            created_at: saga.created_at,
            id: saga.id,
        };
        place.to_cursor()
    });
    Ok(Json(List {
        items: sagas,
        next_cursor,
    }))
}

async fn show(
    State(pool): State<PgPool>,
    id: RawId,
    query: RawQuery,
) -> Result<Json<Saga>, Problem> {
    Pairs::new(query)?.nothing_left()?;
    let saga = table::find(&pool, saga_id(id)?).await?;
    saga.map(Json).ok_or(Problem::UnknownSaga)
}

async fn events(
    State(pool): State<PgPool>,
    id: RawId,
    query: RawQuery,
) -> Result<Json<Events>, Problem> {
    let id = saga_id(id)?;
    let query = EventsQuery::parse(Pairs::new(query)?)?;
    let mut events = table::events(&pool, id, &query).await?;
    if events.is_empty() && table::find(&pool, id).await?.is_none() {
        return Err(Problem::UnknownSaga);
    }
    let more = keep(&mut events, query.limit);
    let next_after = events.last().filter(|_| more).map(|event| event.seq);
    Ok(Json(Events { events, next_after }))
}

/// Cuts off the one that was read too many; whether there was one.
fn keep<T>(page: &mut Vec<T>, limit: i64) -> bool {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = page.len() > limit;
    page.truncate(limit);
    more
}
