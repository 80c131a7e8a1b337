//! What must be true of money, parcels, messages and histories. It knows the orders and their ends, and nothing of how the
//! shop got there.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use testbed::{shop::Department, until};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{load::Placed, program::Fate, room::Room};
use crate::shop::{HEALED, database};

/// The pause between two looks at the books.
const LOOK: Duration = Duration::from_millis(100);

/// How many orders came to which end, by what was to be expected of them.
pub(crate) type Ends = BTreeMap<(Fate, String), usize>;

/// Looks at the books while everything happens.
pub(crate) struct Audit {
    closed: Arc<AtomicBool>,
    auditor: JoinHandle<usize>,
}

impl Audit {
    pub(crate) fn begin(room: &Room) -> Self {
        let closed = Arc::<AtomicBool>::default();
        let (url, until_closed) = (room.shop.payments.database_url.clone(), closed.clone());
        let auditor = tokio::spawn(async move {
            let (mut looks, mut books) = (0, None);
            while !until_closed.load(Ordering::Relaxed) {
                let Some(mut connection) = books.take() else {
                    books = PgConnection::connect(&url).await.ok();
                    tokio::time::sleep(LOOK).await;
                    continue;
                };
                if let Ok(sums) = sums(&mut connection).await {
                    sums.agree();
                    looks += 1;
                    books = Some(connection);
                }
                tokio::time::sleep(LOOK).await;
            }
            looks
        });
        Self { closed, auditor }
    }

    /// How often the books were looked at.
    pub(crate) async fn end(self) -> usize {
        self.closed.store(true, Ordering::Relaxed);
        let looks = self.auditor.await;
        looks.expect("the books agree whenever somebody looks")
    }
}

/// All money in one committed snapshot.
#[derive(Debug, sqlx::FromRow)]
struct Sums {
    total: i64,
    held: i64,
    authorized: i64,
    merchant: i64,
    captured: i64,
}

impl Sums {
    fn agree(&self) {
        assert_eq!(self.total, 0, "{self:?}");
        assert_eq!(self.held, self.authorized, "{self:?}");
        assert_eq!(self.merchant, self.captured, "{self:?}");
    }
}

async fn sums(payments: &mut PgConnection) -> sqlx::Result<Sums> {
    let entries = |which: &str| {
        format!("(select coalesce(sum(amount), 0)::bigint from payments.entry where {which})")
    };
    let paid = |status: &str| {
        format!(
            "(select coalesce(sum(amount), 0)::bigint from payments.payment
              where status = '{status}')"
        )
    };
    let sql = format!(
        "select {} as total, {} as held, {} as authorized, {} as merchant, {} as captured",
        entries("true"),
        entries("account like 'held:%'"),
        paid("authorized"),
        entries("account = 'merchant'"),
        paid("captured"),
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_one(payments)
        .await
}

/// Asserts that everything is as the ends of the orders say, and that these ends are lawful.
pub(crate) async fn agrees(room: &Room, placed: &[Placed]) -> Ends {
    let shop = &room.shop;
    let ends = ends(&shop.orders, placed).await;
    money(&shop.payments, placed, &ends).await;
    parcels(&shop.deliveries, placed, &ends).await;
    histories(&shop.orders, placed, &ends).await;
    nothing_is_left(room).await;
    customers_are_told(&shop.notifications, placed, &ends).await;
    let mut counts = Ends::new();
    for order in placed {
        let end = ends[&order.order].clone();
        *counts.entry((order.wish.fate, end)).or_default() += 1;
    }
    counts
}

/// Each order once, with its saga and a lawful end.
async fn ends(orders: &Department, placed: &[Placed]) -> HashMap<Uuid, String> {
    let rows: Vec<(Uuid, String, Uuid, String, String)> = sqlx::query_as(
        "select o.id, o.idempotency_key, o.saga_id, o.status, i.status
         from orders.orders o join saga.instance i on i.id = o.saga_id",
    )
    .fetch_all(&mut database(orders).await)
    .await
    .expect("all orders");
    assert_eq!(rows.len(), placed.len(), "as many orders as were placed");
    let by_key: HashMap<&str, &(Uuid, String, Uuid, String, String)> =
        rows.iter().map(|row| (row.1.as_str(), row)).collect();
    for order in placed {
        let (id, _, saga, status, saga_status) = by_key[order.wish.key.as_str()];
        assert_eq!((*id, *saga), (order.order, order.saga), "{order:?}");
        let lawful = match (status.as_str(), saga_status.as_str()) {
            ("confirmed", "completed") => order.wish.fate == Fate::Good,
            ("rejected", "compensated") => true,
            _ => false,
        };
        assert!(lawful, "{status}, {saga_status}: {order:?}");
    }
    rows.into_iter()
        .map(|(id, _, _, status, _)| (id, status))
        .collect()
}

/// Who got what they ordered has paid for it, once; nobody else has, and nothing is held of anybody.
async fn money(payments: &Department, placed: &[Placed], ends: &HashMap<Uuid, String>) {
    let mut payments = database(payments).await;
    sums(&mut payments).await.expect("the books").agree();
    let found: Vec<(String, i64)> = sqlx::query_as(
        "select account, sum(amount)::bigint from payments.entry group by account
         having sum(amount) <> 0",
    )
    .fetch_all(&mut payments)
    .await
    .expect("the accounts");
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    for order in placed
        .iter()
        .filter(|order| ends[&order.order] == "confirmed")
    {
        let customer = format!("customer:{}", order.wish.customer);
        *expected.entry(customer).or_default() -= order.wish.total;
        *expected.entry("merchant".to_owned()).or_default() += order.wish.total;
    }
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected);
}

