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
    #[param(pattern = "^[!-~]+/[A-Z]{3}$")]
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
    let wrong = || Problem::invalid_parameter("accounts_after", "not what an earlier page said");
    let accounts_after = match after.accounts_after.as_deref() {
        Some(after) => account(after).ok_or_else(wrong)?,
        None => ("", ""),
    };
    let holds_after = after.holds_after.unwrap_or(Uuid::nil());
    let ledger = table::ledger(&pool, accounts_after, holds_after).await?;
    Ok(Json(ledger))
}

/// An account and its currency, as a page names them.
fn account(after: &str) -> Option<(&str, &str)> {
    let (account, currency) = after.rsplit_once('/')?;
    let is_named = !account.is_empty() && account.bytes().all(|byte| byte.is_ascii_graphic());
    let is_currency = currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase());
    (is_named && is_currency).then_some((account, currency))
}
