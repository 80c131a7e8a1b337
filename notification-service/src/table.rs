//! The only file that speaks to the table of the schema `notifications`. One function per
//! statement.

use sqlx::{PgPool, PgTransaction};
use uuid::Uuid;

use crate::notification::{Letter, Notification, Template};

/// Records what would be sent; once per event, even if the inbox has forgotten it.
pub(crate) async fn record(
    tx: &mut PgTransaction<'_>,
    event_id: Uuid,
    letter: &Letter,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        insert into notifications.notification
            (id, event_id, order_id, customer_id, template, text)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (event_id) do nothing
        "#,
        Uuid::now_v7(),
        event_id,
        letter.order_id,
        letter.customer_id,
        letter.template as Template,
        letter.text,
    )
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// What an order's customer was told, in order.
pub(crate) async fn notifications_of_order(
    pool: &PgPool,
    order_id: Uuid,
) -> sqlx::Result<Vec<Notification>> {
    sqlx::query_as!(
        Notification,
        r#"
        select id, event_id, order_id, customer_id, template as "template: Template", text,
               created_at
        from notifications.notification
        where order_id = $1
        order by id
        "#,
        order_id,
    )
    .fetch_all(pool)
    .await
}
