//! Whether somebody relays, and what was left behind.

use sqlx::PgConnection;

use crate::{
    Error,
    operator::{
        doctor::{
            Limits,
            report::{Finding, or_ok, span, word},
            table,
        },
        look,
        parked::Class,
        status::table as looked,
    },
    outgoing::backlog::{table::count, unsettled},
};

pub(super) async fn origin(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "cursor_origin";
    let origin = table::cursor_origin(session).await?;
    let explanation = match (origin.same, origin.behind) {
        (true, true) => {
            return Ok(vec![Finding::ok(
                CHECK,
                "the cursor was written in this cluster",
            )]);
        }
        (false, _) => {
            "the cursor was written in another database cluster: this one was restored or copied. Transaction \
             ids mean nothing here, and no relay will read. (After pg_upgrade they do: rebase with \
             --same-xids)"
        }
        (true, false) => {
            "the cursor is ahead of this cluster's transaction ids: this one was rewound. No relay will read"
        }
    };
    Ok(vec![
        Finding::problem(CHECK, explanation).fix("recompense outbox rebase"),
    ])
}

pub(super) async fn relay(
    session: &mut PgConnection,
    limits: &Limits,
) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "relay";
    let relay = looked::relay(session).await?;
    let cursor = look::table::cursor(session).await?;
    let waiting = count(session, &unsettled(&cursor), 1).await?;
    let age = relay.cursor_age_seconds;
    let Some(lease) = relay.lease else {
        let found = match waiting.is_empty() {
            true => Finding::warning(CHECK, "nobody relays; nothing is waiting to be published"),
            false => Finding::problem(
                CHECK,
                format!(
                    "nobody relays, and messages are waiting; the cursor is {} old",
                    span(age)
                ),
            ),
        };
        return Ok(vec![found.fix("relay --database-url … --kafka-brokers …")]);
    };
    if age > limits.cursor_age.as_secs_f64() {
        let explanation = format!(
            "{} holds the lease, but has not written the cursor for {}: it hangs, or cannot write",
            lease.owner,
            span(age)
        );
        return Ok(vec![Finding::problem(CHECK, explanation)]);
    }
    let well = format!(
        "{} leads; the cursor was written {} ago",
        lease.owner,
        span(age)
    );
    Ok(vec![Finding::ok(CHECK, well)])
}

pub(super) async fn pause(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "pause";
    let Some(pause) = looked::relay(session).await?.paused else {
        return Ok(vec![Finding::ok(CHECK, "the relay is not paused")]);
    };
    let explanation = format!(
        "paused since {} by {}: nothing is sent",
        pause.since, pause.by
    );
    Ok(vec![
        Finding::warning(CHECK, explanation).fix("recompense outbox resume"),
    ])
}

pub(super) async fn parked(
    session: &mut PgConnection,
    limits: &Limits,
) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "parked";
    let keys = looked::blocked_keys(session).await?;
    let counts = looked::parked_counts(session).await?.into_iter();
    let found = counts.map(|count| {
        let serious = count.oldest_seconds > limits.parked.as_secs_f64();
        let (number, age) = (count.messages, span(count.oldest_seconds));
        let (what, fix) = match count.class {
            Class::Poison => (
                "were refused by the broker and wait for a decision".to_owned(),
                "recompense outbox parked list --class poison",
            ),
            Class::Blocked => (
                format!("wait behind a refused one; {keys} keys are blocked"),
                "recompense outbox parked list --class poison",
            ),
            Class::Held => (
                "wait for their topic, which refused: it is missing or not permitted".to_owned(),
                "recompense outbox parked list --class held",
            ),
            Class::Other => (
                "were parked by a newer version than this one".to_owned(),
                "recompense outbox parked list",
            ),
        };
        let explanation = format!("{number} messages {what}, the first for {age}");
        Finding::graded(CHECK, serious, explanation).fix(fix)
    });
    Ok(or_ok(found.collect(), CHECK, "everything could be sent"))
}

pub(super) async fn inbox_parked(
    session: &mut PgConnection,
    limits: &Limits,
) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "inbox_parked";
    let counts = looked::inbox_parked_counts(session).await?.into_iter();
    let found = counts.map(|count| {
        let serious = count.oldest_seconds > limits.parked.as_secs_f64();
        let explanation = format!(
            "{} messages could not be handled by {}, the first {} ago",
            count.messages,
            count.consumer,
            span(count.oldest_seconds)
        );
        Finding::graded(CHECK, serious, explanation).fix(format!(
            "recompense inbox parked list --consumer {}",
            word(&count.consumer)
        ))
    });
    Ok(or_ok(found.collect(), CHECK, "everything could be handled"))
}
