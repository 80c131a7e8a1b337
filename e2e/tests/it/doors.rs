//! The REST API: lists, idempotency, refusals, health and figures.

use std::collections::BTreeSet;

use futures::future::join_all;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use testbed::Shop;
use uuid::Uuid;

use crate::shop::{self, Client, Order, Page, RECIPIENT, SOON, counted, database};

#[tokio::test]
async fn a_list_of_orders_is_filtered_and_walked_without_gap_or_repetition() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let customer = Uuid::now_v7();
    let placed = place_five(&client, customer).await;
    let url = format!("{}/v1/orders?customer_id={customer}&limit=2", client.orders);
    let walked = walk::<Order>(&client, &url, |_| false).await;
    assert_eq!(walked.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    let walked: Vec<_> = walked.concat().iter().map(|order| order.id).collect();
    let newest_first: Vec<_> = placed.iter().rev().map(|order| order.id).collect();
    assert_eq!(walked, newest_first);
    for (status, expected) in [("rejected", 1), ("confirmed", 4), ("pending", 0)] {
        let orders: Page<Order> = client.read(&format!("{url}00&status={status}")).await;
        assert_eq!(orders.items.len(), expected, "{status}");
        assert!(orders.items.iter().all(|order| order.status == status));
    }
    let nobody = format!("{}/v1/orders?customer_id={}", client.orders, Uuid::now_v7());
    assert_eq!(client.read::<Page<Order>>(&nobody).await.items, []);
}

#[tokio::test]
async fn the_list_of_sagas_is_filtered_and_walked_without_gap_or_repetition() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let placed = place_five(&client, Uuid::now_v7()).await;
    let sagas = format!("{}/v1/sagas", client.orders);
    let one: Page<Value> = client
        .read(&format!("{sagas}?business_key={}", placed[0].id))
        .await;
    assert_eq!(one.items.len(), 1);
    assert_eq!(one.items[0]["id"], placed[0].saga_id.to_string());

    let ours: BTreeSet<String> = placed
        .iter()
        .map(|order| order.saga_id.to_string())
        .collect();
    let id = |saga: &Value| saga["id"].as_str().unwrap_or_default().to_owned();
    let oldest = ours.first().expect("five sagas").clone();
    let url = format!("{sagas}?definition=order-fulfilment&limit=3");
    let pages = walk::<Value>(&client, &url, |saga| id(saga) == oldest).await;
    let walked: Vec<String> = pages.concat().iter().map(id).collect();
    let distinct: BTreeSet<String> = walked.iter().cloned().collect();
    assert_eq!(distinct.len(), walked.len(), "a saga is on two pages");
    assert!(distinct.is_superset(&ours), "a saga is on no page");

    for (filter, status) in [
        ("status=compensated", "compensated"),
        ("status=completed", "completed"),
    ] {
        let url = format!("{sagas}?{filter}&limit=3");
        // Only sagas since ours: other tests have placed hundreds.
        let pages = walk::<Value>(&client, &url, |saga| id(saga) < oldest).await;
        let found = pages.concat();
        assert!(
            found.iter().all(|saga| saga["status"] == status),
            "{filter} found {found:?}"
        );
        let found: BTreeSet<String> = found.iter().map(id).collect();
        let expected = if status == "completed" { 4 } else { 1 };
        assert_eq!(found.intersection(&ours).count(), expected, "{filter}");
    }
    let unknown: Page<Value> = client.read(&format!("{sagas}?definition=another")).await;
    assert_eq!(unknown.items, [] as [Value; 0]);
}

#[tokio::test]
async fn a_history_is_read_in_pages() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let order = client.place(&shop::order(Uuid::now_v7())).await;
    let order = client.ended(order.id, SOON).await;
    let whole = client.events(order.saga_id).await;
    let (mut read, mut after) = (Vec::new(), 0);
    loop {
        let url = format!(
            "{}/v1/sagas/{}/events?limit=3&after={after}",
            client.orders, order.saga_id
        );
        let page: Value = client.read(&url).await;
        read.extend(page["events"].as_array().expect("events").clone());
        match page["next_after"].as_i64() {
            Some(next) => after = next,
            None => break,
        }
    }
    let seqs: Vec<_> = read.iter().map(|event| event["seq"].as_i64()).collect();
    assert_eq!(
        seqs,
        whole
            .iter()
            .map(|event| Some(event.seq))
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn one_idempotency_key_is_one_order_however_often_and_at_once_it_comes() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let (customer, key) = (Uuid::now_v7(), Uuid::now_v7().to_string());
    let order = shop::order(customer);
    let answers = join_all((0..8).map(|_| client.post(&order, Some(&key)))).await;
    let mut seen = BTreeSet::new();
    for answer in answers {
        assert_eq!(answer.status(), StatusCode::CREATED);
        let location = answer.headers()["location"]
            .to_str()
            .expect("a location")
            .to_owned();
        let order: Order = answer.json().await.expect("an order");
        assert_eq!(location, format!("/v1/orders/{}", order.id));
        seen.insert((location, order.saga_id));
    }
    assert_eq!(seen.len(), 1, "one key made several orders: {seen:?}");
    assert_eq!(client.orders_of(customer).await.len(), 1);

    let mut other = order.clone();
    other["items"][0]["quantity"] = 3.into();
    let refused = client.post(&other, Some(&key)).await;
    assert_problem(refused, 422, "Idempotency-Key").await;
    assert_eq!(client.orders_of(customer).await.len(), 1);
    client
        .ended(client.orders_of(customer).await[0].id, SOON)
        .await;
}

