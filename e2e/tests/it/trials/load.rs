//! Clients that place the orders of a program, and note what they were answered.
//!
//! A request that was not answered, or with a 5xx, may have placed its order or not: it is asked again under the same key
//! until it is known. What is noted is outside of the shop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use testbed::until;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::interval,
};
use uuid::Uuid;

use super::{
    program::{Program, Wish},
    room::Room,
};
use crate::shop::{Client, Order};

/// How long a client asks until it knows. Several faults may follow each other.
const STUBBORN: Duration = Duration::from_secs(180);

/// The pause before a client asks again.
const PAUSE: Duration = Duration::from_millis(200);

/// An order that was placed.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) wish: Wish,
    pub(crate) order: Uuid,
    pub(crate) saga: Uuid,
}

/// Orders under way to the shop.
pub(crate) struct Load {
    enough: Arc<AtomicBool>,
    known: Arc<AtomicUsize>,
    again: Arc<AtomicUsize>,
    clients: JoinHandle<Vec<Placed>>,
}

impl Load {
    /// Places `rate` orders a second, an open loop, until told that it is enough and at least `at_least` are placed.
    pub(crate) fn start(room: &Room, program: Program, rate: u64, at_least: usize) -> Self {
        let doors = room.clients();
        let (enough, known) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let again = Arc::<AtomicUsize>::default();
        let clients = {
            let (enough, known, again) = (enough.clone(), known.clone(), again.clone());
            tokio::spawn(async move {
                place(program, rate, at_least, &doors, &enough, &known, &again).await
            })
        };
        Self {
            enough,
            known,
            again,
            clients,
        }
    }

    /// Waits until so many more orders are placed.
    pub(crate) async fn wait_for_more(&self, orders: usize) {
        let goal = self.known.load(Ordering::Relaxed) + orders;
        until(STUBBORN, "more orders to be placed", async || {
            (self.known.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// No more orders. Those that were placed, once every client knows; some had to ask again.
    pub(crate) async fn finish(self) -> Vec<Placed> {
        self.enough.store(true, Ordering::Relaxed);
        let placed = self.clients.await.expect("every client gets an answer");
        let again = self.again.load(Ordering::Relaxed);
        assert!(again > 0, "no client ever met a fault");
        println!("{} orders placed, asked again {again} times", placed.len());
        placed
    }
}

async fn place(
    program: Program,
    rate: u64,
    at_least: usize,
    doors: &[Client],
    enough: &AtomicBool,
    known: &Arc<AtomicUsize>,
    again: &Arc<AtomicUsize>,
) -> Vec<Placed> {
    let mut clients = JoinSet::new();
    let mut pace = interval(Duration::from_micros(1_000_000 / rate));
    for (at, wish) in program.enumerate() {
        if at >= at_least && enough.load(Ordering::Relaxed) {
            break;
        }
        pace.tick().await;
        let client = doors[at % doors.len()].clone();
        let (known, again) = (known.clone(), again.clone());
        clients.spawn(async move {
            let order = ask(&client, &wish, &again).await;
            known.fetch_add(1, Ordering::Relaxed);
            let (order, saga) = (order.id, order.saga_id);
            Placed { wish, order, saga }
        });
    }
    clients.join_all().await
}

/// Asks until there is an order, which must be the same whenever it is known.
async fn ask(client: &Client, wish: &Wish, again: &AtomicUsize) -> Order {
    let unknown = async || {
        again.fetch_add(1, Ordering::Relaxed);
        // As a client that is not alone.
        tokio::time::sleep(PAUSE).await;
        None
    };
    let order = until(STUBBORN, "an answer to an order", async || {
        let Ok(answer) = client.try_post(&wish.order, Some(&wish.key)).await else {
            return unknown().await;
        };
        let status = answer.status();
        if status.is_server_error() {
            return unknown().await;
        }
        let text = answer.text().await.ok()?;
        assert!(status.is_success(), "{status}: {text}");
        Some(serde_json::from_str::<Order>(&text).expect("an order"))
    })
    .await;
    assert_eq!(
        (order.customer_id, order.total),
        (wish.customer, wish.total)
    );
    order
}
