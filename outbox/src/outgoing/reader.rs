//! Reads the log: snapshot by snapshot, page by page.
//!
//! Promised: every row of every committed transaction is read once per life of a reader, in the
//! order of `seq` inside a tick; a page costs a page, whatever the backlog, and has so many rows and
//! bytes at most, but one row at least. Not promised: order
//! across ticks by `seq`: a transaction that was open may hold lower numbers than those already
//! read.

use std::{collections::VecDeque, sync::Arc};

use sqlx::PgConnection;

use crate::{
    Error,
    outgoing::{
        cursor::{Cursor, Cut},
        lease::Lease,
        logged::Logged,
        ring::Tick,
        table::{self, Bounds},
    },
};

/// Rows of the first page; later pages are as large as their bytes allow.
const FIRST_PAGE: usize = 100;
/// Bytes of a page. A row that is larger is a page of its own.
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
            let tick = Tick {
                settled: cursor.settled.clone(),
                target: cursor.target.clone(),
                ceiling: cursor.ceiling,
            };
            Open::new(tick, cursor.last_seq)
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
        lease: &Lease,
        floor: i64,
    ) -> Result<Option<Page>, Error> {
        let mut open = match self.tick.take() {
            Some(open) => open,
            None => {
                let now = table::snapshot(connection).await?;
                lease.check_backend(now.backend)?;
                let (snapshot, ceiling) = (now.snapshot, now.ceiling);
                if snapshot == self.settled.snapshot {
                    return Ok(None);
                }
                let tick = Tick {
                    settled: self.settled.clone(),
                    target: Cut { snapshot, floor },
                    ceiling,
                };
                Open::new(tick, 0)
            }
        };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let last = loop {
            open.fill(connection, self.page).await?;
            match open.pop() {
                Some(row) => {
                    bytes += row.bytes();
                    rows.push(row);
                }
                None => break true,
            }
            if rows.len() >= self.page || bytes >= PAGE_BYTES {
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

    /// The next page has as many rows as have had room in this one: what is looked at and left is work
    /// for nothing.
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
    fn new(tick: Tick, after: i64) -> Self {
        let (settled, target) = (&tick.settled.snapshot, &tick.target.snapshot);
        let xids = settled.ended_since(target);
        let began = settled.xmax() < target.xmax();
        Self {
            late: Source::new(!xids.is_empty(), Rows::Of(xids), after),
            new: Source::new(began, Rows::Began { paged: false }, after),
            bounds: Arc::new(tick),
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
        let bounds = Bounds {
            rows: i64::try_from(page).unwrap_or(i64::MAX),
            bytes: PAGE_BYTES as i64,
        };
        let (mut rows, more) = match &mut self.of {
            Rows::Of(xids) => table::of_transactions(connection, xids, self.after, bounds).await?,
            Rows::Began { paged } => {
                let mut read = (Vec::new(), true);
                if !*paged {
                    // A tick is usually small: exactly its rows by the index on xid, sorted here.
                    read = table::began_in(connection, tick, self.after, bounds).await?;
                    *paged = read.1;
                    self.after = self.after.max(tick.settled.floor);
                }
                if *paged {
                    read = table::began_in_by_seq(connection, tick, self.after, bounds).await?;
                }
                read
            }
        };
        rows.sort_unstable_by_key(|row| row.seq);
        self.more = more;
        self.after = rows.last().map_or(self.after, |row| row.seq);
        self.rows = rows.into();
        Ok(())
    }
}