#[tokio::test]
async fn every_bad_order_is_refused_naming_the_field_and_leaves_nothing() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let customer = Uuid::now_v7();
    let cases: [(&str, Value, &str); 22] = [
        ("/customer_id", json!("not-a-uuid"), "customer_id"),
        ("/customer_id", Value::Null, "customer_id"),
        ("/currency", json!("eur"), "currency"),
        ("/currency", json!("XAU"), "currency"),
        ("/currency", json!(978), "currency"),
        ("/items", json!([]), "items"),
        ("/items", json!({}), "items"),
        ("/items/0/sku", json!(""), "items[0].sku"),
        ("/items/0/quantity", json!(0), "items[0].quantity"),
        ("/items/0/quantity", json!(-1), "items[0].quantity"),
        ("/items/0/quantity", json!(1.5), "items[0].quantity"),
        ("/items/0/quantity", json!("2"), "items[0].quantity"),
        ("/items/0/quantity", json!(u64::MAX), "items[0].quantity"),
        ("/items/0/unit_price", json!(-1250), "items[0].unit_price"),
        (
            "/items/0/unit_price",
            json!(i64::MAX),
            "items[0].unit_price",
        ),
        ("/payment_method", json!("pm_gold"), "payment_method"),
        ("/delivery/name", json!(" "), "delivery.name"),
        ("/delivery/street", json!("a\u{0}b"), "delivery.street"),
        (
            "/delivery/postcode",
            json!("1".repeat(10_000)),
            "delivery.postcode",
        ),
        ("/delivery/city", json!(["Berlin"]), "delivery.city"),
        ("/delivery/country", json!("Germany"), "delivery.country"),
        ("/discount", json!(100), "discount"),
    ];
    for (pointer, value, field) in cases {
        let mut order = shop::order(customer);
        match order.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => order[&pointer[1..]] = value,
        }
        assert_problem(client.post(&order, None).await, 422, field).await;
    }
    for field in [
        "customer_id",
        "currency",
        "items",
        "payment_method",
        "delivery",
    ] {
        let mut order = shop::order(customer);
        order.as_object_mut().expect("an object").remove(field);
        assert_problem(client.post(&order, None).await, 422, field).await;
    }
    let good = shop::order(customer).to_string();
    let json = Some("application/json");
    for (content_type, body, status) in [
        (json, String::new(), 400),
        (json, "{".to_owned(), 400),
        (json, good.clone() + "}", 400),
        (json, "[".repeat(20_000), 400),
        (json, good.replace(RECIPIENT, &"x".repeat(70_000)), 413),
        (None, good.clone(), 415),
        (Some("text/plain"), good.clone(), 415),
    ] {
        assert_problem(client.post_raw(content_type, body).await, status, "").await;
    }
    for key in ["", "with space", &"k".repeat(256)] {
        let answer = client.post(&shop::order(customer), Some(key)).await;
        assert_problem(answer, 400, "Idempotency-Key").await;
    }
    assert_nothing_written(&house.shop, customer).await;
}

