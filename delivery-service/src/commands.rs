//! What sagas ask of this service. The barrier stands in front: each operation comes through once.
//!
//! Each has the same lines: lock, decide, write, answer; begin and commit are the consumer's.

use contracts::delivery::{
    CancelDelivery, DeliveryHandedOver, DeliveryScheduled, HandOverDelivery, ScheduleDelivery,
};
use outbox::Error;
use saga::Participant;
use saga::participant::{Action, Answer, Commands, Compensation, Context, Prepare};
use saga::wire::Refusal;
use sqlx::PgTransaction;
use uuid::Uuid;

use crate::carrier::{Carrier, HandOver};
use crate::delivery::{self, Status};
use crate::table;

/// Everything this service can be asked to do.
#[must_use]
pub fn participant() -> Participant {
    Participant::new(crate::NAME)
        .prepare(LockDeliveries)
        .action(Schedule)
        .action(GiveToCarrier::default())
        .compensation(Cancel)
}

/// What a batch will need: deliveries first, then days, each in one order. Places are taken on the
/// first day with room, which nobody knows before the days are locked.
#[derive(Debug)]
struct LockDeliveries;

/// What every command has.
#[derive(serde::Deserialize)]
struct OfOrder {
    order_id: Uuid,
}

impl Prepare for LockDeliveries {
    async fn prepare(
        &self,
        tx: &mut PgTransaction<'_>,
        commands: Commands<'_>,
    ) -> Result<(), Error> {
        let orders = commands.having::<OfOrder>().map(|of| of.order_id);
        let orders: Vec<Uuid> = orders.collect();
        table::lock_deliveries(tx, &orders).await?;
        let schedules = commands.of::<ScheduleDelivery>().next().is_some();
        if schedules {
            table::add_days(tx).await?;
        }
        if schedules || commands.of::<CancelDelivery>().next().is_some() {
            table::lock_days(tx, &orders).await?;
        }
        Ok(())
    }
}

/// Takes a place on the first day with room.
#[derive(Debug)]
struct Schedule;

impl Action for Schedule {
    type Command = ScheduleDelivery;
    type Reply = DeliveryScheduled;

    async fn execute(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: ScheduleDelivery,
    ) -> Result<Answer<DeliveryScheduled>, Error> {
        if !delivery::is_served(&command.address.postcode) {
            return Ok(refused("not_served", "We do not deliver to this postcode."));
        }
        let Some(day) = table::take_place(tx).await? else {
            let message = "There is no room for another delivery in the next two weeks.";
            return Ok(refused("no_capacity", message));
        };
        let delivery_id = Uuid::now_v7();
        if !table::insert_delivery(tx, delivery_id, &command, day).await? {
            return Ok(refused(
                "scheduled_before",
                "The order has a delivery already.",
            ));
        }
        Ok(Answer::Done(DeliveryScheduled { delivery_id, day }))
    }
}

/// Gives the parcel to the carrier, who may not want it yet.
#[derive(Debug, Default)]
struct GiveToCarrier {
    carrier: Carrier,
}

impl Action for GiveToCarrier {
    type Command = HandOverDelivery;
    type Reply = DeliveryHandedOver;

    async fn execute(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: HandOverDelivery,
    ) -> Result<Answer<DeliveryHandedOver>, Error> {
        let Some(delivery) = table::lock_delivery(tx, command.order_id).await? else {
            return Ok(refused(
                "no_delivery",
                "No delivery is scheduled for the order.",
            ));
        };
        if delivery.status == Status::Cancelled {
            return Ok(refused(
                "cancelled",
                "The delivery of the order is cancelled.",
            ));
        }
        // The carrier answers the same to the same delivery, so one that has the parcel may be
        // asked again.
        match self.carrier.hand_over(delivery.id, &delivery.postcode) {
            HandOver::Refused => Ok(refused(
                "carrier_refused",
                "The carrier took no parcel today.",
            )),
            HandOver::Taken { tracking } => {
                table::set_status(tx, delivery.id, Status::HandedOver, Some(&tracking)).await?;
                let delivery_id = delivery.id;
                Ok(Answer::Done(DeliveryHandedOver {
                    delivery_id,
                    tracking,
                }))
            }
        }
    }
}

/// Gives the place back.
#[derive(Debug)]
struct Cancel;

impl Compensation for Cancel {
    type Command = CancelDelivery;

    async fn compensate(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: CancelDelivery,
    ) -> Result<(), Error> {
        let delivery = table::lock_delivery(tx, command.order_id).await?;
        let delivery =
            delivery.ok_or_else(|| Error::permanent("the delivery to cancel is gone"))?;
        match delivery.status {
            Status::Scheduled => {
                table::set_status(tx, delivery.id, Status::Cancelled, None).await?;
                table::give_place_back(tx, delivery.day).await?;
                Ok(())
            }
            Status::Cancelled => Ok(()),
            // Not a refusal, which a compensation may not give: a person has to look at it.
            Status::HandedOver => Err(Error::permanent(
                "the delivery to cancel is with the carrier",
            )),
        }
    }
}

fn refused<R>(code: &str, message: &str) -> Answer<R> {
    Answer::Refused(Refusal::new(code, message))
}
