//! The whole service, spoken to over its topics alone: does its barrier keep what it promises?

use std::sync::Arc;

use chassis::{
    Process,
    config::{LogFormat, try_parse_from},
    telemetry,
};
use contracts::delivery::{CancelDelivery, ScheduleDelivery};
use contracts::{Address, topic};
use outbox::broker::{Broker, Embedded, Topic};
use outbox::{Payload, Relay};
use saga::testing::conformance::{self, Effects, Options, Request, Subject};
use sqlx::PgPool;
use testbed::Database;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The order is named like its saga, so that the deliveries can be asked about one saga.
fn schedule(saga: Uuid, postcode: &str) -> Request {
    let command = ScheduleDelivery {
        order_id: saga,
        address: Address {
            name: "Ada Lovelace".to_owned(),
            street: "Chausseestraße 1".to_owned(),
            postcode: postcode.to_owned(),
            city: "Berlin".to_owned(),
            country: "DE".to_owned(),
        },
    };
    request(&command)
}

fn request<P: Payload>(command: &P) -> Request {
    let payload = serde_json::to_value(command).expect("JSON");
    Request::json(P::KIND, payload)
}

/// Every delivery ever scheduled, and those that still hold a place.
async fn places(pool: PgPool, saga: Uuid) -> sqlx::Result<Effects> {
    let (executed, remaining) = sqlx::query_as(
        "select count(*), count(*) filter (where status = 'scheduled')
         from deliveries.delivery where order_id = $1",
    )
    .bind(saga)
    .fetch_one(&pool)
    .await?;
    Ok(Effects {
        executed,
        remaining,
    })
}

/// Places taken, on all days together, less those of deliveries that are scheduled.
async fn places_astray(pool: &PgPool) -> i64 {
    let astray = sqlx::query_scalar(
        "select (select coalesce(sum(taken), 0) from deliveries.day)::bigint
              - (select count(*) from deliveries.delivery where status = 'scheduled')",
    );
    astray.fetch_one(pool).await.expect("a count")
}

#[tokio::test]
async fn scheduling_and_cancelling_conforms() {
    let database = Database::fresh("deliveries_conform").await;
    let broker: Arc<dyn Broker> = Arc::new(Embedded::start().expect("a broker"));
    let topics = [topic::DELIVERY_COMMANDS, topic::ORDER_REPLIES].map(|name| Topic::new(name, 4));
    broker.ensure_topics(&topics).await.expect("topics");
    let listen = format!("127.0.0.1:{}", testbed::free_port());
    let arguments = ["deliveries", "--migrate", "--database-url", &database.url];
    // The embedded broker is handed over as it is; the setting only has to be there.
    let more = ["--listen", &listen, "--kafka-brokers", "127.0.0.1:9"];
    let arguments = [arguments, more].concat();
    let config: delivery_service::Config =
        try_parse_from(arguments.into_iter().map(Into::into)).expect("settings");
    let filter = "error".parse().expect("a filter");
    let telemetry = telemetry::init("delivery-service", LogFormat::Auto, &filter);
    let shutdown = CancellationToken::new();
    let process = Process {
        telemetry: telemetry.expect("telemetry"),
        shutdown: shutdown.clone(),
    };
    let service = delivery_service::run(
        config,
        chassis::http::auth::Auth::open(),
        Arc::clone(&broker),
        process,
    );
    let service = tokio::spawn(service);
    let options = database.options().expect("options");
    let relay = Relay::new(options, Arc::clone(&broker), Default::default());
    let token = shutdown.clone();
    let relay = tokio::spawn(async move { relay.run(token).await });

    let pool = database.pool(4).await.expect("a pool");
    let counted = pool.clone();
    let subject = Subject::new(topic::DELIVERY_COMMANDS, topic::ORDER_REPLIES)
        .step("schedule-delivery")
        .action(|saga| schedule(saga, "10115"))
        .refused(|saga| schedule(saga, "00000"))
        .compensation(|saga| request(&CancelDelivery { order_id: saga }))
        .effects(move |saga| places(counted.clone(), saga));
    let options = Options::default().forgets(true);
    let report = conformance::run(&*broker, &subject, &options).await;
    let report = report.expect("a report");

    shutdown.cancel();
    relay.await.expect("no panic").expect("a relay that stops");
    let stopped = service.await.expect("no panic");
    assert!(stopped.is_ok(), "the service stops");
    assert!(report.counted_effects);
    report.assert_conforms();
    assert_eq!(places_astray(&pool).await, 0);
}
