//! Where a case is tried: makes sagas, sends their commands and judges what comes back.

use uuid::Uuid;

use crate::{
    Error, Operation, Phase,
    testing::conformance::{
        draft::Draft,
        line::Line,
        reply::Reply,
        report::Deviation,
        subject::{Effects, Options, Subject},
    },
    wire::Outcome,
};

/// The step of a command that is sent only to see that those before it are through.
const FENCE: &str = "conformance-fence";

/// Why a case ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It failed.
    Deviates(Deviation),
    /// It cannot be tried.
    Broken(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

pub(crate) type Tried = Result<(), Stop>;

/// Ends a case.
pub(crate) fn deviates(expected: impl Into<String>, seen: impl Into<String>) -> Stop {
    Stop::Deviates(Deviation {
        expected: expected.into(),
        seen: seen.into(),
    })
}

pub(crate) struct Room<'a> {
    pub(crate) line: &'a Line,
    pub(crate) subject: &'a Subject,
    pub(crate) options: &'a Options,
}

impl Room<'_> {
    /// One that nobody has heard of.
    pub(crate) fn saga(&self) -> Result<Saga<'_>, Error> {
        let id = Uuid::now_v7();
        self.line.listen_for(id);
        let draft = |step: &str, phase, request| {
            let operation = Operation {
                saga_id: id,
                step: step.to_owned(),
                phase,
                round: 1,
            };
            Draft::new(operation, request)
        };
        let (subject, step) = (self.subject, self.subject.step.as_str());
        let undo = subject.ask_compensation(id)?;
        let stumbling = match subject.stumbles() {
            true => subject.ask_stumbling(id)?,
            false => subject.ask_action(id)?,
        };
        Ok(Saga {
            room: self,
            id,
            action: draft(step, Phase::Action, subject.ask_action(id)?),
            refused: draft(step, Phase::Action, subject.ask_refused(id)?),
            stumbling: draft(step, Phase::Action, stumbling),
            compensation: draft(step, Phase::Compensation, undo.clone()),
            fence: draft(FENCE, Phase::Compensation, undo),
        })
    }

    pub(crate) async fn send(&self, drafts: &[&Draft]) -> Tried {
        Ok(self.line.send(drafts).await?)
    }
}

/// A saga and its first round's commands.
pub(crate) struct Saga<'a> {
    pub(crate) room: &'a Room<'a>,
    pub(crate) id: Uuid,
    pub(crate) action: Draft,
    pub(crate) refused: Draft,
    pub(crate) stumbling: Draft,
    pub(crate) compensation: Draft,
    fence: Draft,
}

impl Saga<'_> {
    /// Sends one command and waits for what it is answered.
    pub(crate) async fn ask(&self, draft: &Draft, outcome: Outcome) -> Result<Reply, Stop> {
        self.room.send(&[draft]).await?;
        self.answered(draft, outcome, 1).await
    }

    /// Waits until the command's operation has so many replies. All say the same, and this.
    pub(crate) async fn answered(
        &self,
        draft: &Draft,
        outcome: Outcome,
        count: usize,
    ) -> Result<Reply, Stop> {
        let expected = format!("{count} × `{outcome}` to {}", name(draft));
        let reply = self.answer(draft, count).await?;
        match &reply.read {
            Ok(read) if read.outcome == outcome => Ok(reply),
            _ => Err(deviates(expected, self.told().await?)),
        }
    }

    /// Waits until the command's operation has so many replies, at least one. All say the same.
    pub(crate) async fn answer(&self, draft: &Draft, count: usize) -> Result<Reply, Stop> {
        let expected = || format!("{count} equal replies to {}", name(draft));
        let operation = &draft.operation;
        let answers = |replies: &[Reply]| -> Vec<Reply> {
            let speaks_of =
                |reply: &&Reply| reply.read.as_ref().is_ok_and(|r| r.operation == *operation);
            replies.iter().filter(speaks_of).cloned().collect()
        };
        let patience = self.room.options.patience;
        let enough = |replies: &[Reply]| answers(replies).len() >= count;
        let replies = self.room.line.wait(self.id, patience, enough).await?;
        let answers = answers(&replies);
        let Some(first) = answers.first().filter(|_| answers.len() >= count) else {
            return Err(deviates(expected(), describe(&replies)));
        };
        let others = answers.iter().filter(|reply| !reply.says_the_same(first));
        match others.count() {
            0 => Ok(first.clone()),
            others => {
                let seen = format!("{others} differ from the first: {}", describe(&answers));
                Err(deviates(expected(), seen))
            }
        }
    }

    /// Sees to it that everything sent to this saga's record key so far is through: a compensation
    /// of a step that never was changes nothing, and comes after it.
    pub(crate) async fn fence(&self) -> Tried {
        self.room.send(&[&self.fence]).await?;
        self.answer(&self.fence, 1).await?;
        Ok(())
    }

    /// After the fence: nothing but so many replies came, the fence's not counted.
    pub(crate) async fn heard_only(&self, count: usize) -> Tried {
        let replies = self.heard().await?;
        let is_fence = |reply: &&Reply| {
            let read = reply.read.as_ref();
            read.is_ok_and(|reply| reply.operation == self.fence.operation)
        };
        if replies.iter().filter(|reply| !is_fence(reply)).count() == count {
            return Ok(());
        }
        let expected = format!("{count} replies and no other");
        Err(deviates(expected, describe(&replies)))
    }

    /// So many effects, where they are counted.
    pub(crate) async fn effects(&self, executed: i64, remaining: i64) -> Tried {
        let expected = Effects {
            executed,
            remaining,
        };
        match self.room.subject.count(self.id).await? {
            Some(seen) if seen != expected => {
                let seen = format!("{seen}, after {}", self.told().await?);
                Err(deviates(expected.to_string(), seen))
            }
            _ => Ok(()),
        }
    }

    /// Everything answered so far, for a person.
    pub(crate) async fn told(&self) -> Result<String, Stop> {
        Ok(describe(&self.heard().await?))
    }

    async fn heard(&self) -> Result<Vec<Reply>, Stop> {
        let patience = self.room.options.patience;
        Ok(self.room.line.wait(self.id, patience, |_| true).await?)
    }
}

fn name(draft: &Draft) -> String {
    let Operation { phase, round, .. } = &draft.operation;
    format!("the {phase} of round {round}")
}

fn describe(replies: &[Reply]) -> String {
    if replies.is_empty() {
        return "no reply".to_owned();
    }
    let replies: Vec<String> = replies.iter().map(Reply::to_string).collect();
    replies.join("; ")
}
