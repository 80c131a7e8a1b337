//! A participant: its effect is one update of one row, behind the barrier, in a database of its own
//! with an outbox and a relay.

use std::sync::Arc;

use anyhow::Result;
use outbox::{Error, Relay, broker::Broker, incoming, outgoing};
use saga::{
    Participant,
    participant::{Action, Answer, Compensation, Context, Refusal},
};
use sqlx::{PgPool, PgTransaction, postgres::PgPoolOptions};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::sagas::{
    coordinator::{CONNECTIONS, consume_and_relay},
    trip::{Book, Booked, Cancel},
};

/// Rows to update. More than sagas are ever in flight, so that none waits for another's row.
pub(crate) const ACCOUNTS: i64 = 20_000;

/// What a participant is made of.
pub(crate) struct Serving {
    pub(crate) number: usize,
    pub(crate) topic: String,
    pub(crate) url: String,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) relay: outgoing::Config,
}

impl Serving {
    pub(crate) async fn run(
        self,
        ready: oneshot::Sender<()>,
        stop: CancellationToken,
    ) -> Result<()> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
        let pool = pool.connect(&self.url).await?;
        let name = format!("bench.participant-{}", self.number);
        let participant = Participant::new(&name)
            .action(Booking)
            .compensation(Cancelling);
        let consumer = participant.consumer(
            &[&self.topic],
            pool.clone(),
            Arc::clone(&self.broker),
            incoming::Config::default(),
        );
        let relay = Relay::new(self.url.parse()?, self.broker, self.relay);
        consume_and_relay(consumer, relay, ready, stop).await?;
        pool.close().await;
        Ok(())
    }
}

/// Makes the rows it will update.
pub(crate) async fn prepare(pool: &PgPool) -> Result<()> {
    sqlx::raw_sql(
        "create table account (id bigint primary key, booked bigint not null) with (fillfactor = 70)",
    )
    .execute(pool)
    .await?;
    sqlx::query("insert into account select id, 0 from generate_series(0, $1 - 1) as id")
        .bind(ACCOUNTS)
        .execute(pool)
        .await?;
    sqlx::raw_sql("vacuum (analyze) account")
        .execute(pool)
        .await?;
    Ok(())
}

struct Booking;

impl Action for Booking {
    type Command = Book;
    type Reply = Booked;

    async fn execute(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: Book,
    ) -> Result<Answer<Booked>, Error> {
        if command.refused {
            let refusal = Refusal::new("sold_out", "there is no car left");
            return Ok(Answer::Refused(refusal));
        }
        let total = add(tx, command.account, command.amount).await?;
        Ok(Answer::Done(Booked { total }))
    }
}

struct Cancelling;

impl Compensation for Cancelling {
    type Command = Cancel;

    async fn compensate(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: Cancel,
    ) -> Result<(), Error> {
        add(tx, command.account, -command.amount).await?;
        Ok(())
    }
}

async fn add(tx: &mut PgTransaction<'_>, account: i64, amount: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("update account set booked = booked + $2 where id = $1 returning booked")
        .bind(account)
        .bind(amount)
        .fetch_one(&mut **tx)
        .await
}

/// What participants have done, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// The sum of the rows.
    pub(crate) booked: i64,
    /// Operations, by their answers.
    pub(crate) succeeded: i64,
    pub(crate) failed: i64,
    pub(crate) compensated: i64,
    /// Answers that no saga of ours should get.
    pub(crate) other: i64,
}

impl Effects {
    pub(crate) async fn of<'a>(pools: impl Iterator<Item = &'a PgPool>) -> Result<Self> {
        let mut all = Self::default();
        for pool in pools {
            let (booked, succeeded, failed, compensated, other): (i64, i64, i64, i64, i64) =
                sqlx::query_as(
                    "select (select sum(booked)::bigint from account),
                            count(*) filter (where outcome = 'succeeded'),
                            count(*) filter (where outcome = 'failed'),
                            count(*) filter (where outcome = 'compensated'),
                            count(*) filter (where outcome not in ('succeeded', 'failed', 'compensated'))
                     from saga.barrier",
                )
                .fetch_one(pool)
                .await?;
            all.booked += booked;
            all.succeeded += succeeded;
            all.failed += failed;
            all.compensated += compensated;
            all.other += other;
        }
        Ok(all)
    }

    /// With so many trips more: each books three times, or books twice, is refused, and cancels
    /// what it booked.
    pub(crate) fn with(self, trips: i64, refused: bool) -> Self {
        match refused {
            false => Self {
                booked: self.booked + 3 * trips,
                succeeded: self.succeeded + 3 * trips,
                ..self
            },
            true => Self {
                succeeded: self.succeeded + 2 * trips,
                failed: self.failed + trips,
                compensated: self.compensated + 2 * trips,
                ..self
            },
        }
    }
}
