//! A saga's history as a picture: a lane for each step, a bar for each attempt, and what was undone
//! pointing backwards. Pure.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{
    api::{Recorded, Step},
    words,
};

/// In units of the picture.
const LEFT: f64 = 170.0;
const WIDTH: f64 = 960.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 26.0;
const LANE: f64 = 44.0;
const BAR: f64 = 14.0;
/// How far the tip of a bar sticks out.
const TIP: f64 = 7.0;
/// An attempt answered at once is still to be seen and pointed at.
const NARROWEST: f64 = 9.0;

/// The picture.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) right: f64,
    pub(crate) bottom: f64,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) bars: Vec<Bar>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) ticks: Vec<Tick>,
    /// All of it in a sentence, for whoever does not see it.
    pub(crate) told: String,
}

/// A step's lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) tone: &'static str,
    /// Of its middle line.
    pub(crate) y: f64,
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Bar {
    /// The corners of an arrow, for a polygon.
    pub(crate) points: String,
    pub(crate) tone: &'static str,
    /// Whether it undoes.
    pub(crate) back: bool,
    /// For whoever points at it.
    pub(crate) title: String,
}

/// A moment that concerns the whole saga.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) x: f64,
    pub(crate) tone: &'static str,
    pub(crate) title: String,
}

/// A point of the scale.
#[derive(Debug)]
pub(crate) struct Tick {
    pub(crate) x: f64,
    pub(crate) label: String,
}

/// An attempt whose end is not seen yet.
struct Open {
    lane: usize,
    back: bool,
    probe: bool,
    attempt: i64,
    at: DateTime<Utc>,
}

struct Drawing {
    start: DateTime<Utc>,
    length: f64,
    open: Vec<Open>,
    timeline: Timeline,
}

impl Timeline {
    /// Of the history so far. `until` is where the saga's end is, or now.
    pub(crate) fn of(steps: &[Step], events: &[Recorded], until: DateTime<Utc>) -> Self {
        let Some(first) = events.first() else {
            return Self::default();
        };
        let length = words::seconds(until - first.at).max(0.001);
        let bottom = TOP + LANE * steps.len() as f64;
        let lanes = steps.iter().enumerate().map(|(lane, step)| Lane {
            name: step.name.clone(),
            tone: words::tone(&step.status),
            y: middle(lane),
        });
        let mut drawing = Drawing {
            start: first.at,
            length,
            open: Vec::new(),
            timeline: Self {
                width: WIDTH,
                height: bottom + 10.0,
                right: WIDTH - RIGHT,
                bottom,
                lanes: lanes.collect(),
                ticks: ticks(length),
                ..Self::default()
            },
        };
        for recorded in events {
            drawing.draw(recorded);
        }
        for open in std::mem::take(&mut drawing.open) {
            drawing.bar(open, until, "going", "no answer yet");
        }
        let mut timeline = drawing.timeline;
        let backwards = timeline.bars.iter().filter(|bar| bar.back).count();
        timeline.told = format!(
            "Timeline of {} steps over {}: {} attempts forwards, {backwards} backwards",
            steps.len(),
            words::length(length),
            timeline.bars.len() - backwards,
        );
        timeline
    }
}

