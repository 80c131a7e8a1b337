//! For tests only: what users of this crate try *their* sagas and participants with. Only with the
//! feature `testing`.

pub mod conformance;
