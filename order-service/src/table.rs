//! The only file that speaks to the tables of the schema `orders`. One function per statement.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgExecutor, PgPool, PgTransaction};
use uuid::Uuid;

use crate::order::{Delivery, Draft, Item, Order, Rejection, Status};

/// Inserts a pending order; false if another order of this caller has the idempotency key. Who comes
/// second with a key waits here until the first has committed or rolled back.
pub(crate) async fn insert_order(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    saga_id: Uuid,
    placed_by: &str,
    idempotency_key: Option<&str>,
    draft: &Draft,
) -> sqlx::Result<bool> {
    let address = &draft.address;
    let inserted = sqlx::query!(
        r#"
        insert into orders.orders
            (id, customer_id, total, currency, payment_method, recipient, street, postcode, city,
             country, status, saga_id, idempotency_key, request_hash, placed_by)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'pending', $11, $12, $13, $14)
        on conflict (idempotency_key, placed_by) do nothing
        "#,
        id,
        draft.customer_id,
        draft.total.amount,
        draft.total.currency.code(),
        draft.payment_method,
        address.name,
        address.street,
        address.postcode,
        address.city,
        address.country,
        saga_id,
        idempotency_key,
        draft.request_hash,
        placed_by,
    )
    .execute(&mut **tx)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Inserts all items of an order.
pub(crate) async fn insert_items(
    tx: &mut PgTransaction<'_>,
    order_id: Uuid,
    items: &[Item],
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        insert into orders.item (order_id, line, sku, quantity, unit_price)
        select $1, item.line - 1, item.sku, item.quantity, item.unit_price
        from unnest($2::text[], $3::bigint[], $4::bigint[])
            with ordinality as item (sku, quantity, unit_price, line)
        "#,
        order_id,
        &items
            .iter()
            .map(|item| item.sku.clone())
            .collect::<Vec<_>>(),
        &items.iter().map(|item| item.quantity).collect::<Vec<_>>(),
        &items.iter().map(|item| item.unit_price).collect::<Vec<_>>(),
    )
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// The order that this caller placed under an idempotency key, and the hash of the request that placed
/// it; or one from before callers were recorded.
pub(crate) async fn order_of_key(
    tx: &mut PgTransaction<'_>,
    placed_by: &str,
    idempotency_key: &str,
) -> sqlx::Result<Option<(Uuid, Vec<u8>)>> {
    let row = sqlx::query!(
        "select id, request_hash from orders.orders
         where idempotency_key = $1 and (placed_by = $2 or placed_by is null)
         order by placed_by nulls last limit 1",
        idempotency_key,
        placed_by,
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|row| (row.id, row.request_hash)))
}

/// Ends a pending order; false if it is not pending. A reason belongs to every end but a good one.
pub(crate) async fn end(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    status: Status,
    reason: Option<&str>,
    rejection: Option<Rejection>,
) -> sqlx::Result<bool> {
    let updated = sqlx::query!(
        r#"
        update orders.orders
        set status = $2, reason = $3, rejection = $4, updated_at = now()
        where id = $1 and status = 'pending'
        "#,
        id,
        status as Status,
        reason,
        rejection as Option<Rejection>,
    )
    .execute(&mut **tx)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// One order with its items.
pub(crate) async fn order(executor: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<Option<Order>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select o.id, o.status as "status: Status", o.reason,
               o.rejection, o.total, o.currency, o.saga_id,
               o.customer_id, o.payment_method, o.recipient, o.street, o.postcode, o.city,
               o.country, o.created_at,
               (select coalesce(jsonb_agg(to_jsonb(i) - 'order_id' - 'line' order by i.line), '[]')
                from orders.item i
                where i.order_id = o.id) as "items!: Json<Vec<Item>>"
        from orders.orders o
        where o.id = $1
        "#,
        id,
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(Order::from))
}

/// A page of all orders, newest first, of one status or any; `before` is exclusive.
pub(crate) async fn orders(
    pool: &PgPool,
    status: Option<Status>,
    before: Uuid,
    rows: i64,
) -> sqlx::Result<Vec<Order>> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        select o.id, o.status as "status: Status", o.reason,
               o.rejection, o.total, o.currency, o.saga_id,
               o.customer_id, o.payment_method, o.recipient, o.street, o.postcode, o.city,
               o.country, o.created_at,
               (select coalesce(jsonb_agg(to_jsonb(i) - 'order_id' - 'line' order by i.line), '[]')
                from orders.item i
                where i.order_id = o.id) as "items!: Json<Vec<Item>>"
        from orders.orders o
        where o.id < $1 and ($2::text is null or o.status = $2)
        order by o.id desc
        limit $3
        "#,
        before,
        status as Option<Status>,
        rows,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Order::from).collect())
}

/// A page of a customer's orders, as [`orders`]. A statement of its own, because one for both has
/// a plan for neither.
pub(crate) async fn orders_of_customer(
    pool: &PgPool,
    customer_id: Uuid,
    status: Option<Status>,
    before: Uuid,
    rows: i64,
) -> sqlx::Result<Vec<Order>> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        select o.id, o.status as "status: Status", o.reason,
               o.rejection, o.total, o.currency, o.saga_id,
               o.customer_id, o.payment_method, o.recipient, o.street, o.postcode, o.city,
               o.country, o.created_at,
               (select coalesce(jsonb_agg(to_jsonb(i) - 'order_id' - 'line' order by i.line), '[]')
                from orders.item i
                where i.order_id = o.id) as "items!: Json<Vec<Item>>"
        from orders.orders o
        where o.customer_id = $1 and o.id < $2 and ($3::text is null or o.status = $3)
        order by o.id desc
        limit $4
        "#,
        customer_id,
        before,
        status as Option<Status>,
        rows,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Order::from).collect())
}

/// An order as the database has it: flat.
struct Row {
    id: Uuid,
    status: Status,
    reason: Option<String>,
    rejection: Option<String>,
    total: i64,
    currency: String,
    saga_id: Uuid,
    customer_id: Uuid,
    payment_method: String,
    recipient: String,
    street: String,
    postcode: String,
    city: String,
    country: String,
    created_at: DateTime<Utc>,
    items: Json<Vec<Item>>,
}

impl From<Row> for Order {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            status: row.status,
            reason: row.reason,
            rejection: row.rejection,
            total: row.total,
            currency: row.currency,
            saga_id: row.saga_id,
            customer_id: row.customer_id,
            items: row.items.0,
            payment_method: row.payment_method,
            delivery: Delivery {
                name: row.recipient,
                street: row.street,
                postcode: row.postcode,
                city: row.city,
                country: row.country,
            },
            created_at: row.created_at,
        }
    }
}
