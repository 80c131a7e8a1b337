//! A poll costs what is new, whatever is retained and whatever the statistics say.
//!
//! Judged by the index entries the server read for the relay, not by time.

use outbox::outgoing::Config;

use crate::world::World;

/// Published rows that the ring still holds.
const RETAINED: i64 = 100_000;
/// Entries that reading about a hundred messages may cost, in some hundred polls.
const CHEAP: i64 = 20_000;

impl World {
    /// Fills the log in transactions of `each` rows and lets the cursor say that all is published.
    async fn retain(&self, each: i64) {
        sqlx::raw_sql(
            "create procedure fill(rows bigint, each bigint) language plpgsql as $$
             begin
                 for batch in 1 .. rows / each loop
                     insert into outbox.log (message_id, topic, key, kind, payload)
                     select gen_random_uuid(), 'old', 'k', 'test.counted.v1', '{}'
                     from generate_series(1, each);
                     commit;
                 end loop;
             end $$",
        )
        .execute(&self.pool)
        .await
        .unwrap();
        sqlx::query("call fill($1, $2)")
            .bind(RETAINED)
            .bind(each)
            .execute(&self.pool)
            .await
            .unwrap();
        sqlx::query(
            "update outbox.relay set settled = pg_current_snapshot(), settled_floor = $1,
                    target = pg_current_snapshot(), target_floor = $1",
        )
        .bind(RETAINED)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// Index entries and rows read so far, by everyone. A session hands its counts in when it ends.
    async fn entries(&self) -> i64 {
        self.count(
            "select sum(idx_tup_read)::bigint from pg_stat_user_indexes
             where schemaname = 'outbox' and relname like 'log\\_%'",
        )
        .await
    }

    /// A hundred messages while a transaction is open and ends in the middle; what it cost.
    async fn cost_of_a_hundred(&self) -> i64 {
        let before = self.entries().await;
        let relay = self.relay(Config::default());
        let mut oracle = self.oracle();
        let mut late = self.pool.begin().await.unwrap();
        outbox::enqueue(&mut late, &self.message("late", 1000))
            .await
            .unwrap();
        for n in 0..50 {
            self.send(&[self.message("k", n)]).await;
        }
        late.commit().await.unwrap();
        for n in 50..100 {
            self.send(&[self.message("k", n)]).await;
        }
        oracle.wait_for(101).await;
        relay.stop().await;
        self.entries().await - before
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_statistics_a_poll_does_not_walk_over_what_is_retained() {
    let world = World::embedded("absent").await;
    sqlx::raw_sql("alter table outbox.log_0 set (autovacuum_enabled = off)")
        .execute(&world.pool)
        .await
        .unwrap();
    world.retain(100).await;
    let cost = world.cost_of_a_hundred().await;
    assert!((100..CHEAP).contains(&cost), "{cost} entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_statistics_of_a_few_large_transactions_neither() {
    let world = World::embedded("bulk").await;
    world.retain(RETAINED / 2).await;
    sqlx::raw_sql("analyze outbox.log")
        .execute(&world.pool)
        .await
        .unwrap();
    let cost = world.cost_of_a_hundred().await;
    assert!((100..CHEAP).contains(&cost), "{cost} entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_with_many_rows_is_walked_over_a_few_times_and_not_in_each_poll() {
    let world = World::embedded("open").await;
    let mut open = world.pool.begin().await.unwrap();
    sqlx::query(
        "insert into outbox.log (message_id, topic, key, kind, payload)
         select gen_random_uuid(), 'old', 'k', 'test.counted.v1', '{}'
         from generate_series(1, $1)",
    )
    .bind(RETAINED)
    .execute(&mut *open)
    .await
    .unwrap();
    let cost = world.cost_of_a_hundred().await;
    assert!((100..RETAINED * 5).contains(&cost), "{cost} entries");
    open.rollback().await.unwrap();
}
