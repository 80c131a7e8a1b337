//! Faults of real processes, and an oracle outside of them: P1–P4 and P7–P10 under kill -9, SIGSTOP, crashes of Postgres
//! and of Kafka, and writers of every sort.
//!
//! A trial is a [`room::Room`] (a database and topics), one or more relays (children of ours, killed by their own pid), a
//! [`load::Load`] that notes in a [`journal::Journal`] what it meant to do and what became of it, and a
//! [`tape::Tape`] that reads the topics from their beginning. [`verdict`] compares the three.

mod journal;
mod load;
mod reader;
mod room;
mod tape;
mod verdict;

mod broker_faults;
mod crashes;
mod leaders;
mod restore;
mod server_faults;
mod storage;
mod writers;
