//! The end of an order, in the transaction that ends its saga.

use contracts::order::{OrderConfirmed, OrderRejected};
use contracts::topic;
use outbox::{Error, Message};
use saga::Ended;
use sqlx::PgTransaction;

use crate::fulfilment::{Fulfilment, reason_for_people};
use crate::table;

/// Paid, and with the carrier.
pub(crate) async fn confirm(
    tx: &mut PgTransaction<'_>,
    ended: Ended<Fulfilment>,
) -> Result<(), Error> {
    let order = ended.data;
    must_be_pending(table::confirm(tx, order.order_id).await?)?;
    let event = OrderConfirmed {
        order_id: order.order_id,
        customer_id: order.customer_id,
        total: order.total,
        delivery_day: order.delivery_day,
        tracking: order.tracking,
    };
    let message = Message::new(topic::ORDER_EVENTS, order.order_id, &event)?;
    outbox::enqueue(tx, &message).await?;
    Ok(())
}

/// Nothing is left of it but the reason.
pub(crate) async fn reject(
    tx: &mut PgTransaction<'_>,
    ended: Ended<Fulfilment>,
) -> Result<(), Error> {
    let order = ended.data;
    let reason = reason_for_people(ended.reason.as_deref());
    must_be_pending(table::reject(tx, order.order_id, &reason).await?)?;
    let event = OrderRejected {
        order_id: order.order_id,
        customer_id: order.customer_id,
        reason,
    };
    let message = Message::new(topic::ORDER_EVENTS, order.order_id, &event)?;
    outbox::enqueue(tx, &message).await?;
    Ok(())
}

/// A saga ends once, and nothing else ends an order.
fn must_be_pending(was_pending: bool) -> Result<(), Error> {
    if was_pending {
        Ok(())
    } else {
        Err(Error::permanent("the order of this saga is not pending"))
    }
}
