//! The relay's row: renewing the lease, writing the cursor down, handing both over.

use std::time::Instant;

use sqlx::{Connection, PgConnection, PgTransaction};
use tokio::time::sleep;

use crate::{
    Error, crash,
    outgoing::{
        config::Config,
        cursor::Cursor,
        leader::{Leader, STALLED, patiently},
        lease::Lease,
        relay::Status,
        table::{self, Written},
    },
};

const BEGIN: &str = "begin isolation level read committed";

impl Leader<'_> {
    /// Renews the lease and writes the cursor down: at most every `cursor_interval` while messages
    /// are acknowledged, and three times in a lease while not. Called from this loop alone, so
    /// that a leader that hangs loses its lease.
    pub(super) async fn keep_lease(&mut self) -> Result<(), Error> {
        let due = match self.moved {
            true => self.config.cursor_interval,
            false => self.config.lease / 3,
        };
        if self.written_at.elapsed() >= due {
            self.write_cursor().await?;
            self.report();
        }
        Ok(())
    }

    async fn write_cursor(&mut self) -> Result<(), Error> {
        crash::point("before_cursor");
        let written = table::advance(
            self.connection,
            &self.lease,
            self.config.lease,
            self.flow.cursor(),
            &self.written.place,
        )
        .await?;
        crash::point("after_cursor");
        self.written(written);
        Ok(())
    }

    /// Notes a committed write.
    pub(super) fn written(&mut self, written: Written) {
        if self.written.paused != written.paused {
            let paused = written.paused;
            tracing::info!(paused, "an operator pauses or resumes the relay");
        }
        self.written = written;
        self.written_at = Instant::now();
        self.moved = false;
    }

    fn report(&mut self) {
        let silent = self.flow.in_flight() > 0 && self.acknowledged_at.elapsed() > STALLED;
        let status = match (silent, self.written.paused) {
            (true, _) => Status::Stalled,
            (false, true) => Status::Paused,
            (false, false) => Status::Leading,
        };
        self.status.steadily(status);
    }

    /// Waits for what is on its way, writes the cursor and gives the lease back.
    pub(super) async fn hand_over(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.grace;
        while self.flow.in_flight() > 0 && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::select! {
                delivery = self.lane.deliveries.recv() => self.arrived.extend(delivery),
                () = sleep(left.min(self.config.lease / 4)) => {}
            }
            while let Ok(delivery) = self.lane.deliveries.try_recv() {
                self.arrived.push(delivery);
            }
            for delivery in std::mem::take(&mut self.arrived) {
                // What failed is not acknowledged: the next leader sends it again.
                if delivery.result.is_ok() {
                    self.flow.acknowledged(delivery.token);
                }
            }
            self.advance();
            patiently(self.keep_lease()).await?;
        }
        patiently(self.write_cursor()).await?;
        crash::point("before_release");
        patiently(table::release(self.connection, &self.lease)).await?;
        crash::point("after_release");
        let unacknowledged = self.flow.in_flight();
        tracing::info!(unacknowledged, "handed the lease over");
        Ok(())
    }
}

/// Opens a transaction that proves the lease and writes the cursor first.
pub(super) async fn begin<'c>(
    connection: &'c mut PgConnection,
    lease: &Lease,
    config: &Config,
    cursor: &Cursor,
    written: &Written,
) -> Result<(PgTransaction<'c>, Written), Error> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let written = table::advance(&mut tx, lease, config.lease, cursor, &written.place).await?;
    Ok((tx, written))
}
