//! A saga's definition as a picture, with the way it has taken.

use axum::{
    extract::State,
    http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    response::IntoResponse,
};

use crate::http::{
    house::{House, RawId, RawQuery, etag},
    params,
    problem::Problem,
    query::{GraphFormat, GraphQuery, Pairs, saga_id},
    table,
};

/// A saga's definition as a picture, with the way it has taken
#[utoipa::path(get, path = "/sagas/{id}/graph", tag = "sagas", operation_id = "saga_graph",
    params(params::Id, params::Drawing),
    responses((status = 200, description = "The picture", content(
        (String = "text/vnd.mermaid"), (String = "image/svg+xml")),
        headers(("ETag" = String, description = "The number of the saga's last event")))))]
pub(crate) async fn graph(
    State(house): State<House>,
    id: RawId,
    query: RawQuery,
) -> Result<impl IntoResponse, Problem> {
    let id = saga_id(id)?;
    let GraphQuery { format } = GraphQuery::parse(Pairs::new(query)?)?;
    let saga = table::find(&house.pool, id).await?;
    let instance = saga.ok_or(Problem::UnknownSaga)?.instance()?;
    let plan = &house.coordinator.pinned(&instance)?.plan;
    let (drawn, kind) = match format {
        GraphFormat::Mermaid => (
            plan.to_mermaid(Some(&instance)),
            "text/vnd.mermaid; charset=utf-8",
        ),
        GraphFormat::Svg => (plan.to_svg(Some(&instance)), "image/svg+xml"),
    };
    // A picture opened by itself is a document: nothing in it may run, whatever a name says.
    let safe = [
        (CONTENT_TYPE, kind),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        ),
    ];
    Ok((etag(instance.seq), safe, drawn))
}
