//! `GET /audit`.

use axum::extract::State;
use chassis::http::{Cursor, Json, Limit, Page, Problem, Query};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, de::Error as _};
use sqlx::PgPool;
use utoipa::IntoParams;

use crate::{
    audit::{self, Entry},
    http::sides::problem,
};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// By that actor.
    actor: Option<String>,
    /// Of that kind.
    #[param(example = "parked.discard")]
    action: Option<String>,
    /// To that.
    #[param(example = "parked/outbox-12")]
    subject: Option<String>,
    /// At that moment or later.
    #[serde(default, deserialize_with = "moment")]
    since: Option<DateTime<Utc>>,
    /// How many at most.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The `next_cursor` of an earlier page of the same list.
    #[param(inline)]
    cursor: Option<Cursor>,
}

/// Of four digits a year: RFC 3339 knows no others, and PostgreSQL not all that chrono has.
fn moment<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else {
        return Ok(None);
    };
    let moment = DateTime::parse_from_rfc3339(&text);
    let moment = moment.map_err(|_| D::Error::custom("not a moment as in 2026-01-31T12:00:00Z"))?;
    Ok(Some(moment.to_utc()))
}

/// What people did, the newest first
///
/// One entry for each act that did something, written with what it did; none for a dry run, a
/// repetition or a refusal.
#[utoipa::path(get, path = "/audit", tag = "audit", operation_id = "audit",
    security(("bearer" = ["admin"])),
    params(Filter), responses((status = 200, description = "A page", body = Page<Entry>)))]
pub(super) async fn list(
    State(pool): State<PgPool>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Entry>>, Problem> {
    let before: Option<i64> = filter.cursor.as_ref().map(Cursor::decode).transpose()?;
    let texts = [
        ("actor", &filter.actor),
        ("action", &filter.action),
        ("subject", &filter.subject),
    ];
    for (name, text) in texts {
        // PostgreSQL keeps no NUL in text.
        if text.as_ref().is_some_and(|text| text.contains('\0')) {
            return Err(Problem::invalid_parameter(name, "contains a NUL character"));
        }
    }
    let limit = filter.limit;
    let wanted = audit::Filter {
        actor: filter.actor,
        action: filter.action,
        subject: filter.subject,
        since: filter.since,
    };
    let rows = audit::list(&pool, &wanted, before, limit.rows()).await;
    Page::cut(rows.map_err(problem)?, limit, |entry| entry.id).map(Json)
}
