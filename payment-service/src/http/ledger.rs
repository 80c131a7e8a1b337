//! `GET /v1/ledger`.

use axum::extract::State;
use chassis::http::{Json, Problem};
use sqlx::PgPool;

use crate::ledger::Ledger;
use crate::table;

/// Every account, every hold, and the proof that no money appeared or vanished
#[utoipa::path(get, path = "/v1/ledger", tag = "payments", operation_id = "ledger",
    responses((status = 200, description = "The ledger at this moment", body = Ledger)))]
pub(super) async fn read(State(pool): State<PgPool>) -> Result<Json<Ledger>, Problem> {
    Ok(Json(table::ledger(&pool).await?))
}
