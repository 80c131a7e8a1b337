//! Which sagas are meant: the filters of the list, and of whatever is done to many.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use crate::instance::{Status, WaitingFor};

/// Which sagas; every one where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub struct Selection {
    /// Of that definition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// Of that version of it, or of any definition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 2_147_483_647_i64)]
    pub version: Option<i32>,
    /// That stand there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub status: Option<Status>,
    /// With that business key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_key: Option<String>,
    /// Whose business keys begin like that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_key_prefix: Option<String>,
    /// With that tag: `name:value`.
    #[schema(value_type = Option<String>, example = "customer:018f3b2e")]
    #[param(value_type = Option<String>, pattern = "^[^:]+:", example = "customer:018f3b2e")]
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "tag")]
    pub tag: Option<(String, String)>,
    /// That wait for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub waiting_for: Option<WaitingFor>,
    /// That have not ended and have not moved for so long: `90s`, `10m`, `2h`, `7d`.
    #[schema(value_type = Option<String>, example = "10m")]
    #[param(value_type = Option<String>, pattern = "^[0-9]+[smhd]$", example = "10m")]
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub stuck_for: Option<Duration>,
    /// That started at that moment or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_after: Option<DateTime<Utc>>,
    /// That started before that moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<DateTime<Utc>>,
}

impl Selection {
    /// Whether it selects everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an index of the key or of the tags finds what is selected.
    pub(crate) fn is_narrow(&self) -> bool {
        self.business_key.is_some() || self.tag.is_some()
    }

    /// Whether it is found sooner among the sagas of one definition, version and status after another
    /// than among all.
    pub(crate) fn is_by_group(&self) -> bool {
        let grouped = self.definition.is_some() || self.version.is_some();
        let by_state = self.status.is_some() || self.is_open();
        !self.is_narrow() && (grouped || by_state)
    }

    /// Whether only what has not ended is selected.
    pub(crate) fn is_open(&self) -> bool {
        self.waiting_for.is_some() || self.stuck_for.is_some()
    }
}

/// As it is asked for: `name:value`.
fn tag<S: Serializer>(tag: &Option<(String, String)>, to: S) -> Result<S::Ok, S::Error> {
    let tag = tag.as_ref().map(|(name, value)| format!("{name}:{value}"));
    tag.serialize(to)
}

/// As it is asked for: `600s`.
fn seconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    let seconds = duration.map(|duration| format!("{}s", duration.as_secs()));
    seconds.serialize(to)
}
