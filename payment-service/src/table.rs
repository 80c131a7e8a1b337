//! The only file that speaks to the tables of the schema `payments`. One function per statement.

use contracts::payment::AuthorizePayment;
use sqlx::types::Json;
use sqlx::{PgPool, PgTransaction};
use uuid::Uuid;

use crate::ledger::{Balance, Hold, Ledger, PAGE, Total};
use crate::payment::{Payment, Posting, Status};

/// Inserts an authorized payment; `None` if the order has one already.
pub(crate) async fn insert_payment(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    command: &AuthorizePayment,
) -> sqlx::Result<Option<Payment>> {
    sqlx::query_as!(
        Payment,
        r#"
        insert into payments.payment
            (id, order_id, customer_id, payment_method, amount, currency, status)
        values ($1, $2, $3, $4, $5, $6, 'authorized')
        on conflict (order_id) do nothing
        returning id, order_id, customer_id, payment_method, amount, currency,
                  status as "status: Status", created_at
        "#,
        id,
        command.order_id,
        command.customer_id,
        command.payment_method,
        command.amount.amount,
        command.amount.currency.code(),
    )
    .fetch_optional(&mut **tx)
    .await
}

/// Whether the order has a payment, whatever became of it.
pub(crate) async fn is_paid(tx: &mut PgTransaction<'_>, order_id: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from payments.payment where order_id = $1) as "is_paid!""#,
        order_id,
    )
    .fetch_one(&mut **tx)
    .await
}

/// The order's payment, locked until the transaction ends.
pub(crate) async fn lock_payment(
    tx: &mut PgTransaction<'_>,
    order_id: Uuid,
) -> sqlx::Result<Option<Payment>> {
    sqlx::query_as!(
        Payment,
        r#"
        select id, order_id, customer_id, payment_method, amount, currency,
               status as "status: Status", created_at
        from payments.payment
        where order_id = $1
        for update
        "#,
        order_id,
    )
    .fetch_optional(&mut **tx)
    .await
}

/// Locks the payments of many orders, in one order.
pub(crate) async fn lock_payments(tx: &mut PgTransaction<'_>, orders: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        "select from payments.payment where order_id = any ($1) order by id for update",
        orders,
    )
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// Says where a payment's money is now.
pub(crate) async fn set_status(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    status: Status,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update payments.payment set status = $2, updated_at = now() where id = $1",
        id,
        status as Status,
    )
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// Adds one transaction to the ledger; the database refuses one that does not sum to zero.
pub(crate) async fn post(
    tx: &mut PgTransaction<'_>,
    payment: &Payment,
    postings: &[Posting],
) -> sqlx::Result<()> {
    let (accounts, amounts): (Vec<_>, Vec<_>) = postings
        .iter()
        .map(|posting| (posting.account.clone(), posting.amount))
        .unzip();
    sqlx::query!(
        r#"
        insert into payments.entry (transaction_id, line, payment_id, account, amount, currency)
        select $1, line, $2, account, amount, $3
        from unnest($4::text[], $5::bigint[]) with ordinality as lines (account, amount, line)
        "#,
        Uuid::now_v7(),
        payment.id,
        payment.currency,
        &accounts,
        &amounts,
    )
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// One payment.
pub(crate) async fn payment(pool: &PgPool, id: Uuid) -> sqlx::Result<Option<Payment>> {
    sqlx::query_as!(
        Payment,
        r#"
        select id, order_id, customer_id, payment_method, amount, currency,
               status as "status: Status", created_at
        from payments.payment
        where id = $1
        "#,
        id,
    )
    .fetch_optional(pool)
    .await
}

/// The payments of an order: none or one.
pub(crate) async fn payments_of_order(pool: &PgPool, order_id: Uuid) -> sqlx::Result<Vec<Payment>> {
    sqlx::query_as!(
        Payment,
        r#"
        select id, order_id, customer_id, payment_method, amount, currency,
               status as "status: Status", created_at
        from payments.payment
        where order_id = $1
        "#,
        order_id,
    )
    .fetch_all(pool)
    .await
}

/// Balances and holds of one moment: one statement, so one snapshot. Of each one more than a page has, if
/// there are; the totals are of all entries.
pub(crate) async fn ledger(
    pool: &PgPool,
    accounts_after: (&str, &str),
    holds_after: Uuid,
) -> sqlx::Result<Ledger> {
    let rows = i64::try_from(PAGE + 1).unwrap_or(i64::MAX);
    let row = sqlx::query!(
        r#"
        select
            (select coalesce(jsonb_agg(to_jsonb(a) order by a.account, a.currency), '[]')
             from (select account, currency, sum(amount) as balance
                   from payments.entry
                   where (account, currency) > ($1, $2)
                   group by account, currency
                   order by account, currency
                   limit $4) a) as "accounts!: Json<Vec<Balance>>",
            (select coalesce(jsonb_agg(to_jsonb(h) order by h.payment_id), '[]')
             from (select id as payment_id, order_id, amount, currency
                   from payments.payment
                   where status = 'authorized' and id > $3
                   order by id
                   limit $4) h) as "holds!: Json<Vec<Hold>>",
            (select coalesce(jsonb_agg(to_jsonb(t) order by t.currency), '[]')
             from (select currency, sum(amount) as total
                   from payments.entry
                   group by currency) t) as "totals!: Json<Vec<Total>>"
        "#,
        accounts_after.0,
        accounts_after.1,
        holds_after,
        rows,
    )
    .fetch_one(pool)
    .await?;
    Ok(Ledger::new(row.accounts.0, row.holds.0, row.totals.0))
}
