//! A consumer of the trial's topics with one row per effect.

use std::sync::Arc;

use outbox::{Consumer, Error, Handler, Received, broker::Kafka};
use sqlx::{PgTransaction, postgres::PgPoolOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::room::{HEALED, Room};

struct Effects;

impl Handler for Effects {
    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        sqlx::query("insert into effect values ($1)")
            .bind(message.id)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

pub(crate) struct Reader {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Reader {
    pub(crate) fn start(room: &Room) -> Self {
        let options = room.database.options().unwrap().application_name("reader");
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect_lazy_with(options);
        let topics: Vec<&str> = room.topics.iter().map(String::as_str).collect();
        let broker = Arc::new(Kafka::new(&room.bootstrap).unwrap());
        let consumer = Consumer::new(&room.database.name, &topics, pool, broker, Effects);
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { consumer.run(token).await });
        Self { shutdown, task }
    }

    /// Waits until every message has had its effect, and sees that none had two. I5
    pub(crate) async fn finish(self, room: &Room, messages: usize) {
        testbed::until(HEALED, "every message had its effect", async || {
            let effects = room
                .count("select count(distinct message_id) from effect")
                .await;
            (usize::try_from(effects).unwrap() >= messages).then_some(())
        })
        .await;
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        let twice: Vec<Uuid> =
            sqlx::query_scalar("select message_id from effect group by 1 having count(*) > 1")
                .fetch_all(&room.pool)
                .await
                .unwrap();
        assert_eq!(twice, [] as [Uuid; 0], "I5: had more than one effect");
        let effects = room.count("select count(*) from effect").await;
        assert_eq!(
            usize::try_from(effects).unwrap(),
            messages,
            "I5: effects of nothing"
        );
        assert_eq!(
            room.count("select count(*) from outbox.inbox_parked").await,
            0,
            "parked"
        );
    }
}
