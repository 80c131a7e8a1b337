//! Clients that do not behave: too much, too slow, gone. They get what they deserve, and nobody else notices.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::shop::{self, Client, SOON};

/// A body of this size, in bytes, is 160 times what a service takes.
const HUGE: usize = 10 * 1024 * 1024;
/// How many watch at once.
const WATCHERS: usize = 1_000;
/// How many send half of what they announced and stop.
const HALF: usize = 50;

fn host(url: &str) -> &str {
    url.strip_prefix("http://").expect("a plain URL")
}

fn head(path: &str, key: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

fn order_of(customer: Uuid) -> String {
    shop::order(customer).to_string()
}

async fn orders_of(client: &Client, customer: Uuid) -> usize {
    client.orders_of(customer).await.len()
}

#[tokio::test]
async fn ten_megabytes_are_refused_and_not_read() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let stream = TcpStream::connect(host(&client.orders)).await;
    let (mut reading, mut writing) = stream.expect("a connection").into_split();
    let (sending, answer) = tokio::join!(
        async {
            let head = head("/v1/orders", "huge", HUGE);
            writing.write_all(head.as_bytes()).await?;
            for _ in 0..HUGE / 65_536 {
                writing.write_all(&[b' '; 65_536]).await?;
            }
            std::io::Result::Ok(())
        },
        async {
            let mut answer = [0; 12];
            timeout(SOON, reading.read_exact(&mut answer))
                .await
                .expect("an answer in time")?;
            std::io::Result::Ok(answer)
        }
    );
    assert_eq!(&answer.expect("an answer"), b"HTTP/1.1 413");
    // What fits into the buffers between the two is sent; the rest finds the door shut.
    let sent = sending.expect_err("all of it was taken");
    let broke_off = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
    assert!(broke_off.contains(&sent.kind()), "{sent}");
    let order = client.place(&shop::order(Uuid::now_v7())).await;
    assert_eq!(order.status, "pending", "it answers as ever");
}

#[tokio::test]
async fn those_who_send_half_hold_nobody_up_and_leave_nothing() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let (slow, quick) = (Uuid::now_v7(), Uuid::now_v7());
    let body = order_of(slow);
    let mut halves = Vec::new();
    for _ in 0..HALF {
        let mut stream = TcpStream::connect(host(&client.orders))
            .await
            .expect("a connection");
        let head = head("/v1/orders", &Uuid::now_v7().to_string(), body.len());
        stream
            .write_all(head.as_bytes())
            .await
            .expect("the head is sent");
        let half = &body.as_bytes()[..body.len() / 2];
        stream.write_all(half).await.expect("half is sent");
        halves.push(stream);
    }
    let mut whole = TcpStream::connect(host(&client.orders))
        .await
        .expect("a connection");
    let quick_body = order_of(quick);
    let request = head("/v1/orders", &Uuid::now_v7().to_string(), quick_body.len()) + &quick_body;
    whole
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    let mut answer = String::new();
    let answered = timeout(Duration::from_secs(10), whole.read_to_string(&mut answer)).await;
    answered.expect("an answer in time").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    // One of them is only slow, and is served when he is done.
    let mut late = halves.pop().expect("one of them");
    let rest = &body.as_bytes()[body.len() / 2..];
    late.write_all(rest).await.expect("the rest is sent");
    let mut answer = String::new();
    let answered = timeout(SOON, late.read_to_string(&mut answer)).await;
    answered.expect("an answer in time").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    drop(halves);
    assert_eq!(orders_of(&client, quick).await, 1);
    assert_eq!(orders_of(&client, slow).await, 1, "of {HALF} one was whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_watch_see_what_happens_and_hold_nobody_up() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let watching =
        "GET /v1/sagas/stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let stream = TcpStream::connect(host(&client.orders)).await;
        let mut stream = BufReader::new(stream.expect("a connection"));
        let asked = stream.write_all(watching.as_bytes()).await;
        asked.expect("it is sent");
        let mut status = String::new();
        let read = timeout(SOON, stream.read_line(&mut status)).await;
        read.expect("an answer in time").expect("an answer");
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        watchers.push(stream);
    }
    let order = client.place(&shop::order(Uuid::now_v7())).await;
    let saga = order.saga_id.to_string();
    let seen = watchers.into_iter().map(async |mut stream| {
        let mut line = String::new();
        while !line.contains(&saga) {
            line.clear();
            let read = stream.read_line(&mut line).await.expect("it goes on");
            assert_ne!(read, 0, "the stream ended");
        }
    });
    let all = timeout(SOON, futures::future::join_all(seen)).await;
    assert_eq!(all.expect("all see it in time").len(), WATCHERS);
}

#[tokio::test]
async fn who_goes_without_waiting_has_ordered_once_or_not_at_all() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let customer = Uuid::now_v7();
    let body = order_of(customer);
    let key = Uuid::now_v7().to_string();
    let request = head("/v1/orders", &key, body.len()) + &body;
    for _ in 0..5 {
        let mut stream = TcpStream::connect(host(&client.orders))
            .await
            .expect("a connection");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it is sent");
        drop(stream);
    }
    // The same request under the same key tells what became of it, and while one is under way that it is.
    let placed = async || {
        let mut stream = TcpStream::connect(host(&client.orders)).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.starts_with("HTTP/1.1 201").then_some(())
    };
    testbed::until(SOON, "the order is placed", placed).await;
    assert_eq!(orders_of(&client, customer).await, 1);
}
