//! Waiting until what was there at start has been handled.
//!
//! What passes here: a process that was away and has work of its own which depends on messages that came
//! meanwhile; a saga's timers, say, must not count an answer as overdue that waits in the broker. Promised:
//! everything in the topics when the broker first answered has been handled by the group, whichever of
//! its members did it; or the wait was given up, with a line in the log. Not promised: that what came
//! since has been.

use std::{collections::HashMap, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Progress};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the group may take, from when the broker has said where the topics end.
const HANDLING: Duration = Duration::from_secs(60);
/// How long the broker may take to say so.
const ANSWERING: Duration = Duration::from_secs(10 * 60);

/// Waits until `group` has handled what is in these topics now, by what it has committed. Returns
/// whether it has; not when told to stop first, nor when the broker does not answer for ten minutes
/// or the group has not come so far within one. A broker that cannot tell is not waited for.
pub async fn caught_up(
    broker: &dyn Broker,
    group: &str,
    topics: &[&str],
    shutdown: &CancellationToken,
) -> bool {
    let waiting = caught_up_within(broker, group, topics, (ANSWERING, HANDLING));
    shutdown.run_until_cancelled(waiting).await.unwrap_or(false)
}

async fn caught_up_within(
    broker: &dyn Broker,
    group: &str,
    topics: &[&str],
    (answering, handling): (Duration, Duration),
) -> bool {
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    let mut deadline = Instant::now() + answering;
    let mut ends = None;
    loop {
        let missing = match broker.progress(group, &topics).await {
            Ok(None) => return true,
            Ok(Some(progress)) => {
                let ends = ends.get_or_insert_with(|| {
                    deadline = Instant::now() + handling;
                    ends_of(&progress)
                });
                let missing = missing(&progress, ends);
                if missing == 0 {
                    return true;
                }
                format!("{missing} messages of before")
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            tracing::warn!(
                group,
                ?topics,
                missing,
                "not caught up, going on nevertheless"
            );
            return false;
        }
        sleep(PAUSE).await;
    }
}

type Ends = HashMap<(String, i32), i64>;

fn ends_of(progress: &[Progress]) -> Ends {
    let ends = progress.iter();
    ends.map(|p| ((p.topic.clone(), p.partition), p.end))
        .collect()
}

/// How many of the records below these ends the group has yet to handle.
fn missing(progress: &[Progress], ends: &Ends) -> i64 {
    let missing = progress.iter().map(|p| {
        let end = ends.get(&(p.topic.clone(), p.partition));
        end.map_or(0, |end| (end - p.next).max(0))
    });
    missing.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_is_not_waited_for_and_a_partition_that_is_new_neither() {
        let at = |partition, next, end| Progress {
            topic: "replies".to_owned(),
            partition,
            next,
            end,
        };
        let ends = ends_of(&[at(0, 0, 5), at(1, 7, 7)]);
        assert_eq!(missing(&[at(0, 0, 9), at(1, 7, 9)], &ends), 5);
        assert_eq!(missing(&[at(0, 4, 9), at(1, 7, 9)], &ends), 1);
        assert_eq!(missing(&[at(0, 5, 9), at(1, 7, 9), at(2, 0, 3)], &ends), 0);
    }
}
