use std::sync::Arc;

use axum::Router;
use axum::routing::get as on_get;
use chassis::http::auth::Auth;
use chassis::http::{bind, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn an_address_in_use_is_one_clear_line() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let line = bind(address).await.unwrap_err().to_string();
    let expected = format!(
        "cannot listen on {address} (--listen, environment LISTEN): Address already in use"
    );
    assert!(line.starts_with(&expected), "{line}");
    assert_eq!(line.lines().count(), 1);
}

#[tokio::test]
async fn a_shutdown_lets_open_requests_end() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (begun, go_on) = (begun.clone(), go_on.clone());
        async move || {
            begun.notify_one();
            go_on.notified().await;
            "done"
        }
    };
    let shutdown = CancellationToken::new();
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", on_get(handler));
    let serving = tokio::spawn(serve(listener, router, Auth::open(), shutdown.clone()));

    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .await
        .unwrap();
    begun.notified().await;
    shutdown.cancel();
    go_on.notify_one();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"),
        "{answer}"
    );
    serving.await.unwrap().unwrap();
}
