//! The statements about the schema as a whole.

use sqlx::PgPool;

use crate::Error;

pub(crate) async fn make_roles(pool: &PgPool, prefix: &str) -> Result<(), Error> {
    sqlx::query!("select outbox.make_roles($1)", prefix)
        .execute(pool)
        .await?;
    Ok(())
}

pub(crate) async fn partition_bits(pool: &PgPool) -> Result<i32, Error> {
    Ok(
        sqlx::query_scalar!(r#"select outbox.partition_bits() as "bits!""#)
            .fetch_one(pool)
            .await?,
    )
}
