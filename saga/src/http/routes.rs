//! From a request to what is shown.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    response::IntoResponse,
    routing::{get, post},
};
use sqlx::PgPool;

use crate::{
    Coordinator,
    http::{
        bulk,
        graph::graph,
        house::{House, RawId, RawQuery, etag, keep},
        locks::locks,
        operations,
        problem::{BODY_LIMIT, Problem},
        query::{
            AnomaliesQuery, AnomalyPlace, CountQuery, EventsQuery, ListQuery, Pairs, Place, saga_id,
        },
        table,
        view::{AnomalyView, Count, DefinitionView, Definitions, Events, List, Page, Summary},
    },
    operator::allowed_operations,
};

/// The routes, to be nested under `/v1`.
pub fn router(pool: PgPool, coordinator: Coordinator) -> Router {
    Router::new()
        .route("/sagas", get(list))
        .route("/sagas/count", get(count))
        .route("/sagas/{id}", get(show))
        .route("/sagas/{id}/events", get(events))
        .route("/sagas/{id}/graph", get(graph))
        .route("/sagas/{id}/operations", post(operations::intervene))
        .route("/anomalies", get(anomalies))
        .route("/definitions", get(definitions))
        .route("/locks", get(locks))
        .route("/bulk-operations", get(bulk::list).post(bulk::create))
        .route("/bulk-operations/{id}", get(bulk::show))
        .route("/bulk-operations/{id}/items", get(bulk::items))
        .route("/bulk-operations/{id}/cancel", post(bulk::cancel))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(House { pool, coordinator })
}

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

async fn count(State(pool): State<PgPool>, query: RawQuery) -> Result<Json<Count>, Problem> {
    let query = CountQuery::parse(Pairs::new(query)?)?;
    let groups = table::count(&pool, &query).await?;
    let total = groups.iter().map(|group| group.count).sum();
    Ok(Json(Count { total, groups }))
}

async fn show(
    State(house): State<House>,
    id: RawId,
    query: RawQuery,
) -> Result<impl IntoResponse, Problem> {
    Pairs::new(query)?.nothing_left()?;
    let saga = table::find(&house.pool, saga_id(id)?).await?;
    let mut saga = saga.ok_or(Problem::UnknownSaga)?;
    saga.allowed_operations = allowed_operations(&house.coordinator, &saga.instance());
    Ok((etag(saga.summary.seq), Json(saga)))
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

async fn anomalies(
    State(pool): State<PgPool>,
    query: RawQuery,
) -> Result<Json<Page<AnomalyView>>, Problem> {
    let query = AnomaliesQuery::parse(Pairs::new(query)?)?;
    let mut items = table::anomalies(&pool, &query).await?;
    let more = keep(&mut items, query.limit);
    let last = items.last().filter(|_| more);
    let next_cursor = last.map(|anomaly| {
        let at = Place {
            created_at: anomaly.recorded_at,
            id: anomaly.saga_id,
        };
        let seq = anomaly.seq;
        AnomalyPlace { at, seq }.to_cursor()
    });
    Ok(Json(Page { items, next_cursor }))
}

async fn definitions(
    State(house): State<House>,
    query: RawQuery,
) -> Result<Json<Definitions>, Problem> {
    Pairs::new(query)?.nothing_left()?;
    let registered = table::definitions(&house.pool).await?.into_iter();
    let items = registered.map(|registered| {
        let known = house
            .coordinator
            .version(&registered.name, registered.version);
        let known = known.ok().map(|defined| &defined.plan);
        let known = known.filter(|plan| plan.hash == registered.hash);
        DefinitionView {
            known_here: known.is_some(),
            migrates_from: known.map_or_else(Vec::new, |plan| plan.migrates_from().collect()),
            name: registered.name,
            version: registered.version,
            hash: registered.hash,
            registered_at: registered.registered_at,
            open: registered.open,
            ended: registered.ended,
        }
    });
    let items = items.collect();
    Ok(Json(Definitions { items }))
}
