//! The whole service, spoken to over its topics alone: does its barrier keep what it promises?

use std::sync::Arc;

use chassis::{
    Process,
    config::{LogFormat, try_parse_from},
    telemetry,
};
use contracts::payment::{AuthorizePayment, ReleasePayment};
use contracts::{Money, topic};
use outbox::broker::{Broker, Embedded, Topic};
use outbox::{Payload, Relay};
use saga::testing::conformance::{self, Effects, Options, Request, Subject};
use sqlx::PgPool;
use testbed::Database;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const AMOUNT: i64 = 2500;

/// Order and customer are named like their saga, so that the ledger can be asked about one saga.
fn authorize(saga: Uuid, payment_method: &str) -> Request {
    let command = AuthorizePayment {
        order_id: saga,
        customer_id: saga,
        amount: Money {
            amount: AMOUNT,
            currency: "EUR".parse().expect("a currency"),
        },
        payment_method: payment_method.to_owned(),
    };
    request(&command)
}

fn request<P: Payload>(command: &P) -> Request {
    let payload = serde_json::to_value(command).expect("JSON");
    Request::json(P::KIND, payload)
}

/// Every hold ever made, and the money that is still held.
async fn holds(pool: PgPool, saga: Uuid) -> sqlx::Result<Effects> {
    let (executed, remaining) = sqlx::query_as(
        "select count(*) filter (where amount > 0), coalesce(sum(amount), 0)::bigint / $2
         from payments.entry where account = $1",
    )
    .bind(format!("held:{saga}"))
    .bind(AMOUNT)
    .fetch_one(&pool)
    .await?;
    Ok(Effects {
        executed,
        remaining,
    })
}

#[tokio::test]
async fn authorizing_and_releasing_conforms() {
    let database = Database::fresh("payments_conform").await;
    let broker: Arc<dyn Broker> = Arc::new(Embedded::start().expect("a broker"));
    let topics = [topic::PAYMENT_COMMANDS, topic::ORDER_REPLIES].map(|name| Topic::new(name, 4));
    broker.ensure_topics(&topics).await.expect("topics");
    let listen = format!("127.0.0.1:{}", testbed::free_port());
    let arguments = ["payments", "--migrate", "--database-url", &database.url];
    // The embedded broker is handed over as it is; the setting only has to be there.
    let more = ["--listen", &listen, "--kafka-brokers", "127.0.0.1:9"];
    let arguments = [arguments, more].concat();
    let config: payment_service::Config =
        try_parse_from(arguments.into_iter().map(Into::into)).expect("settings");
    let filter = "error".parse().expect("a filter");
    let telemetry = telemetry::init("payment-service", LogFormat::Auto, &filter);
    let shutdown = CancellationToken::new();
    let process = Process {
        telemetry: telemetry.expect("telemetry"),
        shutdown: shutdown.clone(),
    };
    let service = payment_service::run(
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
    let subject = Subject::new(topic::PAYMENT_COMMANDS, topic::ORDER_REPLIES)
        .step("authorize-payment")
        .action(|saga| authorize(saga, "pm_card_visa"))
        .refused(|saga| authorize(saga, "pm_card_declined"))
        .stumbling(|saga| authorize(saga, "pm_lost_answer"))
        .compensation(|saga| request(&ReleasePayment { order_id: saga }))
        .effects(move |saga| holds(pool.clone(), saga));
    // The card gateway may have been told to forget it before it was asked to hold money.
    let options = Options::default().calls_off(true).forgets(true);
    let report = conformance::run(&*broker, &subject, &options).await;
    let report = report.expect("a report");

    shutdown.cancel();
    relay.await.expect("no panic").expect("a relay that stops");
    let stopped = service.await.expect("no panic");
    assert!(stopped.is_ok(), "the service stops");
    assert!(report.counted_effects);
    report.assert_conforms();
}
