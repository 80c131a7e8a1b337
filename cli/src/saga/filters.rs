//! Which sagas. The service checks what is given.

use serde_json::{Map, Value};

use crate::service::Query;

/// Which sagas.
#[derive(Debug, clap::Args)]
pub(crate) struct Filters {
    /// Only of this definition.
    #[arg(long, value_name = "NAME")]
    definition: Option<String>,

    /// Only of this version.
    #[arg(long = "of-version", value_name = "NUMBER")]
    version: Option<i32>,

    /// Only those that are running, compensating, parked, completed, compensated or abandoned.
    #[arg(long)]
    status: Option<String>,

    /// Only with this business key.
    #[arg(long, value_name = "KEY")]
    business_key: Option<String>,

    /// Only whose business keys begin like this.
    #[arg(long, value_name = "TEXT")]
    business_key_prefix: Option<String>,

    /// Only with this tag.
    #[arg(long, value_name = "NAME:VALUE")]
    tag: Option<String>,

    /// Only those that wait for reply, backoff, round, probe, lock, late_reply, person or relay.
    #[arg(long, value_name = "WHAT")]
    waiting_for: Option<String>,

    /// Only those that have not moved for so long: 90s, 10m, 2h, 7d.
    #[arg(long, value_name = "DURATION")]
    stuck_for: Option<String>,

    /// Only those that started then or later: 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "MOMENT")]
    created_after: Option<String>,

    /// Only those that started earlier.
    #[arg(long, value_name = "MOMENT")]
    created_before: Option<String>,
}

impl Filters {
    /// For a URL.
    pub(crate) fn query(self) -> Query {
        vec![
            ("definition", self.definition),
            ("version", self.version.map(|version| version.to_string())),
            ("status", self.status),
            ("business_key", self.business_key),
            ("business_key_prefix", self.business_key_prefix),
            ("tag", self.tag),
            ("waiting_for", self.waiting_for),
            ("stuck_for", self.stuck_for),
            ("created_after", self.created_after),
            ("created_before", self.created_before),
        ]
    }

    /// For a body.
    pub(crate) fn selection(self) -> Map<String, Value> {
        let given = self.query().into_iter();
        let given = given.filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
        given.collect()
    }
}
