//! The tables are as migrated: order and safety of the log depend on it.

use sqlx::PgConnection;

use crate::{
    Error,
    operator::doctor::{
        report::{Finding, literal, or_ok, quoted},
        table,
    },
};

/// Columns of the log that the database fills in, with the expression that does.
const DEFAULTS: [(&str, &str); 3] = [
    ("xid", "pg_current_xact_id()"),
    ("seq", "nextval('outbox.log_seq'::regclass)"),
    ("created_at", "clock_timestamp()"),
];
/// Partitions of the ring.
const PARTITIONS: usize = 4;

pub(super) async fn migrations(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "migrations";
    let applied = table::migrations(session).await?;
    let known: Vec<i64> = crate::MIGRATOR.iter().map(|known| known.version).collect();
    let missing = known.iter().filter(|version| !applied.contains(version));
    let foreign = applied.iter().filter(|version| !known.contains(version));
    let mut found = Vec::new();
    if missing.count() > 0 {
        found.push(
            Finding::problem(CHECK, "the schema is older than this program")
                .fix("recompense migrate up --schema outbox"),
        );
    }
    if foreign.count() > 0 {
        let explanation =
            "the schema is newer than this program, which may misread it; use a newer one";
        found.push(Finding::warning(CHECK, explanation));
    }
    Ok(or_ok(found, CHECK, "the schema is up to date"))
}

pub(super) async fn sequence(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "sequence";
    let sequence = table::sequence(session).await?;
    let mut found = Vec::new();
    if sequence.cache != 1 || sequence.increment != 1 || sequence.cycles {
        found.push(
            Finding::problem(
                CHECK,
                format!(
                    "outbox.log_seq has cache {}, increment {}{}: a session that caches numbers gives \
                     an earlier one to a later message, which then overtakes in its key",
                    sequence.cache,
                    sequence.increment,
                    if sequence.cycles { " and cycles" } else { "" },
                ),
            )
            .fix("alter sequence outbox.log_seq cache 1 increment by 1 no cycle"),
        );
    }
    if let Some(newest) = sequence.newest.filter(|newest| *newest > sequence.last) {
        found.push(
            Finding::problem(
                CHECK,
                format!(
                    "outbox.log_seq stands at {}, but the log holds number {newest}: numbers are given \
                     out twice, and new messages lie before old ones",
                    sequence.last
                ),
            )
            .fix(format!("select setval('outbox.log_seq', {newest})")),
        );
    }
    Ok(or_ok(found, CHECK, "gives out each number once, in order"))
}

pub(super) async fn columns(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "log_columns";
    let columns = table::columns(session).await?;
    let place = |name: &str| columns.iter().position(|column| column.name == name);
    let mut found = Vec::new();
    if place("xid").is_none() || place("xid") > place("seq") {
        found.push(Finding::problem(
            CHECK,
            "in outbox.log the column xid does not stand before seq: a number is drawn before its \
             transaction has an id, and its message may never be sent; make the schema anew and move the rows",
        ));
    }
    for (name, expected) in DEFAULTS {
        let default = columns.iter().find(|column| column.name == name);
        let default = default.and_then(|column| column.default.as_deref());
        // The server leaves the schema out where the search path has it.
        let plain = |text: &str| text.replace("outbox.", "");
        if default.map(plain) != Some(plain(expected)) {
            let expected = expected.replace("::regclass", "");
            found.push(
                Finding::problem(
                    CHECK,
                    format!(
                        "the default of outbox.log.{name} is {} instead of {expected}",
                        default.unwrap_or("missing")
                    ),
                )
                .fix(format!(
                    "alter table outbox.log alter column {name} set default {expected}"
                )),
            );
        }
    }
    Ok(or_ok(found, CHECK, "order and defaults are as migrated"))
}

pub(super) async fn triggers(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "log_triggers";
    let mut found = Vec::new();
    for hook in table::hooks(session).await? {
        let (name, on) = (quoted(&hook.name), &hook.table);
        found.push(match hook.kind.as_str() {
            "row security" => Finding::problem(
                CHECK,
                format!("row security is on for {on}: it may hide messages from the relay"),
            )
            .fix(format!("alter table {on} disable row level security")),
            kind => Finding::problem(
                CHECK,
                format!(
                    "{on} has a {kind} {name}: it runs in every enqueue, and may change or swallow \
                     messages"
                ),
            )
            .fix(format!("drop {kind} {name} on {on}")),
        });
    }
    Ok(or_ok(
        found,
        CHECK,
        "no trigger, rule or row security on the log",
    ))
}

pub(super) async fn storage(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "log_storage";
    let storage = table::storage(session).await?;
    let mut found = Vec::new();
    if storage.partitions.len() != PARTITIONS {
        found.push(Finding::problem(
            CHECK,
            format!(
                "outbox.log has {} partitions instead of {PARTITIONS}: an insert may find none; attach or \
                 create the missing ones as the first migration does",
                storage.partitions.len()
            ),
        ));
    }
    for name in storage.unlogged {
        found.push(
            Finding::problem(
                CHECK,
                format!("outbox.{name} is unlogged: a crash of the server empties it"),
            )
            .fix(format!("alter table outbox.{name} set logged")),
        );
    }
    for name in storage.invalid_indexes {
        found.push(
            Finding::problem(
                CHECK,
                format!(
                    "the index outbox.{name} is not valid: the relay reads the whole log instead"
                ),
            )
            .fix(format!("reindex index outbox.{name}")),
        );
    }
    Ok(or_ok(
        found,
        CHECK,
        "four logged partitions with valid indexes",
    ))
}

pub(super) async fn edits(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "log_edits";
    let edited = table::edits(session).await?;
    let found = edited.into_iter().map(|(partition, rows)| {
        let table = format!("outbox.{partition}");
        Finding::warning(
            CHECK,
            format!(
                "{rows} rows of {table} were updated or deleted, which nothing here ever does: messages \
                 may be lost or changed. Find out who does it, then forget this count"
            ),
        )
        .fix(format!(
            "select pg_stat_reset_single_table_counters({}::regclass)",
            literal(&table)
        ))
    });
    Ok(or_ok(
        found.collect(),
        CHECK,
        "no row was ever updated or deleted",
    ))
}
