//! `recompense outbox parked …`: what was not sent.

use outbox::{
    Error,
    operator::parked::{self, Class, Discard, Item, Parked, Replay, Selection},
};
use sqlx::PgPool;

use crate::{
    print::{Facts, Table, age, payload, size},
    sides::{Side, behind, not_parked, requested},
};

/// Which messages.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Only of this class: poison, blocked or held.
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
    fn selection(&self) -> Selection {
        Selection {
            class: self.class,
            topic: self.topic.clone(),
            key: self.key.clone(),
        }
    }
}

impl Side for Which {
    const NUMBER: &'static str = "seq";
    const ORDER: &'static str = "oldest first";
    const FULFILS: &'static str = "the relay will send";
    const AGAIN: &'static str = "sent again";
    const GONE: &'static str = "sent or discarded";
    const DONE: &'static str = "sent";

    type Item = Item;
    type Parked = Parked;
    type Replay = Replay;
    type Discard = Discard;

    fn is_given(&self) -> bool {
        self.selection() != Selection::default()
    }

    async fn count(&self, pool: &PgPool) -> Result<i64, Error> {
        parked::count(pool, &self.selection()).await
    }

    async fn list(
        &self,
        pool: &PgPool,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Item>, Error> {
        parked::list(pool, &self.selection(), after, limit).await
    }

    async fn show(pool: &PgPool, seq: i64, payload: bool) -> Result<Option<Parked>, Error> {
        parked::show(pool, seq, payload).await
    }

    async fn replay(pool: &PgPool, seqs: &[i64], by: &str) -> Result<Vec<(i64, Replay)>, Error> {
        parked::request_replay(pool, seqs, by).await
    }

    async fn replay_all(&self, pool: &PgPool, by: &str) -> Result<u64, Error> {
        parked::request_replay_of_all(pool, &self.selection(), by).await
    }

    async fn discard(pool: &PgPool, seqs: &[i64], by: &str) -> Result<Vec<(i64, Discard)>, Error> {
        parked::discard(pool, seqs, by).await
    }

    async fn discard_all(&self, pool: &PgPool, by: &str) -> Result<u64, Error> {
        parked::discard_all(pool, &self.selection(), by).await
    }

    fn number(item: &Item) -> i64 {
        item.seq
    }

    fn is_asked_for(item: &Item) -> bool {
        item.replay.is_some()
    }

    fn stands(parked: &Parked) -> (bool, &str) {
        (parked.item.replay.is_some(), &parked.item.reason)
    }

    fn table(items: &[Item]) -> Table {
        let mut table = Table::new([
            "seq", "class", "topic", "key", "kind", "for", "replay", "reason",
        ]);
        for item in items {
            let request = item.replay.as_ref();
            table.row([
                item.seq.to_string(),
                item.class.as_str().to_owned(),
                item.topic.clone(),
                item.key.clone(),
                item.kind.clone(),
                age(item.parked_seconds),
                request.map_or_else(String::new, |request| format!("by {}", request.by)),
                item.reason.clone(),
            ]);
        }
        table
    }

    fn facts(parked: &Parked) -> Facts {
        let item = &parked.item;
        let mut facts = Facts::default();
        facts.add("seq", item.seq);
        facts.add("class", item.class.as_str());
        facts.add("topic", &item.topic);
        facts.add("key", &item.key);
        facts.add("kind", &item.kind);
        facts.add("id", item.message_id);
        facts.add("enqueued", parked.created_at);
        let ago = age(item.parked_seconds);
        facts.add("parked", format!("{}, {ago} ago", item.parked_at));
        facts.add("reason", &item.reason);
        facts.add("attempts", item.attempts);
        facts.add_some("behind", parked.head);
        facts.add_some("overtaken by", parked.overtaken_by);
        let request = item.replay.as_ref();
        facts.add_some(
            "replay",
            request.map(|request| format!("asked for at {} by {}", request.at, request.by)),
        );
        let trace = parked.traceparent.as_ref();
        facts.add_some("header", trace.map(|trace| format!("traceparent: {trace}")));
        for (name, value) in &parked.headers {
            facts.add("header", format!("{name}: {value}"));
        }
        facts.add("size", parked.bytes.map_or("null".to_owned(), size));
        facts.add_some("payload", parked.payload.as_ref().map(payload));
        facts
    }

    fn replayed(outcome: &Replay) -> (bool, String) {
        match outcome {
            Replay::Requested => requested::<Self>(),
            Replay::AlreadyRequested(request) => (
                true,
                format!("asked for before, at {} by {}", request.at, request.by),
            ),
            Replay::BehindHead { head } => behind(*head),
            Replay::NotParked => not_parked::<Self>(),
        }
    }

    fn discarded(outcome: &Discard) -> (bool, String) {
        match outcome {
            Discard::Discarded {
                released: 0,
                key_opened: false,
            } => (true, "discarded".to_owned()),
            Discard::Discarded {
                key_opened: true, ..
            } => (true, "discarded; its key is blocked no longer".to_owned()),
            Discard::Discarded { released, .. } => (
                true,
                format!("discarded; {released} behind it will be sent"),
            ),
            Discard::NotPassed => (
                false,
                "stays parked: a message before it is still on its way to the broker, try again"
                    .to_owned(),
            ),
            Discard::NotParked => not_parked::<Self>(),
        }
    }
}