#[tokio::test]
async fn every_bad_question_is_refused_naming_the_parameter() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let (id, order) = (
        Uuid::now_v7(),
        client.place(&shop::order(Uuid::now_v7())).await,
    );
    let saga = order.saga_id;
    let Client {
        orders,
        payments,
        deliveries,
        notifications,
        ..
    } = &client;
    for (url, status, field) in [
        (format!("{orders}/v1/orders/{id}"), 404, ""),
        (format!("{orders}/v1/orders/17"), 400, "id"),
        (format!("{orders}/v1/orders?status=lost"), 400, "status"),
        (
            format!("{orders}/v1/orders?customer_id=me"),
            400,
            "customer_id",
        ),
        (format!("{orders}/v1/orders?limit=0"), 400, "limit"),
        (format!("{orders}/v1/orders?limit=1000000000"), 400, "limit"),
        (format!("{orders}/v1/orders?cursor=abc"), 400, "cursor"),
        (format!("{orders}/v1/orders?colour=red"), 400, "colour"),
        (format!("{orders}/v1/sagas/{id}"), 404, ""),
        (format!("{orders}/v1/sagas/17"), 400, "id"),
        (format!("{orders}/v1/sagas?status=lost"), 400, "status"),
        (format!("{orders}/v1/sagas?limit=1000000000"), 400, "limit"),
        (format!("{orders}/v1/sagas?cursor=abc"), 400, "cursor"),
        (format!("{orders}/v1/sagas?colour=red"), 400, "colour"),
        (format!("{orders}/v1/sagas/{id}/events"), 404, ""),
        (
            format!("{orders}/v1/sagas/{saga}/events?after=-1"),
            400,
            "after",
        ),
        (format!("{payments}/v1/payments"), 400, "order_id"),
        (
            format!("{payments}/v1/payments?order_id=x"),
            400,
            "order_id",
        ),
        (format!("{payments}/v1/payments/x"), 400, "id"),
        (format!("{payments}/v1/payments/{id}"), 404, ""),
        (
            format!("{deliveries}/v1/deliveries?order_id="),
            400,
            "order_id",
        ),
        (format!("{notifications}/v1/notifications"), 400, "order_id"),
        (format!("{payments}/v2/ledger"), 404, ""),
        (format!("{payments}/"), 404, ""),
    ] {
        assert_problem(client.get(&url).await, status, field).await;
    }
    client.ended(order.id, SOON).await;
}

#[tokio::test]
async fn all_eight_processes_are_healthy_and_ready_and_measured() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let order = client.place(&shop::order(Uuid::now_v7())).await;
    let order = client.ended(order.id, SOON).await;
    shop::assert_settled(&client, &order).await;
    for department in house.shop.departments() {
        for url in [&department.service_url, &department.relay_url] {
            let alive: Value = client.read(&format!("{url}/healthz")).await;
            assert_eq!(alive["status"], "alive", "{url}");
            let ready: Value = client.read(&format!("{url}/readyz")).await;
            for check in ["database", "broker", "lease"] {
                assert_eq!(
                    ready["checks"][check]["status"], "ok",
                    "{check} of {url}: {ready}"
                );
            }
            let described: Value = client.read(&format!("{url}/openapi.json")).await;
            assert!(described["paths"]["/readyz"]["get"].is_object(), "{url}");
            let page = client.get(&format!("{url}/docs")).await;
            assert_eq!(page.status(), StatusCode::OK, "{url}");
        }
    }
    let [orders, payments, deliveries, notifications] = house.shop.departments();
    let consumer = |name: &str| format!("consumer=\"{name}\"");
    for (url, name, labels) in [
        (
            &orders.service_url,
            "http_requests_total",
            vec!["route=\"/v1/orders\"".to_owned(), "201".into()],
        ),
        (&orders.service_url, "outbox_enqueued_total", vec![]),
        (
            &orders.service_url,
            "saga_started_total",
            vec!["order-fulfilment".into()],
        ),
        (
            &orders.service_url,
            "saga_ended_total",
            vec!["status=\"completed\"".into()],
        ),
        (
            &orders.service_url,
            "inbox_messages_total",
            vec![consumer("order-service.sagas"), "handled".into()],
        ),
        (
            &payments.service_url,
            "inbox_messages_total",
            vec![consumer("payment-service"), "handled".into()],
        ),
        (
            &payments.service_url,
            "saga_barrier_total",
            vec!["outcome=\"succeeded\"".into()],
        ),
        (
            &deliveries.service_url,
            "inbox_messages_total",
            vec![consumer("delivery-service"), "handled".into()],
        ),
        (
            &notifications.service_url,
            "inbox_messages_total",
            vec![consumer("notification-service"), "handled".into()],
        ),
        (&orders.relay_url, "outbox_published_total", vec![]),
        (&orders.relay_url, "outbox_lease_held", vec![]),
        (&payments.relay_url, "outbox_published_total", vec![]),
        (&deliveries.relay_url, "outbox_published_total", vec![]),
    ] {
        let text = client
            .get(&format!("{url}/metrics"))
            .await
            .text()
            .await
            .expect("text");
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        assert!(
            counted(&text, name, &labels) >= 1.0,
            "{name}{labels:?} of {url}:\n{text}"
        );
    }
    assert_discreet(&house.shop, &client, &order).await;
}

