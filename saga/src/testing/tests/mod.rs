//! The kit, tried itself: a sound saga passes all of it, and everything broken fails.

mod absorb;
mod broken;
mod mistakes;
mod sagas;
mod scripts;
mod sound;
mod worlds;
