//! `recompense saga events --follow`: a saga's history, as it happens.
//!
//! The stream may break at any time: a replica ends, a connection is lost. It is taken up after the last event that
//! was shown, so each is shown once.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::{signal::ctrl_c, time::sleep};

use crate::{
    print,
    saga::look::what,
    service::{Common, Failure, Service, text},
    sse::Events,
};

/// Before a stream that broke is taken up; the service asks for so much.
const PAUSE: Duration = Duration::from_secs(2);

/// Shows what came after event `after`, then what comes. Ends when the saga has, or with Ctrl-C.
pub(crate) async fn follow(common: &Common, id: &str, after: i64) -> Result<()> {
    tokio::select! {
        followed = run(common, id, after) => followed,
        pressed = ctrl_c() => pressed.context("cannot wait for Ctrl-C"),
    }
}

async fn run(common: &Common, id: &str, after: i64) -> Result<()> {
    let service = common.service()?;
    let mut place = Place {
        common,
        shown: after,
        // Of one that has ended nothing comes after this.
        end: None,
    };
    place.look(&service, id).await?;
    let mut told_away = false;
    while !place.is_at_end() {
        match place.watch(&service, id).await {
            Ok(()) => {}
            Err(error) if Failure::may_pass(&error) => {
                if !told_away {
                    let error = print::printable_lines(&format!("{error:#}"));
                    eprintln!("… {error}; trying on");
                }
                told_away = true;
            }
            Err(error) => return Err(error),
        }
        if !place.is_at_end() {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Up to where a history was shown.
struct Place<'a> {
    common: &'a Common,
    shown: i64,
    end: Option<i64>,
}

impl Place<'_> {
    fn is_at_end(&self) -> bool {
        self.end.is_some_and(|end| self.shown >= end)
    }

    /// Whether it has ended already.
    async fn look(&mut self, service: &Service, id: &str) -> Result<()> {
        let saga = service.get(&["sagas", id], Vec::new()).await?;
        if !saga["ended_at"].is_null() {
            self.end = saga["seq"].as_i64();
        }
        Ok(())
    }

    /// Shows one stream to its end.
    async fn watch(&mut self, service: &Service, id: &str) -> Result<()> {
        let last = self.shown.to_string();
        let path = ["sagas", id, "events"];
        let answer = service.stream(&path, Vec::new(), Some(&last)).await?;
        let mut events = Events::of(answer);
        while let Some(told) = events.next().await? {
            if told.name != "recorded" {
                continue;
            }
            let recorded: Value = serde_json::from_str(&told.data)
                .context("the service told something that is no JSON; check --url")?;
            self.show(&recorded)?;
            if self.is_at_end() {
                break;
            }
        }
        Ok(())
    }

    fn show(&mut self, recorded: &Value) -> Result<()> {
        let seq = recorded["seq"].as_i64().context("an event has no number")?;
        if seq <= self.shown {
            return Ok(());
        }
        self.shown = seq;
        let event = &recorded["event"];
        let ends = ["completed", "compensated", "abandoned"].map(Value::from);
        if self.end.is_none() && ends.contains(&event["type"]) {
            self.end = Some(seq);
        }
        if self.common.is_json() {
            return print::json_line(recorded);
        }
        let [at, kind, step] = [&recorded["at"], &event["type"], &event["step"]].map(text);
        let line = format!("{seq:<5} {at:<27} {kind:<24} {step:<20} {}", what(event));
        print::lines(&[line.trim_end().to_owned()])
    }
}
