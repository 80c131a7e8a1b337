//! Who holds up vacuum, and with it the tables that are updated all the time: the relay's row first.

use sqlx::PgConnection;

use crate::{
    Error,
    operator::doctor::{
        Limits,
        report::{Finding, literal, or_ok, quoted, span},
        table::{self, Session, Standby},
    },
};

/// So much retained WAL of an idle slot is a problem, in bytes.
const MUCH_WAL: i64 = 1 << 30;
/// A standby that lags by so many transactions is worth a warning.
const OLD_FEEDBACK: i64 = 1_000_000;

pub(super) async fn open(
    session: &mut PgConnection,
    limits: &Limits,
) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "open_transactions";
    if let Some(blind) = blind(session, CHECK).await? {
        return Ok(blind);
    }
    let limit = limits.open_transaction.as_secs_f64();
    let found = table::open_transactions(session).await?;
    let found = found.into_iter().filter(|open| open.seconds > limit);
    let found = found.map(|open| {
        let writes = match open.writes {
            true => "; what it has enqueued waits for its end, what others enqueue does not",
            false => "",
        };
        let explanation = format!(
            "{} has been in a transaction for {}: until it ends no row deleted since can be \
             vacuumed away{writes}",
            who(&open),
            span(open.seconds),
        );
        Finding::graded(CHECK, open.seconds > 10.0 * limit, explanation)
            .fix(format!("select pg_terminate_backend({})", open.pid))
    });
    Ok(or_ok(found.collect(), CHECK, "none is open for long"))
}

pub(super) async fn idle(
    session: &mut PgConnection,
    limits: &Limits,
) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "idle_in_transaction";
    if let Some(blind) = blind(session, CHECK).await? {
        return Ok(blind);
    }
    let limit = limits.open_transaction.as_secs_f64();
    let found = table::idle_in_transaction(session).await?;
    let found = found.into_iter().filter(|idle| idle.seconds > limit);
    let found = found.map(|idle| {
        let explanation = format!(
            "{} has been idle in a transaction for {}: its program has forgotten it, or waits for something \
             inside of it; its locks stay. A timeout ends such sessions by themselves: \
             idle_in_transaction_session_timeout",
            who(&idle),
            span(idle.seconds),
        );
        Finding::graded(CHECK, idle.seconds > 10.0 * limit, explanation)
            .fix(format!("select pg_terminate_backend({})", idle.pid))
    });
    Ok(or_ok(
        found.collect(),
        CHECK,
        "nobody idles in a transaction",
    ))
}

/// What to say when others' sessions are hidden from this user.
async fn blind(
    session: &mut PgConnection,
    check: &'static str,
) -> Result<Option<Vec<Finding>>, Error> {
    let user = table::blind_user(session).await?;
    Ok(user.map(|user| {
        let explanation = format!("{user} may not see what other sessions do");
        let found = Finding::unknown(check, explanation);
        vec![found.fix(format!("grant pg_read_all_stats to {}", quoted(&user)))]
    }))
}

/// Which session, without a value of its statement.
fn who(session: &Session) -> String {
    let mut text = format!("process {}", session.pid);
    if let Some(user) = &session.user {
        text.push_str(&format!(" of {user}"));
    }
    if !session.application.is_empty() {
        text.push_str(&format!(" ({})", session.application));
    }
    if let Some(state) = &session.state {
        text.push_str(&format!(", {state}"));
    }
    let words = first_words(&session.statement);
    if !words.is_empty() {
        text.push_str(&format!(", last statement `{words} …`"));
    }
    text
}

/// The first words of a statement, at most three, up to the first thing that is not a plain word: it may
/// be a value.
fn first_words(statement: &str) -> String {
    let plain = |word: &&str| {
        let mut letters = word.chars();
        letters
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && letters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
    };
    let words = statement.split_whitespace().take_while(plain).take(3);
    let text: String = words.collect::<Vec<_>>().join(" ");
    text.chars().take(80).collect()
}

pub(super) async fn prepared(
    session: &mut PgConnection,
    limits: &Limits,
) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "prepared_transactions";
    let limit = limits.prepared_transaction.as_secs_f64();
    let found = table::prepared_transactions(session).await?;
    let found = found.into_iter().filter(|waiting| waiting.seconds > limit);
    let found = found.map(|waiting| {
        let id = literal(&waiting.id);
        let explanation = format!(
            "a prepared transaction of {} has been waiting for {}: vacuum waits for it, and what it has \
             enqueued too. Its transaction manager should decide; else `commit prepared {id}`, or",
            waiting.owner,
            span(waiting.seconds),
        );
        Finding::graded(CHECK, waiting.seconds > 10.0 * limit, explanation)
            .fix(format!("rollback prepared {id}"))
    });
    Ok(or_ok(found.collect(), CHECK, "none is waiting"))
}

pub(super) async fn slots(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "replication_slots";
    let idle = table::slots(session).await?.into_iter();
    let found = idle.filter(|slot| !slot.active).map(|slot| {
        let retained = slot.retained_bytes.unwrap_or(0);
        let horizon = match slot.holds_rows {
            true => " and keeps vacuum from removing rows",
            false => "",
        };
        let explanation = format!(
            "nobody reads the replication slot {}, which retains {} MiB of WAL{horizon}: the disk fills \
             until somebody does, or it is dropped",
            slot.name,
            retained >> 20,
        );
        Finding::graded(CHECK, slot.holds_rows || retained > MUCH_WAL, explanation).fix(format!(
            "select pg_drop_replication_slot({})",
            literal(&slot.name)
        ))
    });
    Ok(or_ok(found.collect(), CHECK, "every slot is being read"))
}

pub(super) async fn standbys(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    Ok(feedback(&table::standbys(session).await?))
}

fn feedback(standbys: &[Standby]) -> Vec<Finding> {
    const CHECK: &str = "standby_feedback";
    let old = standbys.iter().filter(|standby| standby.age > OLD_FEEDBACK);
    let found = old.map(|standby| {
        let explanation = format!(
            "a query on the standby {} is {} transactions old and, by hot_standby_feedback, keeps vacuum \
             from removing rows here. End it there, or on the standby",
            standby.name, standby.age
        );
        Finding::warning(CHECK, explanation)
            .fix("alter system set hot_standby_feedback = off")
            .fix("select pg_reload_conf()")
    });
    or_ok(found.collect(), CHECK, "no standby holds up vacuum")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::doctor::Verdict;

    #[test]
    fn a_statement_is_named_without_its_values() {
        for (statement, words) in [
            ("insert into cards values ('4111')", "insert into cards"),
            ("update t set secret = 'x'", "update t set"),
            ("select 'secret', 1", "select"),
            ("select 4111", "select"),
            ("/* secret */ select", ""),
            ("alter user bob password 'hunter2'", "alter user bob"),
            ("select * from t", "select"),
            ("", ""),
        ] {
            assert_eq!(first_words(statement), words, "{statement}");
        }
        let long = "select ".to_owned() + &"x".repeat(500);
        assert_eq!(first_words(&long).len(), 80);
    }

    #[test]
    fn an_old_query_on_a_standby_is_a_warning() {
        let standby = |age| Standby {
            name: "replica".to_owned(),
            age,
        };
        assert_eq!(feedback(&[standby(10)])[0].verdict, Verdict::Ok);
        let found = feedback(&[standby(10), standby(OLD_FEEDBACK + 1)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].verdict, Verdict::Warning);
        assert!(found[0].fix[0].contains("hot_standby_feedback"));
    }
}
