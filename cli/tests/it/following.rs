//! `recompense saga events --follow`.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout},
    time::timeout,
};
use uuid::Uuid;

use crate::{room::SOON, served::Service};

/// The program, following a saga, and what it says.
struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn start(service: &Service, arguments: &str) -> Self {
        let mut command = service.command(&format!("events {arguments} --follow"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line; none at the end.
    async fn next(&mut self) -> Option<String> {
        let line = timeout(SOON, self.lines.next_line()).await;
        line.expect("a line or the end").unwrap()
    }

    /// The numbers and types of what is left, to the end.
    async fn rest(&mut self) -> Vec<(i64, String)> {
        let mut all = Vec::new();
        while let Some(line) = self.next().await {
            all.push(told(&line));
        }
        all
    }

    async fn status(&mut self) -> Option<i32> {
        let status = timeout(SOON, self.child.wait()).await;
        status.expect("it ends").unwrap().code()
    }
}

fn told(line: &str) -> (i64, String) {
    let recorded: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    let kind = recorded["event"]["type"].as_str().unwrap();
    (recorded["seq"].as_i64().unwrap(), kind.to_owned())
}

async fn compensate(service: &Service, id: Uuid) {
    service
        .says(&format!("skip {id} hold --reason byhand --yes"))
        .await;
}

#[tokio::test]
async fn a_history_is_told_as_it_happens_each_event_once_until_the_end() {
    let mut service = Service::open("follow").await;
    let id = service.start().await;
    let mut following = Following::start(&service, &format!("{id} --output json"));
    assert_eq!(told(&following.next().await.unwrap()).1, "started");
    assert_eq!(told(&following.next().await.unwrap()).1, "command_sent");
    service.says(&format!("cancel {id} --reason x --yes")).await;
    assert_eq!(told(&following.next().await.unwrap()).0, 3);
    // The service goes away and comes back, and something has happened meanwhile.
    service.go().await;
    service.is_asked_in_vain().await;
    service.come().await;
    compensate(&service, id).await;
    let rest = following.rest().await;
    let numbers: Vec<_> = rest.iter().map(|(seq, _)| *seq).collect();
    let last = numbers.last().copied().unwrap();
    assert_eq!(numbers, (4..=last).collect::<Vec<_>>());
    assert_eq!(rest.last().unwrap().1, "compensated");
    assert_eq!(following.status().await, Some(0));

    // Of one that has ended everything is told, or what is left.
    let all = Following::start(&service, &format!("{id} --output json"))
        .rest()
        .await;
    assert_eq!(all.len() as i64, last);
    let mut none = Following::start(&service, &format!("{id} --after {last}"));
    assert_eq!((none.next().await, none.status().await), (None, Some(0)));
    let mut text = Following::start(&service, &format!("{id} --after {}", last - 1));
    let line = text.next().await.unwrap();
    assert!(
        line.starts_with(&last.to_string()) && line.ends_with(" compensated"),
        "{line}"
    );
    assert_eq!((text.next().await, text.status().await), (None, Some(0)));
}

#[tokio::test]
async fn ctrl_c_ends_it_cleanly_and_what_is_not_there_is_refused() {
    let service = Service::open("follow_end").await;
    let id = service.start().await;
    let mut following = Following::start(&service, &id.to_string());
    assert!(following.next().await.unwrap().contains("started"));
    testbed::signal(following.child.id().unwrap(), "INT").unwrap();
    assert_eq!(following.status().await, Some(0));

    let unknown = format!("events {} --follow", Uuid::now_v7());
    let ran = service.run(&unknown).await;
    ran.is_refusal(&unknown, 1, "there is no saga with this id (404)");
    let both = format!("events {id} --follow --limit 3");
    let ran = service.run(&both).await;
    ran.is_refusal(&both, 2, "cannot be used with");
}
