//! What is shown, line by line. Pure.

use std::time::Duration;

use serde_json::Value;

use crate::{
    print::{Table, age},
    service::{at_least, items, text},
    top::{look::Look, rates::Rates},
};

/// Everything a frame is made of.
pub(crate) struct Scene<'a> {
    pub(crate) place: &'a str,
    pub(crate) interval: Duration,
    /// None until there was an answer.
    pub(crate) look: Option<&'a Look>,
    pub(crate) rates: &'a Rates,
    /// For how long there has been no answer, and why.
    pub(crate) trouble: Option<(Duration, &'a str)>,
    pub(crate) paused: bool,
}

/// How a line stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Heading,
    Bad,
    Quiet,
}

/// Lines from top to bottom.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub(crate) lines: Vec<(Tone, String)>,
}

impl Frame {
    pub(crate) fn of(scene: &Scene<'_>) -> Self {
        let mut frame = Self::default();
        frame.head(scene);
        if let Some(look) = scene.look {
            frame.sagas(look, scene.rates);
            frame.outbox(look);
            frame.parked_messages(look);
            frame.parked_sagas(look);
            frame.anomalies(look);
        }
        frame
    }

    /// Without tones.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.lines.iter().map(|(_, line)| line.clone()).collect()
    }

    fn head(&mut self, scene: &Scene<'_>) {
        let pace = match scene.paused {
            true => "paused".to_owned(),
            false => format!("every {}", age(scene.interval.as_secs_f64())),
        };
        self.add(
            Tone::Heading,
            format!("recompense top   {}   {pace}", scene.place),
        );
        match scene.trouble {
            Some((since, why)) => {
                let since = age(since.as_secs_f64().floor());
                self.add(Tone::Bad, format!("no answer for {since}: {why}"));
            }
            None if scene.look.is_none() => self.add(Tone::Quiet, "asking …"),
            None => {}
        }
    }

    fn sagas(&mut self, look: &Look, rates: &Rates) {
        let Some(statuses) = &look.statuses else {
            return;
        };
        let per_second = |rate: Option<f64>| rate.map(|rate| format!("{rate:.1}/s"));
        let started = per_second(rates.started());
        let started = started.map_or_else(String::new, |rate| format!(", {rate} started"));
        let total = at_least(statuses, "total");
        self.section(format!("sagas: {total}{started}"));
        let mut table = Table::new(["status", "sagas", "rate"]);
        for group in groups(statuses) {
            let status = text(&group["value"]);
            let rate = per_second(rates.of(&status)).unwrap_or_default();
            table.row([status, at_least(group, "count"), rate]);
        }
        self.table(&table);
        let waiting = look.waiting.iter().flat_map(groups);
        let waiting = waiting.filter(|group| !group["value"].is_null());
        let waiting = waiting.map(|group| format!("{} {}", text(&group["value"]), group["count"]));
        let waiting: Vec<_> = waiting.collect();
        if !waiting.is_empty() {
            self.add(Tone::Plain, format!("waiting for: {}", waiting.join(", ")));
        }
    }

    fn outbox(&mut self, look: &Look) {
        let Some(outbox) = &look.outbox else { return };
        let (status, lag) = (&outbox["status"], &outbox["lag"]);
        let backlog = &status["backlog"];
        let about = if backlog["exact"] == true {
            ""
        } else {
            "about "
        };
        self.section(format!(
            "outbox: {about}{} messages wait{}",
            backlog["messages"],
            seconds(&status["oldest_unpublished_seconds"])
                .map_or_else(String::new, |oldest| format!(", the oldest for {oldest}"))
        ));
        match &status["lease"] {
            Value::Null => self.add(
                Tone::Bad,
                format!("nobody relays (epoch {})", status["epoch"]),
            ),
            lease => self.add(
                Tone::Plain,
                format!(
                    "{} relays, lease for {}, epoch {}",
                    text(&lease["owner"]),
                    seconds(&lease["seconds_left"]).unwrap_or_default(),
                    status["epoch"]
                ),
            ),
        }
        if status["paused"].is_object() {
            let [since, by] = ["since", "by"].map(|name| text(&status["paused"][name]));
            self.add(Tone::Bad, format!("paused since {since} by {by}"));
        }
        let least = if lag["at_least"] == true { "≥ " } else { "" };
        let mut table = Table::new(["topic", "messages", "oldest"]);
        for topic in lag["topics"].as_array().into_iter().flatten() {
            table.row([
                text(&topic["topic"]),
                format!("{least}{}", topic["messages"]),
                seconds(&topic["oldest_seconds"]).unwrap_or_default(),
            ]);
        }
        self.table(&table);
    }

    fn parked_messages(&mut self, look: &Look) {
        let Some(parked) = &look.parked else { return };
        let total = parked["total"].as_i64().unwrap_or_default();
        let mut table = Table::new(["message", "class", "topic", "for", "reason"]);
        for item in items(parked) {
            let [id, class, topic, reason] =
                ["id", "class", "topic", "reason"].map(|name| text(&item[name]));
            let parked_for = seconds(&item["parked_seconds"]).unwrap_or_default();
            table.row([id, class, topic, parked_for, reason]);
        }
        self.sick(format!("parked messages: {total}"), total > 0, &table);
    }

    fn parked_sagas(&mut self, look: &Look) {
        let Some(parked) = &look.parked_sagas else {
            return;
        };
        let mut table = Table::new(["saga", "definition", "key", "since", "reason"]);
        for saga in items(parked) {
            let cells = [
                "id",
                "definition",
                "business_key",
                "updated_at",
                "parked_reason",
            ];
            table.row(cells.map(|name| text(&saga[name])));
        }
        if !table.is_empty() {
            self.sick("parked sagas".to_owned(), true, &table);
        }
    }

    fn anomalies(&mut self, look: &Look) {
        let Some(anomalies) = &look.anomalies else {
            return;
        };
        let mut table = Table::new(["at", "anomaly", "saga", "step", "phase"]);
        for anomaly in items(anomalies) {
            let cells = ["recorded_at", "kind", "saga_id", "step", "phase"];
            table.row(cells.map(|name| text(&anomaly[name])));
        }
        match table.is_empty() {
            true => self.sick("anomalies: none".to_owned(), false, &table),
            false => self.sick("anomalies, the newest".to_owned(), true, &table),
        }
    }

    fn sick(&mut self, heading: String, is_sick: bool, table: &Table) {
        self.section(heading);
        if is_sick && let Some((tone, _)) = self.lines.last_mut() {
            *tone = Tone::Bad;
        }
        self.table(table);
    }

    fn section(&mut self, heading: String) {
        self.add(Tone::Plain, "");
        self.add(Tone::Heading, heading);
    }

    fn table(&mut self, table: &Table) {
        if table.is_empty() {
            return;
        }
        let lines = table.lines().into_iter().enumerate();
        self.lines.extend(lines.map(|(row, line)| {
            let tone = if row == 0 { Tone::Quiet } else { Tone::Plain };
            (tone, line)
        }));
    }

    fn add(&mut self, tone: Tone, line: impl Into<String>) {
        self.lines.push((tone, line.into()));
    }
}

