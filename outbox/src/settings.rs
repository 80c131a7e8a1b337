//! Settings that cannot work, in one line that names the setting.

use crate::Error;

/// Refuses the first setting that does not hold: its name, whether it holds, what it must be.
pub(crate) fn check(of: &str, settings: &[(&str, bool, &str)]) -> Result<(), Error> {
    match settings.iter().find(|(_, holds, _)| !holds) {
        None => Ok(()),
        Some((name, _, must)) => Err(Error::permanent(format!("{of}: {name} {must}"))),
    }
}
