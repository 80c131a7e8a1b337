//! The cases, by what they are about.

mod answers;
mod consistent;
mod malformed;
mod order;
mod probes;
mod races;

use crate::testing::conformance::{
    report::Case,
    room::{Room, Tried},
};

/// Tries one case.
pub(crate) async fn attempt(case: Case, room: &Room<'_>) -> Tried {
    match case {
        Case::ActionSucceeds => answers::action_succeeds(room).await,
        Case::ActionRepeated => answers::action_repeated(room).await,
        Case::ActionRedelivered => answers::action_redelivered(room).await,
        Case::RefusalStored => answers::refusal_stored(room).await,
        Case::NewRoundAfterRefusal => answers::new_round_after_refusal(room).await,
        Case::CompensationUndoes => order::compensation_undoes(room).await,
        Case::CompensationRepeated => order::compensation_repeated(room).await,
        Case::ActionRepeatedAfterCompensation => {
            order::action_repeated_after_compensation(room).await
        }
        Case::CompensationFirst => order::compensation_first(room).await,
        Case::NewRoundAfterCompensation => order::new_round_after_compensation(room).await,
        Case::RefusalCompensated => order::refusal_compensated(room).await,
        Case::ActionExpired => order::action_expired(room).await,
        Case::CompensationNeverExpires => order::compensation_never_expires(room).await,
        Case::RacedOnOneKey => races::raced_on_one_key(room).await,
        Case::RacedAcrossPartitions => races::raced_across_partitions(room).await,
        Case::ProbeOfAnswered => probes::probe_of_answered(room).await,
        Case::ProbeOfUnknown => probes::probe_of_unknown(room).await,
        Case::Storm => races::storm(room).await,
        Case::ActionStumbles => answers::action_stumbles(room).await,
        Case::StumblingCompensated => races::stumbling_compensated(room).await,
        Case::LongBegun => order::long_begun(room).await,
        Case::UnknownKind => malformed::unknown_kind(room).await,
        Case::MissingHeader => malformed::missing_header(room).await,
        Case::UnreadableHeader => malformed::unreadable_header(room).await,
        Case::WrongOpKey => malformed::wrong_op_key(room).await,
        Case::GarbagePayload => malformed::garbage_payload(room).await,
    }
}
