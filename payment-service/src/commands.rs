//! What sagas ask of this service. The barrier stands in front: each operation comes through once.
//!
//! Each has the same lines: lock, decide, write, answer; begin and commit are the consumer's, or the
//! runner's where the card provider is asked.

use std::sync::Arc;

use contracts::payment::{
    AuthorizePayment, CapturePayment, PaymentAuthorized, PaymentCaptured, ReleasePayment,
};
use outbox::Error;
use saga::Participant;
use saga::participant::{
    Action, Admission, Answer, Called, Commands, Context, External, ExternalCompensation, Prepare,
    Probed, Settled,
};
use saga::wire::Refusal;
use sqlx::PgTransaction;
use uuid::Uuid;

use crate::gateway::{Authorization, Declined, Gateway, Hold, Known};
use crate::payment::{Movement, Payment, Status, Verdict};
use crate::table;

/// Everything this service can be asked to do, with this card provider.
#[must_use]
pub fn participant<G: Gateway>(gateway: Arc<G>) -> Participant {
    let authorize = Authorize {
        gateway: gateway.clone(),
    };
    Participant::new(crate::NAME)
        .prepare(LockPayments)
        .external(authorize)
        .action(Capture)
        .external_compensation(Release { gateway })
}

/// The payments of a batch's orders, in one order.
#[derive(Debug)]
struct LockPayments;

/// What every command has.
#[derive(serde::Deserialize)]
struct OfOrder {
    order_id: Uuid,
}

impl Prepare for LockPayments {
    async fn prepare(
        &self,
        tx: &mut PgTransaction<'_>,
        commands: Commands<'_>,
    ) -> Result<(), Error> {
        let orders = commands.having::<OfOrder>().map(|of| of.order_id);
        let orders: Vec<Uuid> = orders.collect();
        Ok(table::lock_payments(tx, &orders).await?)
    }
}

/// Customer → held, if the card provider agrees. The provider is asked outside of the transaction
/// that moves the money: see [`saga::participant::External`].
#[derive(Debug)]
struct Authorize<G> {
    gateway: Arc<G>,
}

impl<G: Gateway> External for Authorize<G> {
    type Command = AuthorizePayment;
    type Reply = PaymentAuthorized;
    type Receipt = ();

    async fn admit(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: &AuthorizePayment,
    ) -> Result<Admission, Error> {
        Ok(match table::is_paid(tx, command.order_id).await? {
            true => Admission::Refused(paid_before()),
            false => Admission::Begin,
        })
    }

    async fn call(
        &self,
        context: &Context,
        command: &AuthorizePayment,
    ) -> Result<Called<()>, Error> {
        let hold = Hold {
            payment_method: command.payment_method.clone(),
            amount: command.amount,
        };
        let answer = self.gateway.authorize(context.op_key, &hold).await;
        Ok(match answer.map_err(Error::transient)? {
            Authorization::Approved => Called::Done(()),
            Authorization::Declined(declined) => Called::Refused(refusal(declined)),
            Authorization::NoAnswer => Called::Silent,
        })
    }

    async fn probe(&self, context: &Context, _: &AuthorizePayment) -> Result<Probed<()>, Error> {
        let known = self.gateway.lookup(context.op_key).await;
        Ok(match known.map_err(Error::transient)? {
            Known::Approved => Probed::Found(()),
            Known::Declined(declined) => Probed::Refused(refusal(declined)),
            Known::Voided => Probed::Refused(voided()),
            Known::Nothing => Probed::NotFound,
        })
    }

    async fn revoke(&self, context: &Context, _: &AuthorizePayment) -> Result<bool, Error> {
        let key = context.op_key;
        let voided = self.gateway.void(key, key).await;
        voided.map_err(Error::transient)?;
        Ok(true)
    }

    async fn settle(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: &AuthorizePayment,
        (): (),
    ) -> Result<Settled<PaymentAuthorized>, Error> {
        let id = Uuid::now_v7();
        let Some(payment) = table::insert_payment(tx, id, command).await? else {
            // Another saga of the same order was faster than our look at it.
            return Ok(Settled::Refused(paid_before()));
        };
        table::post(tx, &payment, &payment.postings(Movement::Hold)).await?;
        Ok(Settled::Done(PaymentAuthorized { payment_id: id }))
    }
}

/// Held → merchant.
#[derive(Debug)]
struct Capture;

impl Action for Capture {
    type Command = CapturePayment;
    type Reply = PaymentCaptured;

    async fn execute(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: CapturePayment,
    ) -> Result<Answer<PaymentCaptured>, Error> {
        let Some(payment) = table::lock_payment(tx, command.order_id).await? else {
            return Ok(refused("no_payment", "No money is held for the order."));
        };
        match payment.status.decide(Movement::Capture) {
            Verdict::Move(status) => shift(tx, &payment, Movement::Capture, status).await?,
            Verdict::Already => {}
            Verdict::Impossible => {
                let message = "The money for the order has been given back.";
                return Ok(refused("released", message));
            }
        }
        let payment_id = payment.id;
        Ok(Answer::Done(PaymentCaptured { payment_id }))
    }
}

/// Held → customer, and the provider lets go of the card.
#[derive(Debug)]
struct Release<G> {
    gateway: Arc<G>,
}

impl<G: Gateway> ExternalCompensation for Release<G> {
    type Command = ReleasePayment;

    async fn admit(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: &ReleasePayment,
    ) -> Result<(), Error> {
        held(tx, command.order_id).await.map(drop)
    }

    async fn call(&self, context: &Context, _: &ReleasePayment) -> Result<(), Error> {
        let (key, authorization) = (context.op_key, context.action_key());
        let voided = self.gateway.void(key, authorization).await;
        voided.map_err(Error::transient)
    }

    async fn settle(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: ReleasePayment,
    ) -> Result<(), Error> {
        match held(tx, command.order_id).await? {
            Some((payment, released)) => shift(tx, &payment, Movement::Release, released).await,
            None => Ok(()),
        }
    }
}

/// The payment to release, locked, with what it becomes; none if that has been done.
async fn held(
    tx: &mut PgTransaction<'_>,
    order_id: Uuid,
) -> Result<Option<(Payment, Status)>, Error> {
    let payment = table::lock_payment(tx, order_id).await?;
    let payment = payment.ok_or_else(|| Error::permanent("the payment to release is gone"))?;
    match payment.status.decide(Movement::Release) {
        Verdict::Move(status) => Ok(Some((payment, status))),
        Verdict::Already => Ok(None),
        // Not a refusal, which a compensation may not give: a person has to look at it.
        Verdict::Impossible => Err(Error::permanent("the payment to release is captured")),
    }
}

/// Moves held money, on the payment's row and in the ledger.
async fn shift(
    tx: &mut PgTransaction<'_>,
    payment: &Payment,
    movement: Movement,
    status: Status,
) -> Result<(), Error> {
    table::set_status(tx, payment.id, status).await?;
    table::post(tx, payment, &payment.postings(movement)).await?;
    Ok(())
}

fn refused<R>(code: &str, message: &str) -> Answer<R> {
    Answer::Refused(Refusal::new(code, message))
}

fn paid_before() -> Refusal {
    Refusal::new("paid_before", "The order has a payment already.")
}

fn refusal(declined: Declined) -> Refusal {
    Refusal::new(declined.code, declined.message)
}

fn voided() -> Refusal {
    Refusal::new("voided", "The money was given back before it was held.")
}
