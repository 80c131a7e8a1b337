//! Both sides of the pipe as one list: the outbox's messages first, then the inbox's, each by number.

use chassis::http::Problem;
use sqlx::PgPool;

use crate::{
    Error,
    http::view::{Id, Parked, Shown, Side},
    incoming::parked as inbox,
    operator::parked as outbox,
};

/// Which messages. A side is left out where a filter can be true of the other alone.
pub(super) struct Which {
    pub(super) outbox: Option<outbox::Selection>,
    pub(super) inbox: Option<inbox::Filter>,
}

impl Which {
    pub(super) async fn count(&self, pool: &PgPool) -> Result<i64, Error> {
        let mut count = 0;
        if let Some(selection) = &self.outbox {
            count += outbox::count(pool, selection).await?;
        }
        if let Some(filter) = &self.inbox {
            count += inbox::count(pool, filter).await?;
        }
        Ok(count)
    }

    /// At most `rows` messages, after the one named.
    pub(super) async fn list(
        &self,
        pool: &PgPool,
        after: Option<Id>,
        rows: i64,
    ) -> Result<Vec<Parked>, Error> {
        let mut found: Vec<Parked> = Vec::new();
        let (after_outbox, after_inbox) = match after {
            None => (Some(None), 0),
            Some(Id {
                side: Side::Outbox,
                number,
            }) => (Some(Some(number)), 0),
            Some(Id {
                side: Side::Inbox,
                number,
            }) => (None, number),
        };
        if let (Some(selection), Some(after)) = (&self.outbox, after_outbox) {
            let items = outbox::list(pool, selection, after, rows).await?;
            found.extend(items.into_iter().map(Parked::from));
        }
        let missing = rows - found.len() as i64;
        if let Some(filter) = self.inbox.as_ref().filter(|_| missing > 0) {
            let items = inbox::list(pool, filter, after_inbox, missing).await?;
            found.extend(items.into_iter().map(Parked::from));
        }
        Ok(found)
    }
}

pub(super) async fn show(pool: &PgPool, id: Id, payload: bool) -> Result<Option<Shown>, Error> {
    Ok(match id.side {
        Side::Outbox => outbox::show(pool, id.number, payload)
            .await?
            .map(Shown::from),
        Side::Inbox => inbox::show(pool, id.number, payload)
            .await?
            .map(Shown::from),
    })
}

/// How many wait behind this message, if it is the first of its key.
pub(super) async fn followers(pool: &PgPool, shown: &Shown) -> Result<i64, Error> {
    let parked = &shown.parked;
    if shown.head.is_some() || parked.class == "held" {
        return Ok(0);
    }
    match parked.side {
        Side::Outbox => {
            let selection = outbox::Selection {
                class: Some(outbox::Class::Blocked),
                topic: Some(parked.topic.clone()),
                key: parked.key.clone(),
            };
            outbox::count(pool, &selection).await
        }
        Side::Inbox => {
            let Some(key) = &parked.key else { return Ok(0) };
            let filter = inbox::Filter {
                consumer: parked.consumer.clone(),
                topic: Some(parked.topic.clone()),
                key: Some(key.clone().into_bytes()),
                class: Some(inbox::Class::Blocked),
            };
            inbox::count(pool, &filter).await
        }
    }
}

pub(super) fn problem(error: Error) -> Problem {
    match error {
        Error::Database(error) => error.into(),
        error => Problem::internal(error),
    }
}
