//! The histories of schemas, as sqlx keeps them.

use anyhow::Result;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, PgConnection, migrate::Migration};

/// A migration in a history.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct Applied {
    pub(crate) version: i64,
    pub(crate) description: String,
    pub(crate) installed_on: DateTime<Utc>,
    pub(crate) success: bool,
    pub(crate) checksum: Vec<u8>,
}

/// Whether there is such a table. None that may not be seen is.
pub(crate) async fn is_there(connection: &mut PgConnection, table: &str) -> Result<bool> {
    let found = sqlx::query_scalar("select to_regclass($1) is not null").bind(table);
    Ok(found.fetch_one(connection).await?)
}

/// What a history holds. The table's name is one of ours.
pub(crate) async fn applied(connection: &mut PgConnection, table: &str) -> Result<Vec<Applied>> {
    let sql = format!(
        "select version, description, installed_on, success, checksum from {table} order by version"
    );
    let rows = sqlx::query_as(AssertSqlSafe(sql));
    Ok(rows.fetch_all(connection).await?)
}

/// Makes a schema and its history where they are missing, as a script.
pub(crate) fn make_history(schema: &str, table: &str) -> String {
    format!(
        "create schema if not exists {schema};\n\
         create table if not exists {table} (\n    \
             version bigint primary key,\n    \
             description text not null,\n    \
             installed_on timestamptz not null default now(),\n    \
             success boolean not null,\n    \
             checksum bytea not null,\n    \
             execution_time bigint not null\n\
         );\n"
    )
}

/// A migration and its line in the history, as a script in one transaction. A second one like it fails
/// at the line's primary key, and leaves nothing.
pub(crate) fn apply(table: &str, migration: &Migration) -> String {
    let checksum = migration.checksum.iter();
    let checksum: String = checksum.map(|byte| format!("{byte:02x}")).collect();
    let description = migration.description.replace('\'', "''");
    format!(
        "begin;\n\
         insert into {table} (version, description, success, checksum, execution_time)\n\
         values ({}, '{description}', true, '\\x{checksum}', -1);\n\
         {}\n\
         commit;\n",
        migration.version,
        migration.sql.as_str().trim_end()
    )
}

/// A setting of the session, as a script.
pub(crate) fn set(name: &str, value: i32) -> String {
    format!("set {name} = {value};\n")
}
