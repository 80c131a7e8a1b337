//! The line to the participant: commands go out on one topic, replies come in on another.

use std::{collections::HashMap, time::Duration};

use outbox::broker::{Broker, Delivery, Outgoing, Producer, SendError, Subscription, Tuning};
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::{
    Error,
    testing::conformance::{draft::Draft, reply::Reply, subject::Subject},
};

/// How long the broker may take to acknowledge a command.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(30);
/// How long we may take to join our group.
const JOINED_WITHIN: Duration = Duration::from_secs(60);
/// How long the reader waits before it looks whether it should end.
const POLL: Duration = Duration::from_millis(100);

/// What was heard so far.
#[derive(Default)]
struct Heard {
    /// By saga, in the order of arrival. Sagas that are not in it are none of ours.
    replies: HashMap<Uuid, Vec<Reply>>,
    /// Whether anything can be heard yet.
    joined: bool,
    /// Why nothing more will be heard.
    deaf: Option<String>,
}

pub(crate) struct Line {
    commands: String,
    replies: String,
    producer: Box<dyn Producer>,
    deliveries: Mutex<mpsc::UnboundedReceiver<Delivery>>,
    heard: watch::Sender<Heard>,
    reader: JoinHandle<()>,
    reading: DropGuard,
}

impl Line {
    /// Returns when we can hear, so that no participant is blamed for our own slow start.
    pub(crate) async fn open(broker: &dyn Broker, subject: &Subject) -> Result<Self, Error> {
        let line = Self::dial(broker, subject)?;
        let mut heard = line.heard.subscribe();
        let ready = heard.wait_for(|heard| heard.joined || heard.deaf.is_some());
        let reason = match timeout(JOINED_WITHIN, ready).await {
            Ok(Ok(heard)) => heard.deaf.clone(),
            Ok(Err(_)) | Err(_) => {
                let topic = &line.replies;
                Some(format!("the topic {topic} cannot be read: does it exist?"))
            }
        };
        match reason {
            None => Ok(line),
            Some(reason) => Err(broken(reason)),
        }
    }

    fn dial(broker: &dyn Broker, subject: &Subject) -> Result<Self, Error> {
        let (report, deliveries) = mpsc::unbounded_channel();
        let producer = broker.producer(&Tuning::default(), report)?;
        // A group of its own: whoever runs beside us hears everything too.
        let group = format!("conformance-{}", Uuid::now_v7().simple());
        let subscription = broker.subscribe(&group, std::slice::from_ref(&subject.replies))?;
        let heard = watch::Sender::new(Heard::default());
        let stop = CancellationToken::new();
        let reader = {
            let (heard, stop) = (heard.clone(), stop.clone());
            tokio::task::spawn_blocking(move || read(&*subscription, &heard, &stop))
        };
        Ok(Self {
            commands: subject.commands.clone(),
            replies: subject.replies.clone(),
            producer,
            deliveries: Mutex::new(deliveries),
            heard,
            reader,
            reading: stop.drop_guard(),
        })
    }

    /// Hangs up and waits until that is done.
    pub(crate) async fn close(self) {
        drop(self.reading);
        let producer = self.producer;
        // Both block. Neither can fail but by a panic, which has been reported then.
        let _ = tokio::task::spawn_blocking(move || producer.abandon()).await;
        let _ = self.reader.await;
    }

    /// From now on replies to this saga are kept.
    pub(crate) fn listen_for(&self, saga_id: Uuid) {
        self.heard.send_modify(|heard| {
            heard.replies.entry(saga_id).or_default();
        });
    }

    /// Sends them one right after the other; returns when the broker has them all.
    pub(crate) async fn send(&self, drafts: &[&Draft]) -> Result<(), Error> {
        let mut deliveries = self.deliveries.lock().await;
        let mut open = 0;
        for (token, draft) in drafts.iter().enumerate() {
            let headers = draft.headers(&self.replies);
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            loop {
                let record = Outgoing {
                    topic: &self.commands,
                    key: draft.record_key(),
                    payload: draft.payload(),
                    headers: &headers,
                };
                match self.producer.send(token, record) {
                    Ok(()) => break,
                    Err(SendError::Full) if open > 0 => {
                        acknowledged(&mut deliveries).await?;
                        open -= 1;
                    }
                    Err(SendError::Full) => return Err(broken("the producer is full".to_owned())),
                    Err(SendError::Failed(failure)) => return Err(broken(failure.reason)),
                }
            }
            open += 1;
        }
        for _ in 0..open {
            acknowledged(&mut deliveries).await?;
        }
        Ok(())
    }

    /// Whether anything was ever answered to any saga of ours.
    pub(crate) fn has_heard(&self) -> bool {
        let heard = self.heard.borrow();
        heard.replies.values().any(|replies| !replies.is_empty())
    }

    /// Waits until the replies to a saga are what is wanted, at most so long. Returns them as they
    /// are then.
    pub(crate) async fn wait(
        &self,
        saga_id: Uuid,
        patience: Duration,
        wanted: impl Fn(&[Reply]) -> bool,
    ) -> Result<Vec<Reply>, Error> {
        let of = |heard: &Heard| heard.replies.get(&saga_id).cloned().unwrap_or_default();
        let mut heard = self.heard.subscribe();
        let enough = heard.wait_for(|heard| heard.deaf.is_some() || wanted(&of(heard)));
        // Too late is not an error here: the caller sees what is missing.
        let _ = timeout(patience, enough).await;
        let heard = self.heard.borrow();
        match &heard.deaf {
            Some(reason) => Err(broken(reason.clone())),
            None => Ok(of(&heard)),
        }
    }
}

async fn acknowledged(deliveries: &mut mpsc::UnboundedReceiver<Delivery>) -> Result<(), Error> {
    let delivery = timeout(ACKNOWLEDGED_WITHIN, deliveries.recv()).await;
    let Ok(Some(delivery)) = delivery else {
        let seconds = ACKNOWLEDGED_WITHIN.as_secs();
        let reason = format!("a command was not acknowledged within {seconds} s");
        return Err(broken(reason));
    };
    delivery.result.map_err(|failure| broken(failure.reason))
}

fn read(subscription: &dyn Subscription, heard: &watch::Sender<Heard>, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        heard.send_if_modified(|heard| {
            let was_joined = std::mem::replace(&mut heard.joined, subscription.has_joined());
            was_joined != heard.joined
        });
        match subscription.poll(POLL) {
            Ok(None) => {}
            Ok(Some(record)) => {
                let reply = Reply::new(record);
                heard.send_if_modified(|heard| {
                    let saga = reply.saga_id();
                    let replies = saga.and_then(|saga| heard.replies.get_mut(&saga));
                    replies.map(|replies| replies.push(reply)).is_some()
                });
            }
            Err(error) => {
                heard.send_modify(|heard| heard.deaf = Some(error.to_string()));
                break;
            }
        }
    }
    subscription.leave();
}

fn broken(reason: String) -> Error {
    outbox::Error::Broker(reason).into()
}
