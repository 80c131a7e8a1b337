//! How far something long has come, in one line on the terminal that goes away when it is done. Nothing
//! of it where there is no terminal, and nothing where a program reads along.

use std::{
    future::Future,
    io::{self, IsTerminal, Write},
    pin::pin,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use crate::print::age;

/// Between two looks of an eye.
const PACE: Duration = Duration::from_millis(100);
/// Of the bar.
const CELLS: u64 = 20;
/// Back to the beginning of an empty line.
const CLEAR: &str = "\r\u{1b}[2K";

/// A line of progress. Dropped, it is gone.
pub(crate) struct Progress {
    what: &'static str,
    began: Instant,
    shown_at: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    /// Of `what`, as in "enqueued". Silent if `quiet`.
    pub(crate) fn of(what: &'static str, quiet: bool) -> Self {
        Self {
            what,
            began: Instant::now(),
            shown_at: None,
            is_shown: !quiet && io::stderr().is_terminal(),
        }
    }

    /// So many are done, of so many if that is known.
    pub(crate) fn tell(&mut self, done: u64, of: Option<u64>) {
        let is_due = self.shown_at.is_none_or(|at| at.elapsed() >= PACE);
        if self.is_shown && is_due {
            self.shown_at = Some(Instant::now());
            self.show(&line(self.what, Some((done, of)), self.began.elapsed()));
        }
    }

    /// Runs something that says nothing until its end.
    pub(crate) async fn during<T>(mut self, doing: impl Future<Output = T>) -> T {
        let mut doing = pin!(doing);
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut doing => return done,
                _ = ticks.tick() => {
                    if self.is_shown {
                        self.shown_at = Some(Instant::now());
                        self.show(&line(self.what, None, self.began.elapsed()));
                    }
                }
            }
        }
    }

    fn show(&self, line: &str) {
        let mut terminal = io::stderr().lock();
        // Whoever cannot be shown how far it is still gets the result.
        let _ = write!(terminal, "{CLEAR}{line}");
        let _ = terminal.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown_at.is_some() {
            self.show("");
        }
    }
}

/// What is shown.
fn line(what: &str, done: Option<(u64, Option<u64>)>, elapsed: Duration) -> String {
    let time = age(elapsed.as_secs_f64().floor());
    match done {
        None => format!("{what} … {time}"),
        Some((done, None)) => format!("{what} {done} … {time}"),
        Some((done, Some(of))) => {
            let part = |whole: u64| match of {
                0 => whole,
                of => done.min(of).saturating_mul(whole) / of,
            };
            let full = part(CELLS);
            let bar: String = (0..CELLS)
                .map(|cell| if cell < full { '█' } else { '░' })
                .collect();
            format!("{what} {done} of {of} {bar} {} % {time}", part(100))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let seconds = Duration::from_secs;
        assert_eq!(line("rebasing", None, seconds(3)), "rebasing … 3.0s");
        assert_eq!(line("sent", Some((7, None)), seconds(3)), "sent 7 … 3.0s");
        let half = line("enqueued", Some((500, Some(1000))), seconds(300));
        assert_eq!(half, "enqueued 500 of 1000 ██████████░░░░░░░░░░ 50 % 5m");
        // More than was counted before, and nothing at all.
        assert!(line("sent", Some((12, Some(10))), seconds(1)).contains("100 %"));
        assert!(line("sent", Some((0, Some(0))), seconds(1)).contains("100 %"));
    }
}