impl Drawing {
    fn draw(&mut self, recorded: &Recorded) {
        let event = &recorded.event;
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let kind = text("type");
        let lane = self.lane(text("step"));
        let back = text("phase") == "compensation";
        let at = recorded.at;
        match (kind, lane) {
            ("command_sent" | "probe_sent", Some(lane)) => {
                self.close(lane, back, at, "calm", "overtaken by the next attempt");
                self.open.push(Open {
                    lane,
                    back,
                    probe: kind == "probe_sent",
                    attempt: event["attempt"].as_i64().unwrap_or(1),
                    at,
                });
            }
            ("attempt_timed_out", Some(lane)) => {
                self.close(lane, back, at, "alarm", "no answer in time")
            }
            ("action_succeeded", Some(lane)) => self.close(lane, false, at, "good", "took effect"),
            ("action_failed", Some(lane)) => {
                let why = refusal(&event["refusal"]);
                self.close(lane, false, at, "bad", &format!("refused{why}"));
            }
            ("action_unknown", Some(lane)) => self.close(lane, false, at, "alarm", "nobody knows"),
            ("step_compensated", Some(lane)) => self.close(lane, true, at, "back", "undone"),
            ("step_null_compensated", Some(lane)) => {
                // What was asked forwards had no effect and never will.
                self.close(lane, false, at, "calm", "had no effect");
                self.close(lane, true, at, "back", "nothing to undo");
            }
            ("compensation_skipped", Some(lane)) => {
                self.close(lane, true, at, "calm", "left out by a person")
            }
            ("compensation_started", _) => {
                self.mark(at, "back", format!("turned back: {}", text("reason")))
            }
            ("parked", _) => self.mark(at, "alarm", format!("parked: {}", text("reason"))),
            ("resumed", _) => self.mark(at, "going", "goes on".to_owned()),
            ("deadline_passed", _) => self.mark(at, "alarm", "its time was up".to_owned()),
            ("intervened", _) => {
                let (who, what) = (text("actor"), text("operation"));
                self.mark(at, "person", format!("{who}: {what} ({})", text("reason")));
            }
            ("anomaly_found", _) => self.mark(at, "bad", "an anomaly".to_owned()),
            _ => {}
        }
    }

    fn lane(&self, step: &str) -> Option<usize> {
        self.timeline
            .lanes
            .iter()
            .position(|lane| lane.name == step)
    }

    fn close(&mut self, lane: usize, back: bool, at: DateTime<Utc>, tone: &'static str, how: &str) {
        let of = |open: &Open| open.lane == lane && open.back == back;
        if let Some(place) = self.open.iter().position(of) {
            let open = self.open.remove(place);
            self.bar(open, at, tone, how);
        }
    }

    fn bar(&mut self, open: Open, until: DateTime<Utc>, tone: &'static str, how: &str) {
        let (from, to) = (self.x(open.at), self.x(until));
        let to = to.max(from + NARROWEST).min(WIDTH - 2.0);
        let from = from.min(to - NARROWEST);
        let lane = &self.timeline.lanes[open.lane];
        // What is undone goes below what was done.
        let y = match open.back {
            false => lane.y - BAR / 2.0 - 5.0,
            true => lane.y + BAR / 2.0 + 4.0,
        };
        let (top, bottom) = (y - BAR / 2.0, y + BAR / 2.0);
        let tip = TIP.min(to - from);
        let points = match open.back {
            false => format!(
                "{from:.1},{top:.1} {:.1},{top:.1} {to:.1},{y:.1} {:.1},{bottom:.1} {from:.1},{bottom:.1}",
                to - tip,
                to - tip
            ),
            true => format!(
                "{to:.1},{top:.1} {:.1},{top:.1} {from:.1},{y:.1} {:.1},{bottom:.1} {to:.1},{bottom:.1}",
                from + tip,
                from + tip
            ),
        };
        let doing = match (open.back, open.probe) {
            (_, true) => "what became of it?",
            (true, false) => "undo",
            (false, false) => "do",
        };
        let title = format!(
            "{}: {doing}, attempt {}, {} after {}",
            lane.name,
            open.attempt,
            how,
            words::between(open.at, until)
        );
        self.timeline.bars.push(Bar {
            points,
            tone,
            back: open.back,
            title,
        });
    }

    fn mark(&mut self, at: DateTime<Utc>, tone: &'static str, title: String) {
        let x = self.x(at);
        self.timeline.marks.push(Mark { x, tone, title });
    }

    fn x(&self, at: DateTime<Utc>) -> f64 {
        place(words::seconds(at - self.start) / self.length)
    }
}

fn middle(lane: usize) -> f64 {
    TOP + LANE * (lane as f64 + 0.5)
}

fn place(share: f64) -> f64 {
    LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
}

fn ticks(length: f64) -> Vec<Tick> {
    let shares = [0.0, 0.25, 0.5, 0.75, 1.0];
    let tick = |share: f64| Tick {
        x: place(share),
        label: match share {
            0.0 => "0".to_owned(),
            _ => format!("+{}", words::length(share * length)),
        },
    };
    shares.map(tick).into()
}

