//! One case after the other.

use outbox::broker::Broker;

use crate::{
    Error,
    testing::conformance::{
        cases,
        line::Line,
        report::{Case, Deviation, Report, Verdict},
        room::{Room, Stop},
        subject::{Options, Subject},
    },
};

/// Tries every case. The participant is running, or about to: the first reply is waited for like
/// any other. If it does not come at all, the other cases fail without being tried.
///
/// # Errors
///
/// When the suite itself cannot go on: the broker is away, the effects cannot be counted, the
/// subject lacks one of its commands.
pub async fn run(
    broker: &dyn Broker,
    subject: &Subject,
    options: &Options,
) -> Result<Report, Error> {
    let line = Line::open(broker, subject).await?;
    let room = Room {
        line: &line,
        subject,
        options,
    };
    let tried = try_all(&room).await;
    line.close().await;
    tried
}

async fn try_all(room: &Room<'_>) -> Result<Report, Error> {
    let mut report = Report {
        verdicts: Vec::new(),
        seed: room.options.seed,
        counted_effects: room.subject.counts_effects(),
    };
    let mut is_silent = false;
    for case in Case::ALL {
        let is_left_out = case.probes() && !room.options.probe
            || case.stumbles() && !room.subject.stumbles()
            || *case == Case::LongBegun && !room.options.forgets;
        if is_left_out {
            continue;
        }
        let result = match is_silent {
            true => Err(untried()),
            false => match cases::attempt(*case, room).await {
                Ok(()) => Ok(()),
                Err(Stop::Deviates(deviation)) => Err(deviation),
                Err(Stop::Broken(error)) => return Err(error),
            },
        };
        report.verdicts.push(Verdict {
            case: *case,
            result,
        });
        is_silent = !room.line.has_heard();
    }
    Ok(report)
}

/// Waiting in vain for each of them would take long and say nothing new.
fn untried() -> Deviation {
    Deviation {
        expected: "a participant that answers".to_owned(),
        seen: "not tried, because nothing was ever answered: is it running, and does it take \
               commands from this topic?"
            .to_owned(),
    }
}
