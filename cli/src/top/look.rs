//! One look at a service.

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::service::{Failure, Query, Service};

/// Rows of each list that is only begun.
const SHOWN: &str = "10";

/// What a service said, about one moment. What it has not is none.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) at: Instant,
    /// Sagas by status.
    pub(crate) statuses: Option<Value>,
    /// Sagas by what they wait for.
    pub(crate) waiting: Option<Value>,
    /// The newest that are parked.
    pub(crate) parked_sagas: Option<Value>,
    /// The newest anomalies.
    pub(crate) anomalies: Option<Value>,
    /// `/v1/outbox`.
    pub(crate) outbox: Option<Value>,
    /// The first parked messages.
    pub(crate) parked: Option<Value>,
}

impl Look {
    /// For programs: each part as the service said it.
    pub(crate) fn told(&self) -> Value {
        json!({
            "sagas_by_status": self.statuses,
            "sagas_by_waiting_for": self.waiting,
            "parked_sagas": self.parked_sagas,
            "anomalies": self.anomalies,
            "outbox": self.outbox,
            "parked_messages": self.parked,
        })
    }
}

pub(crate) async fn look(service: &Service) -> Result<Look> {
    let first = || vec![("limit", Some(SHOWN.to_owned()))];
    let statuses = part(service, &["sagas", "count"], of("group_by", "status")).await?;
    // Whoever has none of these has none of the others.
    let has_sagas = statuses.is_some();
    let mut look = Look {
        at: Instant::now(),
        statuses,
        waiting: None,
        parked_sagas: None,
        anomalies: None,
        outbox: part(service, &["outbox"], Vec::new()).await?,
        parked: part(service, &["parked"], first()).await?,
    };
    if has_sagas {
        let waiting = of("group_by", "waiting_for");
        look.waiting = part(service, &["sagas", "count"], waiting).await?;
        let parked = [first(), of("status", "parked")].concat();
        look.parked_sagas = part(service, &["sagas"], parked).await?;
        look.anomalies = part(service, &["anomalies"], first()).await?;
    }
    anyhow::ensure!(
        has_sagas || look.outbox.is_some(),
        "the service at {} has neither sagas nor an outbox; check --url",
        service.place()
    );
    Ok(look)
}

fn of(name: &'static str, value: &str) -> Query {
    vec![(name, Some(value.to_owned()))]
}

/// A part that a service may not have.
async fn part(service: &Service, path: &[&str], query: Query) -> Result<Option<Value>> {
    match service.get(path, query).await {
        Ok(part) => Ok(Some(part)),
        Err(error) if Failure::is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
