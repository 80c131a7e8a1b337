//! Orders by the thousand while everything dies, and an oracle outside of the shop: I6 (money) and I7 (every saga ends, and
//! goes back in order).
//!
//! A trial is a [`room::Room`] (a shop of its own with two order-services, on servers of its own), a [`program::Program`] of
//! orders drawn by seed, a [`load::Load`] that places them and notes what it was answered, [`faults`] that each prove that
//! they struck, a detector of what is [`stuck`], and a [`model`] that says where all money and every parcel must be.

mod faults;
mod load;
mod model;
mod program;
mod room;
mod stuck;

mod storm;
