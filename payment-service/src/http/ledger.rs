//! `GET /v1/ledger`.

use axum::extract::State;
use chassis::http::{Json, Problem};
use sqlx::PgPool;

use crate::ledger::Ledger;
use crate::table;

pub(super) async fn read(State(pool): State<PgPool>) -> Result<Json<Ledger>, Problem> {
    Ok(Json(table::ledger(&pool).await?))
}
