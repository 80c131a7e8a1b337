//! Where a saga's messages are said to stand in Kafka, held against Kafka.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

use crate::shop::{Client, SOON, delivered_to, paid_with, shop};
use crate::topics::{self, Record};

/// What REST says of an order's saga, each message with the record at its place.
async fn told(order: &Value) -> Vec<(Value, Option<Record>)> {
    let house = shop().await;
    let client = Client::of(&house.shop);
    let order = client.place(order).await;
    client.ended(order.id, SOON).await;
    let url = format!("{}/v1/sagas/{}/messages", client.orders, order.saga_id);
    let told: Value = client.read(&url).await;
    let mut records: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for topic in topics::ALL {
        let all = topics::read(house.kafka.bootstrap(), topic).await;
        records.insert(topic.to_owned(), all);
    }
    let told = told["messages"].as_array().expect("messages").clone();
    let told = told.into_iter().map(|message| {
        let topic = message["topic"].as_str().expect("a topic");
        let record = records[topic].iter().find(|record| {
            let of_saga = order.saga_id.to_string();
            record.partition.map(i64::from) == message["partition"].as_i64()
                && record.offset == message["offset"].as_i64()
                && record.key.as_deref() == Some(of_saga.as_bytes())
        });
        let record = record.cloned();
        (message, record)
    });
    told.collect()
}

fn assert_it_is(message: &Value, record: &Record) {
    let says = |header: &str, member: &str| {
        let expected = match &message[member] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        assert_eq!(record.header(header), Some(expected.as_str()), "{message}");
    };
    says("saga-op-key", "op_key");
    says("saga-step", "step");
    says("saga-phase", "phase");
    says("saga-attempt", "attempt");
    match message["direction"].as_str() {
        Some("reply") => says("saga-outcome", "outcome"),
        _ => assert!(record.header("saga-outcome").is_none(), "{message}"),
    }
}

#[tokio::test]
async fn each_message_of_a_saga_stands_where_it_is_said_to_stand() {
    let told = told(&delivered_to(Uuid::now_v7(), "00000")).await;
    assert_eq!(told.len(), 6, "{told:#?}");
    for (message, record) in &told {
        let record = record.as_ref();
        assert_it_is(message, record.unwrap_or_else(|| panic!("no {message}")));
    }
}

#[tokio::test]
async fn a_command_that_nobody_answered_stands_nowhere() {
    let told = told(&paid_with(Uuid::now_v7(), "pm_timeout")).await;
    let (answered, unanswered): (Vec<_>, Vec<_>) = told
        .iter()
        .partition(|(message, _)| message["phase"] == "compensation");
    assert_eq!(answered.len(), 2, "{told:#?}");
    assert!(unanswered.len() > 1, "{told:#?}");
    for (message, record) in answered {
        assert_it_is(message, record.as_ref().expect("a record"));
    }
    for (message, _) in unanswered {
        assert!(
            message["partition"].is_null() && message["offset"].is_null(),
            "{message}"
        );
    }
}
