//! The proofs have no code of their own: everything is in `tests/it`.
