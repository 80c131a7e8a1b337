//! `recompense inbox parked …`: what a consumer could not handle.

use outbox::{
    Error,
    incoming::parked::{self, Class, Discard, Filter, Parked, Replay, Shown},
    operator::Payload,
};
use sqlx::PgPool;

use crate::{
    print::{Facts, Table, age, payload, size},
    sides::{Side, behind, not_parked, requested},
};

/// Which messages.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Only of this consumer.
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,

    /// Only of this class: unreadable, refused, exhausted or blocked.
    #[arg(long)]
    class: Option<Class>,

    /// Only of this topic.
    #[arg(long)]
    topic: Option<String>,

    /// Only of this key.
    #[arg(long)]
    key: Option<String>,
}

impl Which {
    fn filter(&self) -> Filter {
        Filter {
            consumer: self.consumer.clone(),
            topic: self.topic.clone(),
            key: self.key.clone().map(String::into_bytes),
            class: self.class,
        }
    }
}

impl Side for Which {
    const NUMBER: &'static str = "id";
    const ORDER: &'static str = "in the order in which they were parked";
    const FULFILS: &'static str = "the consumer will handle";
    const AGAIN: &'static str = "handled again";
    const GONE: &'static str = "handled or discarded";
    const DONE: &'static str = "handled";

    type Item = Parked;
    type Parked = Shown;
    type Replay = Replay;
    type Discard = Discard;

    fn is_given(&self) -> bool {
        self.filter() != Filter::default()
    }

    async fn count(&self, pool: &PgPool) -> Result<i64, Error> {
        parked::count(pool, &self.filter()).await
    }

    async fn list(
        &self,
        pool: &PgPool,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Parked>, Error> {
        parked::list(pool, &self.filter(), after.unwrap_or(0), limit).await
    }

    async fn show(pool: &PgPool, id: i64, payload: bool) -> Result<Option<Shown>, Error> {
        parked::show(pool, id, payload).await
    }

    async fn replay(pool: &PgPool, ids: &[i64], by: &str) -> Result<Vec<(i64, Replay)>, Error> {
        let mut answers = Vec::with_capacity(ids.len());
        for id in once(ids) {
            answers.push((id, parked::request_replay(pool, id, by).await?));
        }
        Ok(answers)
    }

    async fn replay_all(&self, pool: &PgPool, by: &str) -> Result<u64, Error> {
        parked::request_replay_all(pool, &self.filter(), by).await
    }

    async fn discard(pool: &PgPool, ids: &[i64], by: &str) -> Result<Vec<(i64, Discard)>, Error> {
        let mut answers = Vec::with_capacity(ids.len());
        // The last of a key first: a head that went before its followers would have them handled.
        for id in once(ids).into_iter().rev() {
            answers.push((id, parked::discard(pool, id, by).await?));
        }
        Ok(answers)
    }

    async fn discard_all(&self, pool: &PgPool, by: &str) -> Result<u64, Error> {
        parked::discard_all(pool, &self.filter(), by).await
    }

    fn number(item: &Parked) -> i64 {
        item.id
    }

    fn is_asked_for(item: &Parked) -> bool {
        item.replay.is_some()
    }

    fn stands(shown: &Shown) -> (bool, &str) {
        (shown.parked.replay.is_some(), &shown.parked.reason)
    }

    fn table(items: &[Parked]) -> Table {
        let mut table = Table::new([
            "id", "consumer", "class", "topic", "key", "for", "replay", "reason",
        ]);
        for item in items {
            let request = item.replay.as_ref();
            table.row([
                item.id.to_string(),
                item.consumer.clone(),
                item.class.as_str().to_owned(),
                item.topic.clone(),
                key(item),
                age(item.parked_seconds),
                request.map_or_else(String::new, |request| format!("by {}", request.by)),
                item.reason.clone(),
            ]);
        }
        table
    }

    fn facts(shown: &Shown) -> Facts {
        let item = &shown.parked;
        let mut facts = Facts::default();
        facts.add("id", item.id);
        facts.add("consumer", &item.consumer);
        facts.add("class", item.class);
        facts.add("topic", &item.topic);
        facts.add(
            "place",
            format!("partition {}, offset {}", item.partition, item.offset),
        );
        facts.add("key", key(item));
        facts.add("message id", item.message_id);
        let ago = age(item.parked_seconds);
        facts.add("parked", format!("{}, {ago} ago", item.parked_at));
        facts.add("reason", &item.reason);
        facts.add("attempts", item.attempts);
        facts.add_some("behind", shown.head);
        let request = item.replay.as_ref();
        facts.add_some(
            "replay",
            request.map(|request| format!("asked for at {} by {}", request.at, request.by)),
        );
        for header in &shown.headers {
            let value = header.value.as_ref().map_or("null".to_owned(), payload);
            facts.add("header", format!("{}: {value}", header.name));
        }
        let bytes = shown.bytes.map(i64::from);
        facts.add("size", bytes.map_or("null".to_owned(), size));
        facts.add_some("payload", shown.payload.as_ref().map(payload));
        facts
    }

    fn replayed(outcome: &Replay) -> (bool, String) {
        match outcome {
            Replay::Requested => requested::<Self>(),
            Replay::BehindHead { head } => behind(*head),
            Replay::NotParked => not_parked::<Self>(),
        }
    }

    fn discarded(outcome: &Discard) -> (bool, String) {
        match outcome {
            Discard::Discarded => (true, "discarded".to_owned()),
            Discard::NotParked => not_parked::<Self>(),
        }
    }
}

/// Each number once, in order.
fn once(ids: &[i64]) -> Vec<i64> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn key(item: &Parked) -> String {
    let key = item.key.clone().map(Payload::from);
    key.as_ref().map(payload).unwrap_or_default()
}
