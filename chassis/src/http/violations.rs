//! Checks that a type cannot express, collected: a client learns of all wrong fields at once.

use crate::http::problem::{FieldError, Problem};

/// The wrong fields found so far.
///
/// ```
/// use chassis::http::Violations;
///
/// let mut violations = Violations::new();
/// violations.check(3 > 0, "items[0].quantity", "must be at least 1");
/// violations.check("".len() == 5, "delivery.postcode", "must have five digits");
/// let problem = violations.into_result().unwrap_err();
/// assert_eq!(problem.errors()[0].field, "delivery.postcode");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Violations(Vec<FieldError>);

impl Violations {
    /// None so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that `field` is wrong unless `holds`. `message` says what it must be.
    pub fn check(&mut self, holds: bool, field: impl Into<String>, message: impl Into<String>) {
        if !holds {
            self.0.push(FieldError::new(field, message));
        }
    }

    /// `Ok` when nothing was wrong.
    ///
    /// # Errors
    /// 422 naming every wrong field, in the order of the checks.
    pub fn into_result(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid_content(self.0))
        }
    }
}