/// No payload, no id in a metric; no payload in a log.
async fn assert_discreet(shop: &Shop, client: &Client, order: &Order) {
    for department in shop.departments() {
        for url in [&department.service_url, &department.relay_url] {
            let text = client
                .get(&format!("{url}/metrics"))
                .await
                .text()
                .await
                .expect("text");
            for secret in [RECIPIENT, &order.id.to_string(), &order.saga_id.to_string()] {
                assert!(!text.contains(secret), "{url}/metrics shows {secret}");
            }
        }
    }
    let logs = std::fs::read_dir(shop.logs()).expect("the logs");
    let mut read = 0;
    for log in logs {
        let path = log.expect("a log").path();
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(
            !text.contains(RECIPIENT),
            "{} shows a payload",
            path.display()
        );
        read += 1;
    }
    assert_eq!(read, 8, "every process has a log");
}

/// Four orders that go well and one that is compensated, in the order placed, ended.
async fn place_five(client: &Client, customer: Uuid) -> Vec<Order> {
    let mut placed = Vec::new();
    for postcode in ["10115", "10115", "00000", "10115", "10115"] {
        placed.push(client.place(&shop::delivered_to(customer, postcode)).await);
    }
    for order in &mut placed {
        *order = client.ended(order.id, SOON).await;
    }
    placed
}

/// The pages of a list, until the last one or one with a row that is `enough`.
async fn walk<T: serde::de::DeserializeOwned>(
    client: &Client,
    url: &str,
    enough: impl Fn(&T) -> bool,
) -> Vec<Vec<T>> {
    let mut pages = Vec::new();
    let mut next = url.to_owned();
    loop {
        let page: Page<T> = client.read(&next).await;
        let stop = page.items.iter().any(&enough);
        pages.push(page.items);
        match page.next_cursor {
            Some(cursor) if !stop => next = format!("{url}&cursor={cursor}"),
            _ => return pages,
        }
    }
}

/// Asserts that an answer is problem+json of this status, naming `field` if it is not empty.
async fn assert_problem(answer: Response, status: u16, field: &str) {
    let (found, url) = (answer.status(), answer.url().clone());
    let content_type = answer.headers().get("content-type").cloned();
    let text = answer.text().await.expect("text");
    assert_eq!(found, status, "{url}, {field}: {text}");
    assert_eq!(
        content_type.expect("a content type"),
        "application/problem+json",
        "{text}"
    );
    let problem: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(problem["status"], status, "{text}");
    if !field.is_empty() {
        let errors = problem["errors"].as_array().into_iter().flatten();
        let named: Vec<_> = errors.map(|error| &error["field"]).collect();
        assert!(
            named.iter().any(|name| **name == field),
            "{field} is not named: {text}"
        );
    }
}

/// Asserts that nothing of a customer is in any table that an order touches.
async fn assert_nothing_written(shop: &Shop, customer: Uuid) {
    let mut orders = database(&shop.orders).await;
    let found: (i64, i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from orders.orders where customer_id = $1),
                (select count(*) from orders.item i
                 where not exists (select from orders.orders o where o.id = i.order_id)),
                (select count(*) from saga.instance where data->>'customer_id' = $1::text),
                (select count(*) from outbox.log where convert_from(payload, 'UTF8') like '%' || $1 || '%')",
    )
    .bind(customer)
    .fetch_one(&mut orders)
    .await
    .expect("counts");
    assert_eq!(found, (0, 0, 0, 0), "orders, items, sagas, messages");
}

#[tokio::test]
async fn an_order_is_watched_while_it_is_fulfilled() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let order = client.place(&shop::order(Uuid::now_v7())).await;
    let url = format!("{}/v1/sagas/{}/events", client.orders, order.saga_id);
    let http = testbed::http(SOON);
    let live = http.get(&url).header("accept", "text/event-stream");
    let mut live = live.send().await.expect("a stream");
    let mut text = String::new();
    while !text.contains("\"type\":\"completed\"") {
        let more = live
            .chunk()
            .await
            .expect("more")
            .expect("no end before the saga's");
        text.push_str(&String::from_utf8_lossy(&more));
    }
    let told = text.matches("event: recorded").count();
    let page: Value = client.read(&url).await;
    assert_eq!(
        page["events"].as_array().map(Vec::len),
        Some(told),
        "{text}"
    );
    let messages: Value = client.read(&url.replace("/events", "/messages")).await;
    let messages = messages["messages"].as_array().expect("messages").clone();
    let topics: BTreeSet<_> = messages
        .iter()
        .filter_map(|m| m["topic"].as_str())
        .collect();
    assert_eq!(
        topics,
        BTreeSet::from(["deliveries.commands", "orders.replies", "payments.commands"])
    );
    for department in house.shop.departments() {
        let outbox: Value = client
            .read(&format!("{}/v1/outbox", department.service_url))
            .await;
        assert!(outbox["status"]["lease"]["owner"].is_string(), "{outbox}");
        let parked: Value = client
            .read(&format!("{}/v1/parked", department.service_url))
            .await;
        assert!(parked["items"].is_array(), "{parked}");
    }
}
