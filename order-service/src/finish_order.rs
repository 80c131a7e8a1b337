//! The end of an order, in the transaction that ends its saga.

use contracts::order::{OrderAbandoned, OrderConfirmed, OrderRejected};
use contracts::topic;
use outbox::{Error, Message};
use saga::Ended;
use sqlx::PgTransaction;

use crate::fulfilment::{Fulfilment, reason_for_people, rejection};
use crate::order::{Rejection, Status};
use crate::table;

/// What an abandoned order's customer reads: why it was given up is the operators' business.
const ABANDONED: &str = "The order could not be handled automatically; we look into it.";

/// Paid, and with the carrier.
pub(crate) async fn confirm(
    tx: &mut PgTransaction<'_>,
    ended: Ended<Fulfilment>,
) -> Result<(), Error> {
    let order = ended.data;
    end(tx, &order, Status::Confirmed, None, None).await?;
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
    let rejection = rejection(ended.cause.as_ref());
    let reason = reason_for_people(rejection, ended.reason.as_deref());
    let (why, word) = (Some(reason.as_str()), Some(rejection));
    end(tx, &order, Status::Rejected, why, word).await?;
    let event = OrderRejected {
        order_id: order.order_id,
        customer_id: order.customer_id,
        reason,
    };
    let message = Message::new(topic::ORDER_EVENTS, order.order_id, &event)?;
    outbox::enqueue(tx, &message).await?;
    Ok(())
}

/// A person gave up its saga; what is left of it is not known here.
pub(crate) async fn abandon(
    tx: &mut PgTransaction<'_>,
    ended: Ended<Fulfilment>,
) -> Result<(), Error> {
    let order = ended.data;
    end(tx, &order, Status::Abandoned, Some(ABANDONED), None).await?;
    let event = OrderAbandoned {
        order_id: order.order_id,
        customer_id: order.customer_id,
    };
    let message = Message::new(topic::ORDER_EVENTS, order.order_id, &event)?;
    outbox::enqueue(tx, &message).await?;
    Ok(())
}

/// A saga ends once, and nothing else ends an order.
async fn end(
    tx: &mut PgTransaction<'_>,
    order: &Fulfilment,
    status: Status,
    reason: Option<&str>,
    rejection: Option<Rejection>,
) -> Result<(), Error> {
    if table::end(tx, order.order_id, status, reason, rejection).await? {
        Ok(())
    } else {
        Err(Error::permanent("the order of this saga is not pending"))
    }
}
