//! Who asks, where the service in front of these routes knows it.

use axum::Extension;

use crate::http::{body::Fields, problem::Problem};

/// Who asks, as a request extension: put there by whatever asked for his token. Then he is the actor
/// of what he does, whatever the body says. Without one the body says who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// His name: 1 to 200 bytes.
    pub name: String,
    /// What he may do at most; recorded with what he does.
    pub role: Option<String>,
    /// Whether they may give work up for good: abandon a saga, skip a compensation.
    pub may_give_up: bool,
}

impl Actor {
    /// Whoever asks: the one who is known, or the one whom the body names.
    pub(crate) fn of(known: Option<Extension<Self>>, fields: &mut Fields) -> Result<Self, Problem> {
        match known {
            Some(Extension(actor)) => {
                fields.optional_text("actor")?;
                Ok(actor)
            }
            None => Ok(Self {
                name: fields.text("actor")?,
                role: None,
                may_give_up: true,
            }),
        }
    }
}
