//! A panic becomes an error of the item it was met with, and says what it said.
//!
//! A closure or a handler of a user's may panic. Nothing that holds for other items is changed by
//! code that panics inside a transaction: the transaction is rolled back.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use futures::FutureExt;

use crate::Error;

/// Longer texts of panics are cut.
const LONGEST: usize = 500;

/// Runs `work`; a panic in it is an [`Error::Permanent`] with its text.
///
/// # Errors
///
/// The work's own, or the panic.
pub async fn caught<T, E: From<Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(panicked(&*panic).into()))
}

/// The same for code that does not wait.
///
/// # Errors
///
/// The work's own, or the panic.
pub fn caught_in<T, E: From<Error>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic).into()))
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("without a text");
    let text: String = text.chars().take(LONGEST).collect();
    Error::permanent(format!("panicked: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_that_says_what_it_said() {
        let work = async { panic!("no row {}", 7) };
        let error = caught::<(), Error>(work).await.unwrap_err();
        assert_eq!(error.to_string(), "panicked: no row 7");
        assert!(!error.is_transient());
        let error = caught_in::<(), Error>(|| panic!("plain")).unwrap_err();
        assert_eq!(error.to_string(), "panicked: plain");
        assert_eq!(caught_in::<_, Error>(|| Ok(1)).unwrap(), 1);
    }
}
