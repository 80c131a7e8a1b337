//! How many sagas come to a status in a second: the difference of two looks. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::top::look::Look;

/// Rates by status, of the last two looks.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    before: Option<Before>,
    by_status: BTreeMap<String, f64>,
    started: Option<f64>,
}

/// The look before.
#[derive(Debug)]
struct Before {
    at: Instant,
    by_status: BTreeMap<String, i64>,
    /// None if not all were counted.
    total: Option<i64>,
}

impl Rates {
    /// Takes note of a look.
    pub(crate) fn see(&mut self, look: &Look) {
        let Some(counts) = &look.statuses else { return };
        let groups = counts["groups"].as_array().into_iter().flatten();
        let by_status = groups.filter_map(|group| {
            let status = group["value"].as_str()?.to_owned();
            // Of what is counted only up to a number nobody knows how fast it grows.
            if group["exact"] == false {
                return None;
            }
            Some((status, group["count"].as_i64()?))
        });
        let by_status: BTreeMap<String, i64> = by_status.collect();
        let total = counts["total"]
            .as_i64()
            .filter(|_| counts["exact"] != false);
        if let Some(before) = &self.before {
            let seconds = look.at.duration_since(before.at).as_secs_f64();
            if seconds <= 0.0 {
                return;
            }
            // Ended sagas are forgotten after a while, and then there are fewer.
            let rate = |now: i64, before: i64| (now - before).max(0) as f64 / seconds;
            self.started = total
                .zip(before.total)
                .map(|(now, before)| rate(now, before));
            self.by_status = by_status
                .iter()
                .filter_map(|(status, now)| {
                    let known = before.by_status.get(status).copied();
                    // There were none, if all were counted.
                    let known = known.or(before.total.map(|_| 0))?;
                    Some((status.clone(), rate(*now, known)))
                })
                .collect();
        }
        self.before = Some(Before {
            at: look.at,
            by_status,
            total,
        });
    }

    /// How many more are in this status, in a second. Only of those that nothing leaves does it mean
    /// something.
    pub(crate) fn of(&self, status: &str) -> Option<f64> {
        let ends = ["completed", "compensated", "abandoned"].contains(&status);
        self.by_status.get(status).copied().filter(|_| ends)
    }

    /// How many sagas were started, in a second.
    pub(crate) fn started(&self) -> Option<f64> {
        self.started
    }

    /// For programs.
    pub(crate) fn told(&self) -> Value {
        let of = |status| self.of(status).unwrap_or_default();
        json!({
            "started": self.started,
            "completed": of("completed"),
            "compensated": of("compensated"),
            "abandoned": of("abandoned"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn look(at: Instant, running: i64, completed: i64) -> Look {
        let groups = [("running", running), ("completed", completed)];
        let groups = groups.map(|(value, count)| json!({"value": value, "count": count}));
        Look {
            at,
            statuses: Some(json!({"total": running + completed, "groups": groups})),
            waiting: None,
            parked_sagas: None,
            anomalies: None,
            outbox: None,
            parked: None,
        }
    }

    #[test]
    fn a_rate_is_the_difference_of_two_looks() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.see(&look(start, 5, 100));
        assert_eq!((rates.started(), rates.of("completed")), (None, None));
        rates.see(&look(start + Duration::from_secs(2), 3, 110));
        assert_eq!(rates.started(), Some(4.0));
        assert_eq!(rates.of("completed"), Some(5.0));
        assert_eq!(rates.of("running"), None, "they come and go");
        // Forgotten, at the same moment, and none of that sort.
        rates.see(&look(start + Duration::from_secs(3), 3, 50));
        assert_eq!(rates.of("completed"), Some(0.0));
        rates.see(&look(start + Duration::from_secs(3), 3, 60));
        assert_eq!(rates.of("completed"), Some(0.0));
        assert_eq!(rates.of("compensated"), None);
    }
}
