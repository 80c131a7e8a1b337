//! An axum + sqlx service with an outbox: `POST /orders` inserts a row and enqueues a message in one
//! transaction, a relay in the same process carries it to the broker, a consumer sends the mail.
//!
//! ```text
//! DATABASE_URL=postgres://… KAFKA_BROKERS=localhost:9092 cargo run --example orders
//! curl -i localhost:3000/orders -H 'content-type: application/json' -d '{"total": 1250}'
//! ```
//!
//! Without `KAFKA_BROKERS` the broker lives inside this process. With `--once` it posts an order to
//! itself, waits for the effect and ends.

use std::{env, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use outbox::{
    Consumer, Error, Handler, Message, Payload, Received, Relay,
    broker::{Broker, Embedded, Kafka, Topic},
    outgoing::Config,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, PgTransaction};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const ORDERS: &str = "orders.events";

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    order_id: Uuid,
    total: i64,
}

impl Payload for OrderPlaced {
    const KIND: &'static str = "order.placed.v1";
}

#[derive(Deserialize)]
struct NewOrder {
    total: i64,
}

/// One transaction: the order and its message exist together or not at all.
async fn place_order(pool: PgPool, order: NewOrder) -> Result<Uuid, Error> {
    let order_id = Uuid::now_v7();
    let mut tx = pool.begin().await?;
    sqlx::query("insert into orders (id, total) values ($1, $2)")
        .bind(order_id)
        .bind(order.total)
        .execute(&mut *tx)
        .await?;
    let total = order.total;
    let message = Message::new(ORDERS, order_id, &OrderPlaced { order_id, total })?;
    outbox::enqueue(&mut tx, &message).await?;
    tx.commit().await?;
    Ok(order_id)
}

async fn post_order(
    State(pool): State<PgPool>,
    Json(order): Json<NewOrder>,
) -> Result<(StatusCode, String), StatusCode> {
    // In a task of its own: a client that goes away must not stop it halfway.
    let placed = tokio::spawn(place_order(pool, order)).await;
    match placed {
        Ok(Ok(order_id)) => Ok((StatusCode::CREATED, order_id.to_string())),
        Ok(Err(error)) => {
            eprintln!("the order was not placed: {error}");
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

#[derive(Clone)]
struct Mailer;

impl Handler for Mailer {
    /// Runs once for each message: what it writes into `tx` commits together with the note that the
    /// message was handled.
    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        let order: OrderPlaced = message.decode()?;
        println!("order {}: {} cents", order.order_id, order.total);
        sqlx::query("insert into mails (order_id) values ($1)")
            .bind(order.order_id)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = env::var("DATABASE_URL").context("set DATABASE_URL to a PostgreSQL database")?;
    let once = env::args().any(|argument| argument == "--once");

    let pool = PgPool::connect(&url).await?;
    outbox::migrate(&pool).await?;
    sqlx::raw_sql(
        "create table if not exists orders (id uuid primary key, total bigint not null);
         create table if not exists mails (order_id uuid primary key)",
    )
    .execute(&pool)
    .await?;

    let broker: Arc<dyn Broker> = match env::var("KAFKA_BROKERS") {
        Ok(servers) => Arc::new(Kafka::new(servers)?),
        Err(_) => Arc::new(Embedded::start()?),
    };
    outbox::declare(&pool, &*broker, &[Topic::new(ORDERS, 4)]).await?;

    let shutdown = CancellationToken::new();
    let relay = Relay::new(url.parse()?, Arc::clone(&broker), Config::default());
    let stop = shutdown.clone();
    let relay = tokio::spawn(async move { relay.run(stop).await });

    let consumer = Consumer::new("mailer", &[ORDERS], pool.clone(), broker, Mailer);
    let stop = shutdown.clone();
    let consumer = tokio::spawn(async move { consumer.run(stop).await });

    let port = if once { 0 } else { 3000 };
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let app = Router::new()
        .route("/orders", post(post_order))
        .with_state(pool.clone());
    let server =
        axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());
    println!("listening on http://{address}");

    if once {
        try_it(address, &pool).await?;
    } else {
        tokio::signal::ctrl_c().await?;
    }
    shutdown.cancel();
    server.await??;
    consumer.await??;
    relay.await??;
    Ok(())
}

/// Posts an order and waits for its mail.
async fn try_it(address: SocketAddr, pool: &PgPool) -> Result<()> {
    let body = r#"{"total": 1250}"#;
    let head = "POST /orders HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    let length = body.len();
    let request = format!("{head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 201"), "refused: {answer}");
    let order_id: Uuid = answer.lines().last().unwrap_or_default().parse()?;

    let mail = async {
        loop {
            let mails = sqlx::query("select from mails where order_id = $1")
                .bind(order_id)
                .fetch_optional(pool);
            if mails.await?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), mail)
        .await
        .context("no mail in a minute")?
}
