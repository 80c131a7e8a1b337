//! The only file that speaks to the tables of the schema `deliveries`. One function per statement.

use chrono::NaiveDate;
use contracts::delivery::ScheduleDelivery;
use sqlx::{PgPool, PgTransaction};
use uuid::Uuid;

use crate::delivery::{Delivery, HORIZON_DAYS, Status};

/// Adds the days of the horizon that nobody has asked for yet: usually none, once a day one. In their
/// order: two transactions that add the same ones wait for each other's first.
pub(crate) async fn add_days(tx: &mut PgTransaction<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        insert into deliveries.day (day)
        select (now() at time zone 'utc')::date + ahead
        from generate_series(1, $1::integer) as ahead
        order by ahead
        on conflict (day) do nothing
        "#,
        HORIZON_DAYS,
    )
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// Locks the days that places can be taken on, and those of these orders' deliveries, in their order.
pub(crate) async fn lock_days(tx: &mut PgTransaction<'_>, orders: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        "select from deliveries.day
         where day > (now() at time zone 'utc')::date
            or day = any (array(select day from deliveries.delivery where order_id = any ($1)))
         order by day
         for update",
        orders,
    )
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// Locks the deliveries of many orders, in one order.
pub(crate) async fn lock_deliveries(
    tx: &mut PgTransaction<'_>,
    orders: &[Uuid],
) -> sqlx::Result<()> {
    sqlx::query!(
        "select from deliveries.delivery where order_id = any ($1) order by id for update",
        orders,
    )
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// Takes a place on the first day with room, by the database's calendar (UTC); `None` if the next
/// [`HORIZON_DAYS`] days are full. The day's row stays locked until the transaction ends.
///
/// Who waited for the row sees it anew: if the last place went to the one before, the next day is
/// tried.
pub(crate) async fn take_place(tx: &mut PgTransaction<'_>) -> sqlx::Result<Option<NaiveDate>> {
    sqlx::query_scalar!(
        r#"
        update deliveries.day
        set taken = taken + 1
        where day = (
            select day
            from deliveries.day
            where day > (now() at time zone 'utc')::date
              and day <= (now() at time zone 'utc')::date + $1::integer
              and taken < capacity
            order by day
            limit 1
            for update
        )
        returning day
        "#,
        HORIZON_DAYS,
    )
    .fetch_optional(&mut **tx)
    .await
}

/// Gives a place of a day back.
pub(crate) async fn give_place_back(
    tx: &mut PgTransaction<'_>,
    day: NaiveDate,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update deliveries.day set taken = taken - 1 where day = $1",
        day
    )
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// Inserts a scheduled delivery; false if the order has one already.
pub(crate) async fn insert_delivery(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    command: &ScheduleDelivery,
    day: NaiveDate,
) -> sqlx::Result<bool> {
    let address = &command.address;
    let inserted = sqlx::query!(
        r#"
        insert into deliveries.delivery
            (id, order_id, name, street, postcode, city, country, day, status)
        values ($1, $2, $3, $4, $5, $6, $7, $8, 'scheduled')
        on conflict (order_id) do nothing
        "#,
        id,
        command.order_id,
        address.name,
        address.street,
        address.postcode,
        address.city,
        address.country,
        day,
    )
    .execute(&mut **tx)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// The order's delivery, locked until the transaction ends.
pub(crate) async fn lock_delivery(
    tx: &mut PgTransaction<'_>,
    order_id: Uuid,
) -> sqlx::Result<Option<Delivery>> {
    sqlx::query_as!(
        Delivery,
        r#"
        select id, order_id, name, street, postcode, city, country, day,
               status as "status: Status", tracking, created_at
        from deliveries.delivery
        where order_id = $1
        for update
        "#,
        order_id,
    )
    .fetch_optional(&mut **tx)
    .await
}

/// Says where a delivery stands, and under which number the carrier has it.
pub(crate) async fn set_status(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    status: Status,
    tracking: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update deliveries.delivery
        set status = $2, tracking = $3, updated_at = now()
        where id = $1
        "#,
        id,
        status as Status,
        tracking,
    )
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// The deliveries of an order: none or one.
pub(crate) async fn deliveries_of_order(
    pool: &PgPool,
    order_id: Uuid,
) -> sqlx::Result<Vec<Delivery>> {
    sqlx::query_as!(
        Delivery,
        r#"
        select id, order_id, name, street, postcode, city, country, day,
               status as "status: Status", tracking, created_at
        from deliveries.delivery
        where order_id = $1
        "#,
        order_id,
    )
    .fetch_all(pool)
    .await
}
