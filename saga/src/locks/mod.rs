//! Semantic locks: what several sagas may not do at once.
//!
//! A saga has no isolation; where that matters, it claims a resource by name. A resource has a
//! capacity, a claim takes units of it; capacity 1 and units 1 make an exclusive lock. Claims are
//! granted first come, first served: whoever comes after one who waits, waits too, even if it
//! would fit, so that a large claim is not starved by small ones.
//!
//! What passes here: the claims of sagas whose rows the caller has locked, in the caller's
//! transaction. Promised: what is held together never exceeds the capacity at the time of granting;
//! a claim is granted once, in order; nothing is taken away from a saga, however long it holds it;
//! a resource that nobody claims leaves no row. Not promised: that a saga waiting for one resource
//! while it holds another ever gets it. Claims of one call cannot wait for each other in a circle,
//! claims of different calls can: claim in one call, or in the same order everywhere. [`Watch`]
//! tells of old claims. If we die here, the transaction is rolled back: nobody has claimed or
//! given up anything.
//!
//! **Order of locking**: instances, then resources by name, and nothing after them that another
//! turn may hold. One call of [`acquire`], [`release`] or [`exchange`] takes all its resources in
//! one order, so two of them never wait for each other; *two calls in one transaction can*. Whoever
//! has both to give up and to claim uses [`exchange`].
//!
//! **Whose turn it is**: a release grants claims of sagas whose rows it does not hold. It must not
//! write their timers either: their own turn may hold those and wait for the resource. The grant
//! is therefore a state of the claim, and whoever calls [`notice`] locks the saga, takes note, and
//! can then write the saga's timer. A saga cancelled meanwhile gives its claim up, granted or
//! waiting, under the resource's lock; either order of the two leaves one truth.
//!
//! **Until when**: a saga that turns back gives up at once what it does not hold yet; one that ends
//! gives up everything, in the transaction that ends it. What is to be given up is asked of the
//! claims themselves, never of what the saga remembers of them. [`Watch`] gives up what an ended saga
//! claims nevertheless.
//!
//! **Another capacity**: the latest new claim says it; a repeated one says nothing. Raised, it lets
//! in who waits. Lowered, nobody loses what is held, and nothing more is granted until it fits
//! again; one who already waits with more than the new capacity gets its turn alone, when nobody
//! else holds anything.

mod claim;
mod line;
mod table;

mod exchange;
mod list;
mod watch;

pub use claim::{Acquired, Claim, ClaimState, Granted};
pub(crate) use exchange::keep_only;
pub use exchange::{Exchanged, acquire, exchange, notice, release};
pub use list::{Claimant, Filter, Lock, list};
pub use watch::{Seen, Watch};