fn groups(count: &Value) -> impl Iterator<Item = &Value> {
    count["groups"].as_array().into_iter().flatten()
}

fn seconds(value: &Value) -> Option<String> {
    value.as_f64().map(age)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    fn busy() -> Look {
        Look {
            at: Instant::now(),
            statuses: Some(
                json!({"total": 12, "groups": [{"value": "running", "count": 10},
                {"value": "parked", "count": 2}]}),
            ),
            waiting: Some(
                json!({"groups": [{"value": "reply", "count": 9}, {"value": null, "count": 2},
                {"value": "person", "count": 1}]}),
            ),
            parked_sagas: Some(
                json!({"items": [{"id": "s", "definition": "trip", "business_key": "k",
                "updated_at": "then", "parked_reason": "no answer"}]}),
            ),
            anomalies: Some(json!({"items": []})),
            outbox: Some(json!({
                "status": {"lease": null, "epoch": 7, "paused": {"since": "then", "by": "ann"},
                    "backlog": {"messages": 3, "exact": true}, "oldest_unpublished_seconds": 90.0},
                "lag": {"at_least": true, "topics": [{"topic": "orders", "messages": 3, "oldest_seconds": 0.5}]},
            })),
            parked: Some(
                json!({"total": 1, "items": [{"id": "outbox-3", "class": "poison", "topic": "t",
                "reason": "too large", "parked_seconds": 5.0}]}),
            ),
        }
    }

    fn frame(look: Option<&Look>, trouble: Option<(Duration, &str)>) -> Frame {
        Frame::of(&Scene {
            place: "http://shop",
            interval: Duration::from_secs(1),
            look,
            rates: &Rates::default(),
            trouble,
            paused: false,
        })
    }

    #[test]
    fn a_frame_tells_what_needs_a_person_and_marks_it() {
        let frame = frame(Some(&busy()), None);
        let expected = "\
recompense top   http://shop   every 1.0s

sagas: 12
status   sagas  rate
running  10
parked   2
waiting for: reply 9, person 1

outbox: 3 messages wait, the oldest for 90.0s
nobody relays (epoch 7)
paused since then by ann
topic   messages  oldest
orders  ≥ 3       500ms

parked messages: 1
message   class   topic  for   reason
outbox-3  poison  t      5.0s  too large

parked sagas
saga  definition  key  since  reason
s     trip        k    then   no answer

anomalies: none";
        assert_eq!(frame.texts().join("\n"), expected);
        let bad = frame.lines.iter().filter(|(tone, _)| *tone == Tone::Bad);
        let bad: Vec<_> = bad.map(|(_, line)| line.as_str()).collect();
        let expected = [
            "nobody relays (epoch 7)",
            "paused since then by ann",
            "parked messages: 1",
            "parked sagas",
        ];
        assert_eq!(bad, expected);
    }

    #[test]
    fn while_a_service_is_away_what_was_seen_last_stays() {
        assert_eq!(frame(None, None).texts()[1], "asking …");
        let trouble = Some((Duration::from_millis(2_700), "refused"));
        assert_eq!(
            frame(None, trouble).texts()[1],
            "no answer for 2.0s: refused"
        );
        let both = frame(Some(&busy()), trouble);
        assert_eq!(both.lines[1].0, Tone::Bad);
        assert!(both.texts().contains(&"sagas: 12".to_owned()));
    }

    #[test]
    fn a_service_without_sagas_shows_its_outbox() {
        let look = Look {
            statuses: None,
            waiting: None,
            parked_sagas: None,
            anomalies: None,
            ..busy()
        };
        let told = frame(Some(&look), None).texts().join("\n");
        assert!(
            !told.contains("saga") && told.contains("outbox: 3"),
            "{told}"
        );
    }
}