fn refusal(refusal: &Value) -> String {
    let said = ["detail", "message", "reason", "code"];
    let said = said.iter().find_map(|name| refusal[*name].as_str());
    said.map_or_else(String::new, |said| format!(" ({said})"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000 + ms).unwrap()
    }

    fn step(name: &str, status: &str) -> Step {
        serde_json::from_value(json!({"name": name, "status": status, "round": 1, "attempt": 1}))
            .unwrap()
    }

    fn history(events: &[(i64, Value)]) -> Vec<Recorded> {
        let recorded = |(place, (ms, event)): (usize, &(i64, Value))| Recorded {
            seq: place as i64 + 1,
            at: at(*ms),
            event: event.clone(),
        };
        events.iter().enumerate().map(recorded).collect()
    }

    #[test]
    fn each_attempt_is_a_bar_and_what_is_undone_points_backwards() {
        let steps = [step("pay", "compensated"), step("ship", "failed")];
        let command = |step, phase, attempt| json!({"type": "command_sent", "step": step, "phase": phase, "round": 1, "attempt": attempt});
        let events = history(&[
            (0, json!({"type": "started"})),
            (0, command("pay", "action", 1)),
            (
                100,
                json!({"type": "attempt_timed_out", "step": "pay", "phase": "action", "attempt": 1}),
            ),
            (200, command("pay", "action", 2)),
            (300, json!({"type": "action_succeeded", "step": "pay"})),
            (300, command("ship", "action", 1)),
            (
                500,
                json!({"type": "action_failed", "step": "ship", "refusal": {"code": "x", "message": "not served"}}),
            ),
            (
                500,
                json!({"type": "compensation_started", "reason": "not served"}),
            ),
            (500, command("pay", "compensation", 1)),
            (1000, json!({"type": "step_compensated", "step": "pay"})),
            (1000, json!({"type": "compensated"})),
        ]);
        let drawn = Timeline::of(&steps, &events, at(1000));
        let told: Vec<_> = drawn
            .bars
            .iter()
            .map(|bar| (bar.title.as_str(), bar.tone, bar.back))
            .collect();
        assert_eq!(
            told,
            [
                (
                    "pay: do, attempt 1, no answer in time after 100 ms",
                    "alarm",
                    false
                ),
                (
                    "pay: do, attempt 2, took effect after 100 ms",
                    "good",
                    false
                ),
                (
                    "ship: do, attempt 1, refused (not served) after 200 ms",
                    "bad",
                    false
                ),
                ("pay: undo, attempt 1, undone after 500 ms", "back", true),
            ]
        );
        // The tip is the third corner: right of the tail forwards, left of it backwards.
        let corner = |bar: &Bar, n: usize| -> f64 {
            let corner = bar.points.split(' ').nth(n).unwrap();
            corner.split(',').next().unwrap().parse().unwrap()
        };
        assert!(corner(&drawn.bars[0], 2) > corner(&drawn.bars[0], 0));
        assert!(corner(&drawn.bars[3], 2) < corner(&drawn.bars[3], 0));
        // Half of the time lies left of the last bar's tip.
        let half = place(0.5);
        assert!((corner(&drawn.bars[3], 2) - half).abs() < 0.1, "{half}");
        assert_eq!(drawn.marks.len(), 1);
        assert_eq!(
            drawn.told,
            "Timeline of 2 steps over 1.0 s: 3 attempts forwards, 1 backwards"
        );
    }

    #[test]
    fn what_has_no_answer_yet_lasts_until_now() {
        let steps = [step("pay", "running")];
        let events = history(&[
            (0, json!({"type": "started"})),
            (
                0,
                json!({"type": "command_sent", "step": "pay", "phase": "action", "attempt": 1}),
            ),
        ]);
        let drawn = Timeline::of(&steps, &events, at(4000));
        assert_eq!(
            drawn.bars[0].title,
            "pay: do, attempt 1, no answer yet after 4.0 s"
        );
        assert!(Timeline::of(&steps, &[], at(0)).bars.is_empty());
    }
}
