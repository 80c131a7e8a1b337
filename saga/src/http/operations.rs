//! `POST /sagas/{id}/operations`: what a person wants of one saga.

use axum::{Extension, Json, extract::State, http::HeaderMap, response::IntoResponse};

use crate::{
    Error,
    http::{
        actor::Actor,
        body::{Fields, RawBody, idempotency_key, if_match},
        house::{House, RawId, RawQuery, etag, in_task},
        params,
        problem::{IDEMPOTENCY_KEY, Problem},
        query::{Pairs, dry_run, saga_id},
        view::IntervenedView,
    },
    intervention::What,
    operator::{self, Outcome, Request},
    table::BEGIN,
};

/// Does something to a saga
///
/// What is possible now, and why not the rest, stands in the saga's `allowed_operations`. With
/// `dry_run` the answer says what would follow, and nothing does. `abandon` and `skip_compensation` give
/// work up for good: they need an admin.
#[utoipa::path(post, path = "/sagas/{id}/operations", tag = "operations",
    operation_id = "operate_on_saga",
    params(params::Id, params::Asking, params::Key, params::Seen),
    request_body = params::OperationBody,
    responses(
        (status = 200, description = "What followed, or would", body = IntervenedView,
            headers(("ETag" = String, description = "The number of its last event now"))),
        (status = 403, description = "It gives work up for good, and the caller is no admin"),
        (status = 409, description = "Its state does not allow it; expected_seq is not its number; or a \
            request under the same key has not ended"),
        (status = 412, description = "It has moved on since If-Match")))]
pub(crate) async fn intervene(
    State(house): State<House>,
    id: RawId,
    query: RawQuery,
    actor: Option<Extension<Actor>>,
    headers: HeaderMap,
    body: RawBody,
) -> Result<impl IntoResponse, Problem> {
    let id = saga_id(id)?;
    let dry_run = dry_run(Pairs::new(query)?)?;
    let seen = if_match(&headers)?;
    let (request, role) = request(&headers, actor, body, seen, dry_run)?;
    let outcome = in_task(async move {
        let mut tx = house.pool.begin_with(BEGIN).await?;
        if !dry_run && !operator::claim_key(&mut tx, id, &request.idempotency_key).await? {
            tx.rollback().await?;
            return Err(Problem::InProgress);
        }
        let role = role.as_deref();
        let outcome =
            operator::intervene_as(&mut tx, &house.coordinator, id, &request, role).await?;
        match outcome {
            Outcome::DryRun(_) => tx.rollback().await?,
            Outcome::Done(_) | Outcome::Repeated(_) => tx.commit().await?,
        }
        Ok(outcome)
    });
    let outcome = outcome.await.map_err(|problem| match problem {
        Problem::Conflict(detail) if seen.is_some() => Problem::Precondition(detail),
        problem => problem,
    })?;
    let view = IntervenedView {
        outcome: outcome.as_str(),
        intervened: outcome.intervened().clone(),
    };
    Ok((etag(view.intervened.seq), Json(view)))
}

/// What is asked, and the role of whoever asks.
fn request(
    headers: &HeaderMap,
    actor: Option<Extension<Actor>>,
    body: RawBody,
    seen: Option<i64>,
    dry_run: bool,
) -> Result<(Request, Option<String>), Problem> {
    let idempotency_key = idempotency_key(headers)?;
    // A question may be asked as often as one likes.
    if idempotency_key.is_none() && !dry_run {
        return Err(missing_key());
    }
    let mut fields = Fields::parse(headers, body)?;
    let what = fields.what()?;
    let expected_seq = fields.number("expected_seq")?;
    if seen.is_some() && expected_seq.is_some_and(|expected| seen != Some(expected)) {
        let detail = "says something else than If-Match";
        return Err(Problem::content("expected_seq", detail));
    }
    let actor = Actor::of(actor, &mut fields)?;
    let gives_up = matches!(what, What::Abandon {} | What::SkipCompensation { .. });
    if gives_up && !actor.may_give_up {
        let detail = format!("{} gives work up for good: only an admin may", what.name());
        return Err(Problem::Forbidden(detail));
    }
    let request = Request {
        what,
        actor: actor.name,
        reason: fields.text("reason")?,
        expected_seq: seen.or(expected_seq),
        idempotency_key: idempotency_key.unwrap_or_default(),
        dry_run,
    };
    fields.nothing_left()?;
    request
        .check()
        .map_err(|error: Error| Problem::from(error))?;
    Ok((request, actor.role))
}

pub(crate) fn missing_key() -> Problem {
    Problem::field(
        IDEMPOTENCY_KEY,
        "is missing; name your request, so that sending it again does nothing again",
    )
}