/// Each confirmed order is with the carrier, no other is, and each day's places are those of its parcels.
async fn parcels(deliveries: &Department, placed: &[Placed], ends: &HashMap<Uuid, String>) {
    let mut deliveries = database(deliveries).await;
    let found: Vec<(Uuid, String)> =
        sqlx::query_as("select order_id, status from deliveries.delivery")
            .fetch_all(&mut deliveries)
            .await
            .expect("the deliveries");
    let found: HashMap<Uuid, String> = found.into_iter().collect();
    for order in placed {
        let parcel = found.get(&order.order).map(String::as_str);
        match ends[&order.order].as_str() {
            "confirmed" => assert_eq!(parcel, Some("handed_over"), "{order:?}"),
            _ => assert!(
                matches!(parcel, None | Some("cancelled")),
                "{parcel:?}: {order:?}"
            ),
        }
    }
    let wrong: Vec<Value> = sqlx::query_scalar(
        "select to_jsonb(d) from deliveries.day d
         where taken <> (select count(*) from deliveries.delivery v
                         where v.day = d.day and v.status <> 'cancelled')",
    )
    .fetch_all(&mut deliveries)
    .await
    .expect("the days");
    assert_eq!(wrong, [] as [Value; 0]);
}

/// No way back after the point of no return; the way back in reverse, over every step that may have had an effect and over
/// none that is known to have had none (P6).
async fn histories(orders: &Department, placed: &[Placed], ends: &HashMap<Uuid, String>) {
    let rows: Vec<(Uuid, Value)> =
        sqlx::query_as("select saga_id, body from saga.event order by saga_id, seq")
            .fetch_all(&mut database(orders).await)
            .await
            .expect("all histories");
    let mut histories: HashMap<Uuid, Vec<Value>> = HashMap::new();
    for (saga, event) in rows {
        histories.entry(saga).or_default().push(event);
    }
    for order in placed {
        let events = &histories[&order.saga];
        let sent = |phase: &str| {
            let sent = events
                .iter()
                .filter(|event| event["type"] == "command_sent" && event["phase"] == phase);
            let mut steps: Vec<&str> = Vec::new();
            for step in sent.filter_map(|event| event["step"].as_str()) {
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
            steps
        };
        let mut told = events.iter().map(|event| (&event["type"], &event["step"]));
        let (forwards, mut back) = (sent("action"), sent("compensation"));
        if ends[&order.order] == "confirmed" {
            assert_eq!(back, [] as [&str; 0], "{events:#?}");
            assert_eq!(forwards.len(), 4, "{events:#?}");
            continue;
        }
        let captured =
            told.any(|(kind, step)| kind == "action_succeeded" && step == "capture-payment");
        assert!(!captured, "back over the point of no return: {events:#?}");
        let refused: HashSet<&str> = events
            .iter()
            .filter(|event| event["type"] == "action_failed")
            .filter_map(|event| event["step"].as_str())
            .collect();
        let undoable = ["authorize-payment", "schedule-delivery"];
        let due = forwards
            .iter()
            .filter(|step| undoable.contains(step) && !refused.contains(*step));
        back.reverse();
        assert_eq!(due.copied().collect::<Vec<_>>(), back, "{events:#?}");
    }
}

/// Nothing waits, is locked, is parked or is half done.
async fn nothing_is_left(room: &Room) {
    let shop = &room.shop;
    for table in ["saga.timer", "saga.lock", "saga.lock_claim", "saga.pending"] {
        empty(&shop.orders, table, "true").await;
    }
    for department in [&shop.payments, &shop.deliveries] {
        empty(department, "saga.barrier", "state <> 'answered'").await;
    }
    for department in shop.departments() {
        empty(department, "outbox.parked", "true").await;
        empty(department, "outbox.inbox_parked", "true").await;
    }
}

async fn empty(department: &Department, table: &str, which: &str) {
    let sql = format!("select to_jsonb(r) from {table} r where {which} limit 3");
    let rows: Vec<Value> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_all(&mut database(department).await)
        .await
        .expect("rows");
    assert_eq!(
        rows,
        [] as [Value; 0],
        "{table} of {}",
        department.plan.name
    );
}

/// Of the beginning and of the end, each once.
async fn customers_are_told(
    notifications: &Department,
    placed: &[Placed],
    ends: &HashMap<Uuid, String>,
) {
    let mut expected: Vec<(Uuid, String)> = Vec::new();
    for order in placed {
        let end = format!("order_{}", ends[&order.order]);
        expected.extend([(order.order, "order_placed".to_owned()), (order.order, end)]);
    }
    expected.sort();
    let told = "select order_id, template from notifications.notification";
    let told = until(HEALED, "every customer to be told", async || {
        let told: Vec<(Uuid, String)> = sqlx::query_as(told)
            .fetch_all(&mut database(notifications).await)
            .await
            .expect("the notifications");
        (told.len() >= expected.len()).then_some(told)
    });
    let mut told = told.await;
    told.sort();
    assert_eq!(told, expected);
}
