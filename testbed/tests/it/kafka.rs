use std::time::Duration;

use testbed::{Kafka, until};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_killed_broker_starts_again_on_its_port() {
    let mut broker = tokio::spawn(Kafka::start()).await.unwrap().unwrap();
    let bootstrap = broker.bootstrap().to_owned();
    TcpStream::connect(&bootstrap).await.unwrap();

    broker.kill().unwrap();
    until(Duration::from_secs(5), "the port to close", async || {
        TcpStream::connect(&bootstrap).await.err()
    })
    .await;
    broker.restart().await.unwrap();

    assert_eq!(broker.bootstrap(), bootstrap);
    TcpStream::connect(&bootstrap).await.unwrap();
    broker.suspend().unwrap();
    broker.resume().unwrap();
    broker.stop().await.unwrap();
    assert_eq!(broker.pid(), None);
}
