//! `testbed prepare`: describes every checked query against a fresh database with all migrations,
//! into `.sqlx/`, so that a build needs no database.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testbed::Postgres;
use tokio::process::Command;

/// Writes `.sqlx/` anew.
pub(crate) async fn prepare() -> Result<ExitCode> {
    let target = testbed::target_folder();
    let root = target
        .parent()
        .context("the target folder is in the workspace")?;
    let postgres = Postgres::start().await?;
    let url = postgres.create_database("prepare").await?;
    let mut connection = PgConnection::connect(&url).await?;
    for schema in folders(&root.join("migrations"))? {
        migrate(&mut connection, &schema).await?;
    }
    connection.close().await?;

    let described = root.join(".sqlx");
    if described.exists() {
        std::fs::remove_dir_all(&described)?;
    }
    std::fs::create_dir(&described)?;
    // A macro is expanded only where its crate is compiled.
    for member in folders(root)? {
        let door = member.join("src/lib.rs");
        if door.exists() {
            let now = SystemTime::now();
            std::fs::File::options()
                .append(true)
                .open(door)?
                .set_modified(now)?;
        }
    }
    let status = Command::new("cargo")
        .args(["check", "--workspace", "--all-targets", "--all-features"])
        .env("RECOMPENSE_DEV_DATABASE_URL", &url)
        .env("SQLX_OFFLINE_DIR", &described)
        .current_dir(root)
        .status()
        .await?;
    ensure!(status.success(), "cargo check failed; .sqlx is incomplete");
    println!(
        "{} queries described",
        std::fs::read_dir(&described)?.count()
    );
    Ok(ExitCode::SUCCESS)
}

/// Applies a folder's files in order, in the schema of the folder's name.
async fn migrate(connection: &mut PgConnection, folder: &Path) -> Result<()> {
    let schema = folder.file_name().context("a folder has a name")?;
    let statement = format!("create schema {}", schema.display());
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut *connection)
        .await?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for file in files {
        let migration = std::fs::read_to_string(&file)?;
        sqlx::raw_sql(AssertSqlSafe(migration))
            .execute(&mut *connection)
            .await
            .with_context(|| format!("{} failed", file.display()))?;
    }
    Ok(())
}

fn folders(of: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(of)? {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}
