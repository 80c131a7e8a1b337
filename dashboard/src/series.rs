//! What the overview shows of the last quarter of an hour.

use std::{collections::VecDeque, time::Duration};

/// Between two readings.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// How many are kept: a quarter of an hour.
const KEPT: usize = 180;

/// How it was at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) running: i64,
    pub(crate) compensating: i64,
    pub(crate) parked_sagas: i64,
    /// Of the sagas started in the last ten minutes.
    pub(crate) completed: i64,
    pub(crate) compensated: i64,
    pub(crate) abandoned: i64,
    /// Sagas started a second, over the last minute.
    pub(crate) started: f64,
    pub(crate) backlog: i64,
    pub(crate) oldest_unpublished: f64,
    pub(crate) parked_messages: i64,
    pub(crate) anomalies: i64,
}

/// The readings, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Series(VecDeque<Reading>);

impl Series {
    pub(crate) fn push(&mut self, reading: Reading) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(reading);
    }

    pub(crate) fn last(&self) -> Option<Reading> {
        self.0.back().copied()
    }

    /// A line in a picture of `width` by `height`, the newest at the right.
    pub(crate) fn line(&self, width: f64, height: f64, of: impl Fn(&Reading) -> f64) -> String {
        let most = self.0.iter().map(&of).fold(0.0, f64::max);
        let step = width / (KEPT - 1) as f64;
        let begin = KEPT - self.0.len();
        let points = self.0.iter().enumerate().map(|(place, reading)| {
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
    fn the_newest_is_at_the_right_and_the_most_at_the_top() {
        let mut series = Series::default();
        for backlog in 0..=200 {
            series.push(Reading {
                backlog,
                ..Reading::default()
            });
        }
        let line = series.line(179.0, 23.0, |reading| reading.backlog as f64);
        let points: Vec<&str> = line.split(' ').collect();
        assert_eq!(points.len(), 180);
        assert!(points[0].starts_with("0.0,"));
        assert_eq!(points[179], "179.0,1.5");
        assert_eq!(series.last().unwrap().backlog, 200);
    }
}
