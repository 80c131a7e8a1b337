//! `GET /v1/ledger`.

use axum::extract::State;
use chassis::http::{Json, Problem, Query};
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::ledger::Ledger;
use crate::table;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct After {
    /// The `next_accounts_after` of an earlier page.
    accounts_after: Option<String>,
    /// The `next_holds_after` of an earlier page.
    holds_after: Option<Uuid>,
}

/// Accounts, holds, and the proof that no money appeared or vanished
///
/// A thousand of each at once. The proof sums up every entry.
#[utoipa::path(get, path = "/v1/ledger", tag = "payments", operation_id = "ledger", params(After),
    responses((status = 200, description = "The ledger at this moment", body = Ledger)))]
pub(super) async fn read(
    State(pool): State<PgPool>,
    Query(after): Query<After>,
) -> Result<Json<Ledger>, Problem> {
    let accounts_after = after.accounts_after.as_deref().unwrap_or("/");
    let wrong = || Problem::invalid_parameter("accounts_after", "not what an earlier page said");
    let accounts_after = accounts_after
        .rsplit_once('/')
        .filter(|_| !accounts_after.contains('\0'));
    let accounts_after = accounts_after.ok_or_else(wrong)?;
    let holds_after = after.holds_after.unwrap_or(Uuid::nil());
    let ledger = table::ledger(&pool, accounts_after, holds_after).await?;
    Ok(Json(ledger))
}
