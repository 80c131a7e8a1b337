//! The first transaction of an order: the order, its saga and the news of it, or none of them.

use contracts::order::OrderPlaced;
use contracts::topic;
use outbox::audit::{self, Author};
use outbox::{Error, Message};
use saga::Coordinator;
use serde_json::json;
use sqlx::{PgPool, PgTransaction};
use uuid::Uuid;

use crate::fulfilment::{self, Fulfilment};
use crate::order::{Draft, Order};
use crate::table;

/// What came of placing an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// It is placed now.
    First(Order),
    /// The same request was here before, under the same key; this is its order, as it stands now.
    Again(Order),
    /// Another request was here before under the same key. Nothing is placed.
    KeyReused,
    /// A request under the same key is here and does not end. Nothing is placed by this one.
    InProgress,
}

/// READ COMMITTED whatever the server's default: the repeat of a key sees the first one's order. It
/// waits for it, but not for ever.
const BEGIN: &str = "begin isolation level read committed; set local lock_timeout = '5s'";

/// Places an order, once per idempotency key of a caller. Whoever comes second with a key waits for the
/// first to commit, five seconds at most. That `caller` placed it stands in the audit, where the caller is known.
///
/// # Errors
///
/// Nothing is placed then, or it is not known whether the commit arrived; with a key the same
/// request can be repeated safely.
pub async fn place_order(
    pool: &PgPool,
    coordinator: &Coordinator,
    idempotency_key: Option<&str>,
    draft: Draft,
    caller: Option<&Author>,
) -> Result<Placed, Error> {
    let mut tx = pool.begin_with(BEGIN).await?;
    let (id, saga_id) = (Uuid::now_v7(), Uuid::now_v7());
    let placed_by = caller.map_or("", |caller| caller.actor.as_str());
    // An order from before callers were recorded is in nobody's way but its own repetition's.
    if let Some(placed) = repeat(&mut tx, placed_by, idempotency_key, &draft).await? {
        return Ok(placed);
    }
    match table::insert_order(&mut tx, id, saga_id, placed_by, idempotency_key, &draft).await {
        Ok(true) => {}
        Ok(false) => {
            let placed = repeat(&mut tx, placed_by, idempotency_key, &draft).await?;
            return placed.ok_or_else(|| Error::transient("the order of this key is gone"));
        }
        Err(error) if waited_in_vain(&error) => return Ok(Placed::InProgress),
        Err(error) => return Err(error.into()),
    }
    table::insert_items(&mut tx, id, &draft.items).await?;
    outbox::enqueue(&mut tx, &placed(id, &draft)?).await?;
    let data = data(id, draft);
    coordinator
        .start(&mut tx, saga_id, fulfilment::NAME, &id.to_string(), &data)
        .await?;
    if let Some(caller) = caller {
        let subject = format!("orders/{id}");
        audit::record(&mut tx, caller, "order.place", &subject, json!({})).await?;
    }
    let order = read(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Placed::First(order))
}

/// `lock_not_available`: the only row that an insert waits for is another one with its key.
fn waited_in_vain(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("55P03")
}

/// What came of the request that was here before under this key; none if there was none.
async fn repeat(
    tx: &mut PgTransaction<'_>,
    placed_by: &str,
    idempotency_key: Option<&str>,
    draft: &Draft,
) -> Result<Option<Placed>, Error> {
    let Some(key) = idempotency_key else {
        return Ok(None);
    };
    Ok(match table::order_of_key(tx, placed_by, key).await? {
        Some((id, hash)) if hash == draft.request_hash => Some(Placed::Again(read(tx, id).await?)),
        Some(_) => Some(Placed::KeyReused),
        None => None,
    })
}

async fn read(tx: &mut PgTransaction<'_>, id: Uuid) -> Result<Order, Error> {
    let order = table::order(&mut **tx, id).await?;
    order.ok_or_else(|| Error::permanent("the order just written is not there"))
}

fn placed(order_id: Uuid, draft: &Draft) -> Result<Message, Error> {
    let event = OrderPlaced {
        order_id,
        customer_id: draft.customer_id,
        total: draft.total,
    };
    Message::new(topic::ORDER_EVENTS, order_id, &event)
}

fn data(order_id: Uuid, draft: Draft) -> Fulfilment {
    Fulfilment {
        order_id,
        customer_id: draft.customer_id,
        total: draft.total,
        payment_method: draft.payment_method,
        address: draft.address,
        payment_id: None,
        delivery_day: None,
        tracking: None,
    }
}
