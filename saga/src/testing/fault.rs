//! What can go wrong between a saga and a step's participant, by name.

use crate::words::words;

words! {
    /// One thing that goes wrong once, at one command of one step.
    pub enum Fault {
        /// The participant refuses.
        Refuses = "refuses",
        /// The participant fails twice and carries it out at the third delivery.
        Transient = "transient",
        /// The command is lost; the saga's patience ends.
        TimeoutNotExecuted = "timeout_not_executed",
        /// It is carried out and the answer is lost; the saga's patience ends.
        TimeoutExecuted = "timeout_executed",
        /// The command arrives twice.
        DuplicateCommand = "duplicate_command",
        /// The answer arrives twice.
        DuplicateReply = "duplicate_reply",
        /// The answer arrives long after the saga's patience has ended.
        LateReply = "late_reply",
        /// An answer comes that names another step.
        WrongStep = "wrong_step",
        /// An answer comes that names a saga that does not exist.
        UnknownSaga = "unknown_saga",
    }
}
