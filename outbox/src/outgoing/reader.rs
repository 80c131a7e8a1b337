//! Reads the log: snapshot by snapshot, page by page.
//!
//! Promised: every row of every committed transaction is read once per life of a reader, in the
//! order of `seq` inside a tick; a page costs a page, whatever the backlog. Not promised: order
//! across ticks by `seq`: a transaction that was open may hold lower numbers than those already
//! read.

use std::{collections::VecDeque, sync::Arc};

use sqlx::PgConnection;

use crate::{
    Error,
    outgoing::{
        cursor::{Cursor, Cut},
        ring::Tick,
        table::{self, Logged},
    },
};

/// Rows of the first page; later pages are as large as their bytes allow.
const FIRST_PAGE: usize = 100;
/// Bytes of a page to aim at.
const PAGE_BYTES: usize = 8 << 20;

/// Rows of one tick.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) tick: Arc<Tick>,
    pub(crate) rows: Vec<Logged>,
    /// Whether these are the last of the tick.
    pub(crate) last: bool,
}

/// Where reading stands: ahead of the cursor by what is on its way to the broker.
#[derive(Debug)]
pub(crate) struct Reader {
    settled: Cut,
    tick: Option<Open>,
    page: usize,
    max_page: usize,
}

impl Reader {
    /// Goes on from a cursor, in pages of at most `max_page` rows.
    pub(crate) fn at(cursor: &Cursor, max_page: usize) -> Self {
        let tick = (!cursor.is_between_ticks()).then(|| {
            let (settled, target) = (cursor.settled.clone(), cursor.target.clone());
            Open::new(settled, target, cursor.last_seq)
        });
        Self {
            settled: cursor.settled.clone(),
            tick,
            page: FIRST_PAGE.min(max_page),
            max_page,
        }
    }

    /// The next page; `None` when nothing has committed since the last. `floor` is the number that
    /// the relay's last write returned, see [`Cut::floor`].
    pub(crate) async fn next(
        &mut self,
        connection: &mut PgConnection,
        floor: i64,
    ) -> Result<Option<Page>, Error> {
        let mut open = match self.tick.take() {
            Some(open) => open,
            None => {
                let snapshot = table::snapshot(connection).await?;
                if snapshot == self.settled.snapshot {
                    return Ok(None);
                }
                Open::new(self.settled.clone(), Cut { snapshot, floor }, 0)
            }
        };
        let mut rows = Vec::new();
        let last = loop {
            open.fill(connection, self.page).await?;
            match open.pop() {
                Some(row) => rows.push(row),
                None => break true,
            }
            if rows.len() >= self.page {
                break false;
            }
        };
        self.adapt(&rows);
        let tick = Arc::clone(&open.bounds);
        if last {
            self.settled = tick.target.clone();
        } else {
            self.tick = Some(open);
        }
        Ok(Some(Page { tick, rows, last }))
    }

    /// Pages are bounded by rows and, judging by the page before, by bytes.
    fn adapt(&mut self, rows: &[Logged]) {
        let bytes: usize = rows.iter().map(Logged::bytes).sum();
        if let Some(each) = bytes.checked_div(rows.len()) {
            self.page = (PAGE_BYTES / each.max(1)).clamp(1, self.max_page);
        }
    }
}

/// The tick being read: its two sources, merged by number.
#[derive(Debug)]
struct Open {
    bounds: Arc<Tick>,
    /// Rows of the transactions that were in progress in `settled` and have ended in `target`.
    late: Source,
    /// Rows of the transactions that began between the two.
    new: Source,
}

impl Open {
    fn new(settled: Cut, target: Cut, after: i64) -> Self {
        let xids = settled.snapshot.ended_since(&target.snapshot);
        let began = settled.snapshot.xmax() < target.snapshot.xmax();
        Self {
            late: Source::new(!xids.is_empty(), Rows::Of(xids), after),
            new: Source::new(began, Rows::Began { paged: false }, after),
            bounds: Arc::new(Tick { settled, target }),
        }
    }

    /// Fills what is empty; afterwards an empty source has no more rows.
    async fn fill(&mut self, connection: &mut PgConnection, page: usize) -> Result<(), Error> {
        self.late.fill(connection, &self.bounds, page).await?;
        self.new.fill(connection, &self.bounds, page).await
    }

    /// The row with the lowest number, of two filled sources.
    fn pop(&mut self) -> Option<Logged> {
        let seq = |source: &Source| source.rows.front().map(|row| row.seq);
        match (seq(&self.late), seq(&self.new)) {
            (Some(late), Some(new)) if late < new => self.late.rows.pop_front(),
            (Some(_), None) => self.late.rows.pop_front(),
            _ => self.new.rows.pop_front(),
        }
    }
}

/// Rows in the order of `seq`, fetched a page at a time.
#[derive(Debug)]
struct Source {
    of: Rows,
    rows: VecDeque<Logged>,
    after: i64,
    more: bool,
}

#[derive(Debug)]
enum Rows {
    /// Of single transactions.
    Of(Vec<u64>),
    /// Of all transactions that began in the tick, once it is known to be larger than a page
    /// in the order of `seq` right from the server.
    Began { paged: bool },
}

impl Source {
    fn new(more: bool, of: Rows, after: i64) -> Self {
        let rows = VecDeque::new();
        Self {
            of,
            rows,
            after,
            more,
        }
    }

    async fn fill(
        &mut self,
        connection: &mut PgConnection,
        tick: &Tick,
        page: usize,
    ) -> Result<(), Error> {
        if !self.more || !self.rows.is_empty() {
            return Ok(());
        }
        let limit = i64::try_from(page).unwrap_or(i64::MAX);
        let mut rows = match &mut self.of {
            Rows::Of(xids) => table::of_transactions(connection, xids, self.after, limit).await?,
            Rows::Began { paged } => {
                let mut rows = Vec::new();
                if !*paged {
                    // A tick is usually small: exactly its rows by the index on xid, sorted here.
                    rows = table::began_in(connection, tick, self.after, limit).await?;
                    *paged = rows.len() >= page;
                    self.after = self.after.max(tick.settled.floor);
                }
                if *paged {
                    rows = table::began_in_by_seq(connection, tick, self.after, limit).await?;
                }
                rows
            }
        };
        rows.sort_unstable_by_key(|row| row.seq);
        self.more = rows.len() >= page;
        self.after = rows.last().map_or(self.after, |row| row.seq);
        self.rows = rows.into();
        Ok(())
    }
}
