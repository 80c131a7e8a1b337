//! Places at which a test lets a relay die, as if somebody had pulled the plug between two statements.
//!
//! With the feature `crash-points` the environment variable `CRASH_AT=place:n` aborts the process when
//! it passes `place` for the n-th time (`:n` left out means the first). Without the feature, and it is
//! in no release, the calls compile to nothing.
//!
//! | place | lies before or after |
//! |---|---|
//! | `after_lease` | the lease is taken, nothing is read |
//! | `before_read`, `after_read` | a page is read |
//! | `before_produce`, `after_produce` | a record is given to the broker's client |
//! | `before_ack`, `after_ack` | an acknowledgement is counted |
//! | `before_cursor`, `after_cursor` | the cursor is written down |
//! | `before_park`, `after_park` | a poisoned record is kept and the cursor moved, by one commit |
//! | `before_hold`, `after_hold` | messages of a topic that refuses are kept, by one commit |
//! | `before_unpark`, `after_unpark` | held messages, acknowledged at last, are forgotten, by one commit |
//! | `before_truncate`, `after_truncate` | the partition ahead is emptied, by one commit |
//! | `before_release`, `after_release` | a stopping leader gives the lease back |

#[cfg(feature = "crash-points")]
pub(crate) fn point(place: &str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    static CHOSEN: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let text = std::env::var("CRASH_AT").ok()?;
        let (place, passing) = text.split_once(':').unwrap_or((&text, "1"));
        let passing = passing.parse().unwrap_or(1);
        Some((place.to_owned(), AtomicU64::new(passing)))
    });
    if let Some((chosen, left)) = &*CHOSEN
        && chosen == place
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        eprintln!("crash point {place}");
        std::process::abort();
    }
}

#[cfg(not(feature = "crash-points"))]
pub(crate) fn point(_place: &str) {}
