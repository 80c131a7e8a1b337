//! What the overview shows of the last quarter of an hour.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::api::Counted;

/// Between two readings.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// How long a reading tells how it is: when some in a row failed, nobody knows any more.
const CURRENT: Duration = Duration::from_secs(15);
/// How many are kept: a quarter of an hour.
const KEPT: usize = 180;

/// How it was at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) running: Counted,
    pub(crate) compensating: Counted,
    pub(crate) parked_sagas: Counted,
    /// Of the sagas started in the last ten minutes.
    pub(crate) completed: Counted,
    pub(crate) compensated: Counted,
    pub(crate) abandoned: Counted,
    /// Sagas started a second, over the last minute, and whether all of them were counted.
    pub(crate) started: f64,
    pub(crate) started_exact: bool,
    pub(crate) backlog: Counted,
    pub(crate) oldest_unpublished: f64,
    pub(crate) parked_messages: Counted,
    pub(crate) anomalies: Counted,
}

/// The readings, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Series {
    readings: VecDeque<Reading>,
    last_at: Option<Instant>,
}

impl Series {
    pub(crate) fn push(&mut self, reading: Reading, at: Instant) {
        if self.readings.len() == KEPT {
            self.readings.pop_front();
        }
        self.readings.push_back(reading);
        self.last_at = Some(at);
    }

    /// The last one, if it still tells how it is.
    pub(crate) fn last(&self, now: Instant) -> Option<Reading> {
        let age = now.saturating_duration_since(self.last_at?);
        let last = self.readings.back().copied();
        last.filter(|_| age <= CURRENT)
    }

    /// A line in a picture of `width` by `height`, the newest at the right.
    pub(crate) fn line(&self, width: f64, height: f64, of: impl Fn(&Reading) -> f64) -> String {
        let most = self.readings.iter().map(&of).fold(0.0, f64::max);
        let step = width / (KEPT - 1) as f64;
        let begin = KEPT - self.readings.len();
        let points = self.readings.iter().enumerate().map(|(place, reading)| {
            let share = if most > 0.0 { of(reading) / most } else { 0.0 };
            let (x, y) = (
                (begin + place) as f64 * step,
                height - 1.5 - share * (height - 3.0),
            );
            format!("{x:.1},{y:.1}")
        });
        points.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_reading_does_not_pass_for_a_current_one() {
        let mut series = Series::default();
        let then = Instant::now();
        assert_eq!(series.last(then), None);
        series.push(Reading::default(), then);
        let late = then + CURRENT;
        assert_eq!(series.last(late), Some(Reading::default()));
        assert_eq!(series.last(late + Duration::from_millis(1)), None);
        assert!(
            !series.line(10.0, 10.0, |_| 1.0).is_empty(),
            "but it is part of the picture"
        );
    }

    #[test]
    fn the_newest_is_at_the_right_and_the_most_at_the_top() {
        let mut series = Series::default();
        let now = Instant::now();
        for backlog in 0..=200 {
            let reading = Reading {
                backlog: Counted::all(backlog),
                ..Reading::default()
            };
            series.push(reading, now);
        }
        let line = series.line(179.0, 23.0, |reading| reading.backlog.count as f64);
        let points: Vec<&str> = line.split(' ').collect();
        assert_eq!(points.len(), 180);
        assert!(points[0].starts_with("0.0,"));
        assert_eq!(points[179], "179.0,1.5");
        assert_eq!(series.last(now).unwrap().backlog.count, 200);
    }
}
