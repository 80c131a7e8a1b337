//! From a request to what is shown.

use axum::{
    Extension, Json,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, header::ACCEPT},
    response::{IntoResponse, Response},
};
use sqlx::PgPool;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Coordinator,
    http::{
        actor::Actor,
        bulk, graph,
        house::{House, RawId, RawQuery, etag, keep},
        locks, messages, operations, params,
        problem::{BODY_LIMIT, Problem},
        query::{
            AnomaliesQuery, AnomalyPlace, CountQuery, EventsQuery, ListQuery, Pairs, Place,
            lasting_selection, saga_id,
        },
        reads::Reads,
        stream::{self, Streams},
        table,
        view::{
            AnomalyView, Count, DefinitionView, Definitions, Events, List, Page, Saga, Summary,
        },
    },
    operator::{Selection, allowed_operations},
};

/// The routes with their description, to be nested under `/v1`. Whoever wants no description
/// takes the [`Router`](axum::Router) in it: `.into()`.
pub fn router(pool: PgPool, coordinator: Coordinator, streams: Streams) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(count))
        .routes(routes!(follow))
        .routes(routes!(show))
        .routes(routes!(events))
        .routes(routes!(messages::messages))
        .routes(routes!(graph::graph))
        .routes(routes!(operations::intervene))
        .routes(routes!(anomalies))
        .routes(routes!(definitions))
        .routes(routes!(locks::locks))
        .routes(routes!(bulk::list, bulk::create))
        .routes(routes!(bulk::show))
        .routes(routes!(bulk::items))
        .routes(routes!(bulk::cancel))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(House {
            pool,
            coordinator,
            streams,
            reads: Reads::default(),
        })
}

/// Sagas, the newest first
///
/// A page of a list costs the same however far down it is. A saga that starts meanwhile is on no
/// later page.
#[utoipa::path(get, path = "/sagas", tag = "sagas", operation_id = "list_sagas",
    params(Selection, params::Paging),
    responses((status = 200, description = "A page", body = List)))]
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

/// How many sagas there are
///
/// Of each definition, version and status at most 10,000: `exact` says whether there are no more.
#[utoipa::path(get, path = "/sagas/count", tag = "sagas", operation_id = "count_sagas",
    params(Selection, params::Counting),
    responses((status = 200, description = "The most first", body = Count)))]
async fn count(State(pool): State<PgPool>, query: RawQuery) -> Result<Json<Count>, Problem> {
    let query = CountQuery::parse(Pairs::new(query)?)?;
    let groups = table::count(&pool, &query).await?;
    let total = groups.iter().map(|group| group.count).sum();
    let exact = groups.iter().all(|group| group.exact);
    Ok(Json(Count {
        total,
        groups,
        exact,
    }))
}

/// One saga
///
/// Where it stands, what each step waits for and until when, and what a person may do now. Of one whose
/// row this replica cannot read what could be read, and `unreadable` with the reason.
#[utoipa::path(get, path = "/sagas/{id}", tag = "sagas", operation_id = "show_saga",
    params(params::Id),
    responses((status = 200, description = "The saga", body = Saga,
        headers(("ETag" = String, description = "The number of its last event, for If-Match")))))]
async fn show(
    State(house): State<House>,
    id: RawId,
    actor: Option<Extension<Actor>>,
    query: RawQuery,
) -> Result<impl IntoResponse, Problem> {
    Pairs::new(query)?.nothing_left()?;
    let saga = table::find(&house.pool, saga_id(id)?).await?;
    let mut saga = saga.ok_or(Problem::UnknownSaga)?;
    let id = saga.summary.id;
    house.reads.record(&house.pool, actor, id).await;
    saga.allowed_operations = match saga.instance() {
        Ok(instance) => allowed_operations(&house.coordinator, &instance),
        Err(error) => Saga::nothing_allowed(&error.to_string()),
    };
    Ok((etag(saga.summary.seq), Json(saga)))
}

/// A saga's history, in order
///
/// With `Accept: text/event-stream` as it happens: `recorded`, each with an event, whose number is
/// the id. `Last-Event-ID` goes on after one, `limit` is of a page and counts for nothing.
#[utoipa::path(get, path = "/sagas/{id}/events", tag = "sagas", operation_id = "saga_events",
    params(params::Id, params::History, params::Resumed),
    responses((status = 200, description = "A page, or the stream", content(
        (Events = "application/json"), (String = "text/event-stream")))))]
async fn events(
    State(House {
        pool,
        streams,
        reads,
        ..
    }): State<House>,
    id: RawId,
    actor: Option<Extension<Actor>>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = saga_id(id)?;
    let query = EventsQuery::parse(Pairs::new(query)?)?;
    if wants_stream(&headers) {
        return match table::exists(&pool, id).await? {
            true => {
                reads.record(&pool, actor, id).await;
                stream::watch(&streams, &headers, id, query.after)
            }
            false => Err(Problem::UnknownSaga),
        };
    }
    let mut events = table::events(&pool, id, &query).await?;
    if events.is_empty() && !table::exists(&pool, id).await? {
        return Err(Problem::UnknownSaga);
    }
    reads.record(&pool, actor, id).await;
    let more = keep(&mut events, query.limit);
    let next_after = events.last().filter(|_| more).map(|event| event.seq);
    Ok(Json(Events { events, next_after }).into_response())
}

/// What changes in the list, as it happens
///
/// `reload`: load the list now; what changes from here on follows. `saga`: a saga as the list shows
/// it, each time it has moved. `reload` again: something may have been missed. Of more than a
/// thousand open sagas of one status the newest are followed.
#[utoipa::path(get, path = "/sagas/stream", tag = "sagas", operation_id = "follow_sagas",
    params(params::Lasting, params::Resumed),
    responses((status = 200, description = "The stream", content_type = "text/event-stream",
        body = String)))]
async fn follow(
    State(House { streams, .. }): State<House>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = lasting_selection(Pairs::new(query)?)?;
    stream::follow(&streams, &headers, wanted)
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter();
    let mut accepted = accepted.filter_map(|accepted| accepted.to_str().ok());
    accepted.any(|accepted| accepted.contains("text/event-stream"))
}

/// What should not have happened, the newest first
#[utoipa::path(get, path = "/anomalies", tag = "sagas", operation_id = "anomalies",
    params(params::Anomalies, params::Paging),
    responses((status = 200, description = "A page", body = Page<AnomalyView>)))]
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

/// Every version of every definition, with its sagas counted
///
/// Of each status at most 10,000: `exact` says whether there are no more.
#[utoipa::path(get, path = "/definitions", tag = "sagas", operation_id = "definitions",
    responses((status = 200, description = "By name and version", body = Definitions)))]
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
            registered_at: registered.registered_at.into(),
            open: registered.open,
            ended: registered.ended,
            exact: registered.exact,
        }
    });
    let items = items.collect();
    Ok(Json(Definitions { items }))
}
