//! Choreography: nobody commands this service; it listens to what happened to orders.

use contracts::order::{OrderAbandoned, OrderConfirmed, OrderPlaced, OrderRejected};
use outbox::{Error, Handler, Payload, Received};
use sqlx::PgTransaction;

use crate::notification::Letter;
use crate::table;

/// What customers are told about.
const KINDS: [&str; 4] = [
    OrderPlaced::KIND,
    OrderConfirmed::KIND,
    OrderAbandoned::KIND,
    OrderRejected::KIND,
];

/// Records a notification for each event of an order that customers are told about. Other kinds are
/// none of its business. Another version of one of these is parked by its consumer: somebody has to
/// decide what customers are told about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct OrderEvents;

impl Handler for OrderEvents {
    fn kinds(&self) -> Option<&[&str]> {
        Some(&KINDS)
    }

    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        let letter = read(message)?;
        table::record(tx, message.id, &letter).await?;
        Ok(())
    }
}

fn read(message: &Received) -> Result<Letter, Error> {
    match message.kind.as_str() {
        OrderPlaced::KIND => message.decode::<OrderPlaced>().map(Letter::from),
        OrderConfirmed::KIND => message.decode::<OrderConfirmed>().map(Letter::from),
        OrderAbandoned::KIND => message.decode::<OrderAbandoned>().map(Letter::from),
        OrderRejected::KIND => message.decode::<OrderRejected>().map(Letter::from),
        _ => Err(Error::Decode {
            kind: message.kind.clone(),
            reason: "nothing is said about events of this kind".to_owned(),
        }),
    }
}
