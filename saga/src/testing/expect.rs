//! What is expected of a script. Each is about what the last happening did, or about where the saga
//! stands now.

use std::fmt::Debug;

use outbox::Payload;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    decide::{Command, Effect},
    event::{Event, IgnoredBecause},
    instance::{Status, WaitingFor},
    operation::Phase,
    testing::script::Script,
};

impl Script {
    /// The last happening sent this step's action.
    ///
    /// # Panics
    ///
    /// If it is not so, with the story so far; so do all other expectations.
    #[track_caller]
    pub fn expect_sent(self, step: &str) -> Self {
        let _command = self.sent(step, Phase::Action, false);
        self
    }

    /// The last happening sent this step's compensation.
    #[track_caller]
    pub fn expect_compensation_sent(self, step: &str) -> Self {
        let _command = self.sent(step, Phase::Compensation, false);
        self
    }

    /// The last happening asked what became of this step.
    #[track_caller]
    pub fn expect_probed(self, step: &str) -> Self {
        let _command = self.sent(step, Phase::Action, true);
        self
    }

    /// The last happening sent this step's action, with this command.
    #[track_caller]
    pub fn expect_command<C: Payload + PartialEq + Debug>(self, step: &str, command: &C) -> Self {
        self.expect_payload(step, Phase::Action, command)
    }

    /// The last happening sent this step's compensation, with this command.
    #[track_caller]
    pub fn expect_compensation<C: Payload + PartialEq + Debug>(
        self,
        step: &str,
        command: &C,
    ) -> Self {
        self.expect_payload(step, Phase::Compensation, command)
    }

    /// The last happening sent nothing.
    #[track_caller]
    pub fn expect_nothing_sent(self) -> Self {
        let first = self
            .commands()
            .next()
            .map(|command| command.operation.step.clone());
        match first {
            None => self,
            Some(step) => self.fail(format!("expected nothing to be sent, and {step} was")),
        }
    }

    /// The last happening changed nothing, for this reason.
    #[track_caller]
    pub fn expect_ignored(self, because: IgnoredBecause) -> Self {
        match &self.last.events[..] {
            [Event::Ignored { reason, .. }] if *reason == because => self,
            _ => self.fail(format!("expected it to be ignored as {because}")),
        }
    }

    /// Where the saga stands.
    #[track_caller]
    pub fn expect_status(self, status: Status) -> Self {
        let found = self.course.instance.status;
        match found == status {
            true => self,
            false => self.fail(format!("expected the saga to be {status}, it is {found}")),
        }
    }

    /// The steps that were left out, in order.
    #[track_caller]
    pub fn expect_skipped<const N: usize>(self, steps: [&str; N]) -> Self {
        self.expect_named("left out", &steps, |event| match event {
            Event::StepSkipped { step } => Some(step),
            _ => None,
        })
    }

    /// The steps that were undone, in the order in which they were; those with nothing to undo do not
    /// count.
    #[track_caller]
    pub fn expect_undone<const N: usize>(self, steps: [&str; N]) -> Self {
        self.expect_named("undone", &steps, |event| match event {
            Event::StepCompensated { step, .. } => Some(step),
            _ => None,
        })
    }

    /// The saga waits for a person, for a reason that contains this.
    #[track_caller]
    pub fn expect_parked_because(self, because: &str) -> Self {
        match &self.course.instance.parked_reason {
            Some(reason) if reason.contains(because) => self,
            Some(reason) => {
                let reason = reason.clone();
                self.fail(format!(
                    "expected it to be parked because {because:?}, it is because {reason:?}"
                ))
            }
            None => self.fail("expected it to be parked, it is not"),
        }
    }

    /// The saga turned back, for a reason that contains this.
    #[track_caller]
    pub fn expect_turned_back_because(self, because: &str) -> Self {
        match &self.course.instance.reason {
            Some(reason) if reason.contains(because) => self,
            Some(reason) => {
                let reason = reason.clone();
                self.fail(format!(
                    "expected it to turn back because {because:?}, it did because {reason:?}"
                ))
            }
            None => self.fail("expected it to turn back, it did not"),
        }
    }

    /// What the saga waits for first.
    #[track_caller]
    pub fn expect_waiting_for(self, what: WaitingFor, step: &str) -> Self {
        match self.course.instance.waiting() {
            Some(waiting) if waiting.what == what && waiting.step == step => self,
            _ => self.fail(format!("expected it to wait for {what} of {step}")),
        }
    }

    /// What the saga knows now.
    #[must_use]
    #[track_caller]
    pub fn data<D: DeserializeOwned>(&self) -> D {
        let data: Value = self.course.instance.data.clone();
        match serde_json::from_value(data) {
            Ok(data) => data,
            Err(error) => self.fail(format!("its data is not of that type: {error}")),
        }
    }

    /// The story so far.
    #[must_use]
    pub fn story(&self) -> String {
        self.told.told(&self.course.instance)
    }

    fn commands(&self) -> impl Iterator<Item = &Command> {
        self.last.effects.iter().filter_map(|effect| match effect {
            Effect::Send(command) => Some(command),
            _ => None,
        })
    }

    #[track_caller]
    fn sent(&self, step: &str, phase: Phase, probe: bool) -> &Command {
        let mut commands = self.commands();
        let sent = commands.find(|command| {
            command.operation.step == step
                && command.operation.phase == phase
                && command.probe == probe
        });
        match sent {
            Some(command) => command,
            None if probe => self.fail(format!("expected {step} to be probed")),
            None => self.fail(format!("expected the {phase} of {step} to be sent")),
        }
    }

    #[track_caller]
    fn expect_payload<C: Payload + PartialEq + Debug>(
        self,
        step: &str,
        phase: Phase,
        expected: &C,
    ) -> Self {
        let command = self.sent(step, phase, false);
        if command.kind != C::KIND {
            let kind = command.kind;
            self.fail(format!(
                "expected a command of kind {}, it is {kind}",
                C::KIND
            ));
        }
        match serde_json::from_slice::<C>(&command.payload) {
            Ok(found) if found == *expected => {}
            Ok(found) => self.fail(format!("expected {expected:?} to be sent, it is {found:?}")),
            Err(error) => self.fail(format!("the command cannot be read: {error}")),
        }
        self
    }

    #[track_caller]
    fn expect_named(
        self,
        what: &str,
        expected: &[&str],
        name: impl Fn(&Event) -> Option<&String>,
    ) -> Self {
        let found: Vec<_> = self.history.iter().filter_map(name).cloned().collect();
        match found == expected {
            true => self,
            false => self.fail(format!(
                "expected {expected:?} to be {what}, it is {found:?}"
            )),
        }
    }
}
