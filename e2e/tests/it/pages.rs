//! The dashboard in a browser, over the running shop: `e2e/browser/walk.mjs` is what a person does.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use testbed::until;
use tokio::process::Command;
use tokio::time::timeout;
use uuid::Uuid;

use crate::shop::{self, Guarded, SOON};

/// The whole walk. It waits twice for a payment that never answers.
const WALK: Duration = Duration::from_secs(300);
/// Stands in whatever is hostile.
const MALICE: &str = "window.hostile=1";

/// A message that payment-service cannot read, and whose every part would run if it were let.
async fn park_something_hostile(shop: &shop::House) {
    let hostile = hostile();
    let mut orders = PgConnection::connect(&shop.shop.orders.database_url)
        .await
        .expect("the orders' database");
    let enqueued = sqlx::query_scalar("select outbox.enqueue('payments.commands', $1, $2, convert_to($3, 'UTF8'), jsonb_build_object('hostile', $1))")
        .bind(&hostile)
        .bind("hostile.command.v1")
        .bind(format!("<b>{hostile}</b>"))
        .fetch_one(&mut orders);
    let id: Uuid = enqueued.await.expect("it is enqueued");
    until(SOON, "the hostile message is parked", async || {
        let mut payments = PgConnection::connect(&shop.shop.payments.database_url)
            .await
            .expect("the payments' database");
        let parked =
            sqlx::query_scalar("select count(*) from outbox.inbox_parked where message_id = $1");
        let parked = parked.bind(id);
        let parked: i64 = parked.fetch_one(&mut payments).await.expect("a count");
        (parked > 0).then_some(())
    })
    .await;
}

/// Would run as markup, in an attribute and in a script.
fn hostile() -> String {
    format!("\"><img src=x onerror={MALICE}><script>{MALICE}</script>")
}

/// Where `./testbed/install-tools browser` has put what drives the browser.
fn script() -> PathBuf {
    testbed::target_folder().join("tools/browser/walk.mjs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_on_call_finds_their_way_known_or_not() {
    let house = shop::shop().await;
    park_something_hostile(&house).await;
    // The pictures for the README are of the one where nobody is asked, and so are made last.
    let guarded = Guarded::start(&house).await;
    walk(&guarded.url, Some(&guarded.token), 17).await;
    park_something_hostile(&house).await;
    walk(&house.shop.orders.service_url, None, 16).await;
}

/// The walk, which has so many steps.
async fn walk(base: &str, token: Option<&str>, steps: usize) {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("browser/walk.mjs");
    let script = script();
    let ready = script.with_file_name("node_modules").is_dir();
    assert!(ready, "run ./testbed/install-tools browser first");
    std::fs::copy(source, &script).expect("the walk is there");
    let shots = testbed::target_folder().join("screenshots");
    std::fs::create_dir_all(&shots).expect("a folder for pictures");
    let mut walking = Command::new("node");
    walking
        .arg(&script)
        .env("BASE", base)
        .env("SHOTS", &shots)
        .env("MALICE", MALICE)
        .env("KEY", hostile())
        .env("CHROMIUM", chromium())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(token) = token {
        walking.env("TOKEN", token);
    }
    let walked = timeout(WALK, walking.output()).await;
    let walked = walked.expect("the walk ends in time").expect("node runs");
    let told = String::from_utf8_lossy(&walked.stdout);
    let wrong = String::from_utf8_lossy(&walked.stderr);
    let shots = shots.display();
    assert!(
        walked.status.success(),
        "{told}\n{wrong}\npictures are in {shots}"
    );
    // A walk that ends early is none.
    assert_eq!(told.matches("ok  ").count(), steps, "{told}");
}

fn chromium() -> String {
    std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned())
}
