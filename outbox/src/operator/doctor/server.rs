//! The server around the outbox: what a commit is worth, who may do what, what time it is.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::{
    Error,
    operator::doctor::{
        Limits,
        report::{Finding, literal, or_ok, quoted, span},
        table::{self, Setting},
    },
};

pub(super) async fn settings(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "settings";
    let mut found = Vec::new();
    for setting in table::settings(session).await? {
        if setting.value != "off" {
            continue;
        }
        let why = match setting.name.as_str() {
            "fsync" => "a crash of the machine may lose or corrupt everything",
            "full_page_writes" => "a crash during a write may corrupt tables",
            _ => {
                "a crash of the server may lose an effect whose offset is committed. (enqueue switches it \
                 on for its own transaction)"
            }
        };
        let finding = Finding::problem(CHECK, format!("{} is off: {why}", setting.name));
        found.push(switch_on(finding, &setting));
    }
    Ok(or_ok(
        found,
        CHECK,
        "a commit is on disk before it is acknowledged",
    ))
}

/// The statement for where the setting comes from.
fn switch_on(finding: Finding, setting: &Setting) -> Finding {
    let (name, database) = (&setting.name, quoted(&setting.database));
    match setting.source.as_str() {
        "database" => finding.fix(format!("alter database {database} reset {name}")),
        "user" => finding.fix(format!("alter role {} reset {name}", quoted(&setting.user))),
        "database user" => finding.fix(format!(
            "alter role {} in database {database} reset {name}",
            quoted(&setting.user)
        )),
        _ => finding
            .fix(format!("alter system set {name} = on"))
            .fix("select pg_reload_conf()"),
    }
}

/// What usual work needs, and whether the current user may do it.
pub(super) async fn privileges(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "privileges";
    let user = table::privileges(session).await?;
    let works = [
        ("enqueue", user.enqueue),
        ("relay and operate", user.relay),
        ("consume", user.consume),
        ("look", user.look),
    ];
    let list = |may: bool| {
        let works = works.iter().filter(|(_, does)| *does == may);
        works.map(|(work, _)| *work).collect::<Vec<_>>().join(", ")
    };
    let (may, may_not) = (list(true), list(false));
    let mut text = format!("{} may: {may}", user.name);
    if !may_not.is_empty() {
        text.push_str(&format!("; may not: {may_not}"));
    }
    if user.public {
        return Ok(vec![
            Finding::problem(
                CHECK,
                format!("everybody on this server may touch the outbox's tables. {text}"),
            )
            .fix("revoke all on all tables in schema outbox from public"),
        ]);
    }
    Ok(vec![Finding::ok(CHECK, text)])
}

/// The group roles that `outbox.make_roles` makes: too much, or too little.
pub(super) async fn roles(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "roles";
    let mut found = Vec::new();
    let mut prefixes = Vec::new();
    for role in table::roles(session).await? {
        let kind = role.name.rsplit('_').next().unwrap_or_default();
        let prefix = role.name.strip_suffix(kind).unwrap_or_default();
        let prefix = prefix.trim_end_matches('_').to_owned();
        let deviates = match (role.missing.is_empty(), role.excess.is_empty()) {
            (true, true) => {
                prefixes.push(prefix);
                continue;
            }
            (false, true) => format!("lacks {}", role.missing.join(", ")),
            (true, false) => format!("has {} beyond its work", role.excess.join(", ")),
            (false, false) => format!(
                "lacks {} and has {} beyond its work",
                role.missing.join(", "),
                role.excess.join(", ")
            ),
        };
        let explanation = format!("the role {} {deviates}", role.name);
        let serious = !role.missing.is_empty();
        found.push(
            Finding::graded(CHECK, serious, explanation)
                .fix(format!("select outbox.make_roles({})", literal(&prefix))),
        );
    }
    prefixes.dedup();
    let well = match prefixes.is_empty() {
        true => "none were made by outbox.make_roles".to_owned(),
        false => format!(
            "of {}: each may do its work and no more",
            prefixes.join(", ")
        ),
    };
    Ok(or_ok(found, CHECK, &well))
}

pub(super) async fn clock(
    session: &mut PgConnection,
    limits: &Limits,
) -> Result<Vec<Finding>, Error> {
    let before = Utc::now();
    let database = table::now(session).await?;
    Ok(vec![difference(before, database, Utc::now(), limits)])
}

/// The database's clock was read between two looks at ours.
fn difference(
    before: DateTime<Utc>,
    database: DateTime<Utc>,
    after: DateTime<Utc>,
    limits: &Limits,
) -> Finding {
    const CHECK: &str = "clock";
    let ahead = (database - after).as_seconds_f64();
    let behind = (before - database).as_seconds_f64();
    let at_least = ahead.max(behind).max(0.0);
    let way = if ahead > behind { "ahead of" } else { "behind" };
    let text = format!(
        "the database's clock is {} or more {way} this machine's. The broker's is unknown: it does not tell",
        span(at_least)
    );
    if at_least > limits.clock.as_secs_f64() {
        let why = "Leases and order go by the database's alone; times of messages and measured delays are off";
        return Finding::warning(CHECK, format!("{text}. {why}"));
    }
    let well =
        "the clocks of database and this machine agree. The broker's is unknown: it does not tell";
    Finding::ok(CHECK, well)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::doctor::Verdict;

    #[test]
    fn clocks_differ_by_what_the_question_s_own_time_cannot_explain() {
        let at = |seconds: i64| DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap();
        let limits = Limits::default();
        assert_eq!(
            difference(at(0), at(5), at(10), &limits).verdict,
            Verdict::Ok
        );
        let ahead = difference(at(0), at(75), at(10), &limits);
        assert_eq!(ahead.verdict, Verdict::Warning);
        assert!(
            ahead.explanation.contains("65.0 s or more ahead of"),
            "{ahead:?}"
        );
        let behind = difference(at(0), at(-3), at(10), &limits);
        assert!(
            behind.explanation.contains("3.0 s or more behind"),
            "{behind:?}"
        );
    }
}
