//! Four orders, what becomes of each, and whether that is right.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use saga::event::Event;
use serde_json::{Value, json};
use testbed::wait_for;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{narrator, shop::Shop};

/// How long an order may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Chapter {
    title: &'static str,
    payment_method: &'static str,
    postcode: &'static str,
    /// The order's status at the end.
    status: &'static str,
    /// What its history must contain, by type and step, in this order.
    history: &'static [(&'static str, &'static str)],
}

const CHAPTERS: [Chapter; 4] = [
    Chapter {
        title: "An order that goes through",
        payment_method: "pm_card_visa",
        postcode: "10115",
        status: "confirmed",
        history: &[("action_succeeded", "capture-payment"), ("completed", "")],
    },
    Chapter {
        title: "A card that is declined",
        payment_method: "pm_card_declined",
        postcode: "10115",
        status: "rejected",
        history: &[("action_failed", "authorize-payment"), ("compensated", "")],
    },
    Chapter {
        title: "An address that is not served, after the money was held",
        payment_method: "pm_card_visa",
        postcode: "00000",
        status: "rejected",
        history: &[
            ("action_succeeded", "authorize-payment"),
            ("action_failed", "schedule-delivery"),
            ("step_compensated", "authorize-payment"),
            ("compensated", ""),
        ],
    },
    Chapter {
        title: "A payment that never answers",
        payment_method: "pm_timeout",
        postcode: "10115",
        status: "rejected",
        history: &[
            ("action_unknown", "authorize-payment"),
            ("step_null_compensated", "authorize-payment"),
            ("compensated", ""),
        ],
    },
];

/// Tells all of it. Whether each order and the ledger ended as they should.
pub(crate) async fn tell(shop: &Shop) -> Result<bool> {
    let mut right = true;
    for (number, chapter) in CHAPTERS.iter().enumerate() {
        println!(
            "\n{}. {} ({}, {})",
            number + 1,
            chapter.title,
            chapter.payment_method,
            chapter.postcode
        );
        if let Err(error) = play(shop, chapter).await {
            println!("   WRONG: {error:#}");
            right = false;
        }
    }
    if let Err(error) = ledger(shop).await {
        println!("   WRONG: {error:#}");
        right = false;
    }
    Ok(right)
}

async fn play(shop: &Shop, chapter: &Chapter) -> Result<()> {
    let body = json!({
        "customer_id": Uuid::now_v7(),
        "currency": "EUR",
        "items": [{ "sku": "BOOK-1", "quantity": 2, "unit_price": 1250 }],
        "payment_method": chapter.payment_method,
        "delivery": {
            "name": "Ada Lovelace", "street": "Torstraße 1", "postcode": chapter.postcode,
            "city": "Berlin", "country": "DE",
        },
    });
    let placed = Instant::now();
    let answer = shop
        .http
        .post(format!("{}/v1/orders", shop.orders))
        .json(&body)
        .send()
        .await?;
    ensure!(
        answer.status() == 201,
        "POST /v1/orders answered {}",
        answer.status()
    );
    let order: Value = answer.json().await?;
    let id = order["id"].as_str().context("the order has an id")?;
    let saga = order["saga_id"].as_str().context("the order has a saga")?;
    let history = follow(shop, saga, placed).await?;

    let order = get(shop, &format!("{}/v1/orders/{id}", shop.orders)).await?;
    let reason = order["reason"]
        .as_str()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    println!(
        "   the order is {}{reason}",
        order["status"].as_str().unwrap_or("?")
    );
    ensure!(
        order["status"] == chapter.status,
        "the order should be {}",
        chapter.status
    );
    let mut rest = history.iter();
    for (kind, step) in chapter.history {
        let found = rest.any(|(k, s)| k == kind && s == step);
        ensure!(found, "the history should have {kind} {step}");
    }
    Ok(())
}

/// Prints a saga's events as they come, until it has ended; returns their types and steps.
async fn follow(shop: &Shop, saga: &str, placed: Instant) -> Result<Vec<(String, String)>> {
    let mut history = Vec::new();
    let mut after = 0;
    loop {
        let url = format!("{}/v1/sagas/{saga}/events?after={after}", shop.orders);
        let page = wait_for(PATIENCE, "the saga's next event", async || {
            let page = get(shop, &url).await?;
            let any = page["events"]
                .as_array()
                .is_some_and(|events| !events.is_empty());
            Ok(any.then_some(page))
        })
        .await?;
        for recorded in page["events"].as_array().into_iter().flatten() {
            after = recorded["seq"].as_i64().unwrap_or(after);
            let event: Event = serde_json::from_value(recorded["event"].clone())?;
            if let Some(line) = narrator::line(&event) {
                println!("   {:>6.2} s  {line}", placed.elapsed().as_secs_f64());
            }
            let step = recorded["event"]["step"].as_str().unwrap_or_default();
            history.push((event.kind().to_owned(), step.to_owned()));
            if matches!(event, Event::Completed | Event::Compensated) {
                return Ok(history);
            }
        }
        ensure!(
            placed.elapsed() < PATIENCE,
            "the saga did not end in {PATIENCE:?}"
        );
    }
}

async fn ledger(shop: &Shop) -> Result<()> {
    let ledger = get(shop, &format!("{}/v1/ledger", shop.payments)).await?;
    println!("\nThe ledger of all four");
    for account in ledger["accounts"].as_array().into_iter().flatten() {
        let name = account["account"].as_str().unwrap_or("?");
        let cents = account["balance"].as_i64().unwrap_or_default();
        println!("   {name:<48} {:>9.2} EUR", cents as f64 / 100.0);
    }
    println!("   {:<48} {:>9}", "total", ledger["total"]);
    ensure!(ledger["total"] == 0, "the ledger should sum to zero");
    let held = ledger["holds"].as_array().map_or(0, Vec::len);
    ensure!(
        held == 0,
        "no money should be held any more, {held} holds are left"
    );
    Ok(())
}

async fn get(shop: &Shop, url: &str) -> Result<Value> {
    let answer = shop.http.get(url).send().await?;
    if !answer.status().is_success() {
        bail!("{url} answered {}", answer.status());
    }
    Ok(answer.json().await?)
}
