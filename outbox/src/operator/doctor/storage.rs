//! The ring: how large, how fast, how clean.

use chrono::TimeDelta;
use sqlx::{PgConnection, PgPool};

use crate::{
    Error,
    operator::{
        doctor::{
            Limits,
            report::{Finding, or_ok, span},
            table,
        },
        look, replay, status,
    },
};

pub(super) async fn partitions(session: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "partitions";
    let seq = status::table::last_seq(session).await?;
    let partitions = status::table::partitions(session, seq).await?;
    let sizes = partitions
        .iter()
        .map(|partition| format!("{} {} MiB", partition.name, partition.bytes >> 20));
    let sizes = sizes.collect::<Vec<_>>().join(", ");
    let turn = status::table::ring(session).await?.turn();
    let mut found = Vec::new();
    for partition in table::spans(session).await? {
        let turns = partition.last / turn - partition.first / turn;
        if turns > 0 {
            found.push(Finding::warning(
                CHECK,
                format!(
                    "outbox.{} holds {} turns of the ring, since it could not be emptied: the relay was \
                     away, or somebody keeps a lock on it. It is emptied before the writers enter it next, \
                     once everything in it is published. All: {sizes}",
                    partition.name,
                    turns + 1
                ),
            ));
        }
    }
    Ok(or_ok(found, CHECK, &sizes))
}

pub(super) async fn turn(pool: &PgPool, limits: &Limits) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "turn";
    let mut tx = look::begin(pool).await?;
    let now = table::now(&mut tx).await?;
    let oldest = replay::table::oldest(&mut tx).await?;
    let newest = look::table::newest_seq(&mut tx).await?;
    let turn = status::table::ring(&mut tx).await?.turn();
    let since = now - TimeDelta::hours(1);
    let first = match oldest.as_ref().zip(newest) {
        Some((oldest, newest)) => {
            Some(replay::first_since(&mut tx, since, oldest.from_seq, newest).await?)
        }
        None => None,
    };
    tx.rollback().await?;
    let Some(((oldest, newest), first)) = oldest.zip(newest).zip(first) else {
        return Ok(vec![Finding::ok(CHECK, "the log is empty")]);
    };
    let rate = newest + 1 - first;
    let holds = format!("the log holds messages since {}", oldest.from_time);
    if rate <= 0 {
        let well = format!("nothing was enqueued in the last hour; {holds}");
        return Ok(vec![Finding::ok(CHECK, well)]);
    }
    // When the log is younger than an hour, its own age.
    let seconds = (now - oldest.from_time)
        .as_seconds_f64()
        .clamp(1.0, 3_600.0);
    let lasts = seconds * turn as f64 / rate as f64;
    let explanation = format!(
        "at the last hour's {:.1} messages/s a turn of {turn} numbers lasts {}; {holds}",
        rate as f64 / seconds,
        span(lasts)
    );
    if lasts >= limits.turn.as_secs_f64() {
        return Ok(vec![Finding::ok(CHECK, explanation)]);
    }
    let explanation = format!(
        "{explanation}. Published messages can be replayed for about half a turn, and a relay that is away for \
         longer makes the ring grow"
    );
    Ok(vec![Finding::warning(CHECK, explanation)])
}

pub(super) async fn dead_rows(
    session: &mut PgConnection,
    limits: &Limits,
) -> Result<Vec<Finding>, Error> {
    const CHECK: &str = "dead_rows";
    let dead = table::dead_rows(session).await?.into_iter();
    let found = dead.filter(|(_, rows)| *rows > limits.dead_rows);
    let found = found.map(|(partition, rows)| {
        let explanation = format!(
            "outbox.{partition} has about {rows} dead rows: transactions that enqueued were rolled back (or rows \
             were deleted), and every look walks over them. Emptying the partition removes them too"
        );
        Finding::warning(CHECK, explanation).fix(format!("vacuum outbox.{partition}"))
    });
    let well = format!("fewer than {} in each partition", limits.dead_rows);
    Ok(or_ok(found.collect(), CHECK, &well))
}
