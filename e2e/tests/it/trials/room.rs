//! A shop with two order-services, on a durable server and a broker of its own, to hurt.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use testbed::{Kafka, Postgres, Process, Shop, free_port, postgres, shop::Options, until};

use crate::shop::{Client, HEALED, counted, database};

/// What a customer's open orders may come to: two to six of the usual ones.
pub(crate) const CREDIT_LIMIT: i64 = 20_000;
/// How long a step may take: longer than most faults, so that most orders are fulfilled all the same.
const STEP_TIMEOUT: &str = "3s";

/// Where a trial takes place.
pub(crate) struct Room {
    pub(crate) shop: Shop,
    /// A second coordinator beside the shop's own.
    pub(crate) second: Process,
    pub(crate) second_url: String,
    pub(crate) postgres: Postgres,
    pub(crate) kafka: Kafka,
}

impl Room {
    pub(crate) async fn open() -> Self {
        let options = postgres::Options {
            durable: true,
            ..postgres::Options::default()
        };
        let (postgres, kafka) = (Postgres::start_with(options), Kafka::start());
        let (postgres, kafka) = (
            postgres.await.expect("a server"),
            kafka.await.expect("a broker"),
        );
        let credit_limit = ("CREDIT_LIMIT".to_owned(), CREDIT_LIMIT.to_string());
        let options = Options {
            step_timeout: Some(STEP_TIMEOUT.to_owned()),
            logs: Some(testbed::target_folder().join("trials-logs")),
            environment: vec![credit_limit],
            ..Options::default()
        };
        let shop = Shop::start(&postgres, &kafka, options).await;
        let shop = shop.unwrap_or_else(|error| panic!("{error:#}"));
        let listen = format!("127.0.0.1:{}", free_port());
        let mut second = Process::new("order-service")
            .expect("order-service is built")
            .env("DATABASE_URL", &shop.orders.database_url)
            .env("KAFKA_BROKERS", kafka.bootstrap())
            .env("LISTEN", &listen)
            .env("STEP_TIMEOUT", STEP_TIMEOUT)
            .env("CREDIT_LIMIT", CREDIT_LIMIT.to_string())
            .log(shop.logs().join("order-service-2.log"));
        second.start().expect("a second order-service starts");
        let room = Self {
            shop,
            second,
            second_url: format!("http://{listen}"),
            postgres,
            kafka,
        };
        room.is_whole().await;
        room
    }

    /// Waits until every process is ready.
    pub(crate) async fn is_whole(&self) {
        for department in self.shop.departments() {
            department.wait_ready().await.expect("it is ready");
        }
        let second = self.second.wait_ready(&self.second_url).await;
        second.expect("the second order-service is ready");
    }

    /// A client of each order-service.
    pub(crate) fn clients(&self) -> [Client; 2] {
        let mut second = Client::of(&self.shop);
        second.orders.clone_from(&self.second_url);
        [Client::of(&self.shop), second]
    }

    /// Sagas that have not ended, as anybody sees them who asks the database. None if it does not answer.
    pub(crate) async fn under_way(&self) -> Option<i64> {
        let mut orders = PgConnection::connect(&self.shop.orders.database_url)
            .await
            .ok()?;
        let open = "select count(*) from saga.instance where ended_at is null";
        sqlx::query_scalar(open).fetch_one(&mut orders).await.ok()
    }

    /// Waits until sagas are under way: what strikes now strikes something.
    pub(crate) async fn is_busy(&self) {
        until(HEALED, "sagas to be under way", async || {
            self.under_way().await.filter(|sagas| *sagas > 0)
        })
        .await;
    }

    /// How long it takes, from now on, until a saga moves.
    pub(crate) async fn moves_again(&self) -> Duration {
        let healed = Instant::now();
        let before = Self::moves(&mut database(&self.shop.orders).await).await;
        let before = before.expect("the orders' database answers");
        until(HEALED, "a saga to move after the fault", async || {
            let mut orders = PgConnection::connect(&self.shop.orders.database_url)
                .await
                .ok()?;
            let now = Self::moves(&mut orders).await?;
            (now > before).then_some(())
        })
        .await;
        healed.elapsed()
    }

    async fn moves(orders: &mut PgConnection) -> Option<i64> {
        let moves = "select coalesce(sum(seq), 0)::bigint from saga.instance";
        sqlx::query_scalar(moves).fetch_one(orders).await.ok()
    }

    /// How many messages came to a consumer more than once, of those that the processes of now have counted.
    pub(crate) async fn duplicates(&self) -> usize {
        let [client, second] = self.clients();
        let urls = [&client.orders, &second.orders, &client.payments];
        let urls = urls
            .into_iter()
            .chain([&client.deliveries, &client.notifications]);
        let mut copies = 0.0;
        for url in urls {
            let text = client.get(&format!("{url}/metrics")).await.text().await;
            let duplicates = ["outcome=\"duplicate\""];
            copies += counted(&text.expect("text"), "inbox_messages_total", &duplicates);
        }
        copies as usize
    }
}
