//! What sagas ask of this service. The barrier stands in front: each operation comes through once.
//!
//! Each has the same lines: lock, decide, write, answer; begin and commit are the consumer's.

use contracts::payment::{
    AuthorizePayment, CapturePayment, PaymentAuthorized, PaymentCaptured, ReleasePayment,
};
use outbox::Error;
use saga::Participant;
use saga::participant::{Action, Answer, Compensation, Context};
use saga::wire::Refusal;
use sqlx::PgTransaction;
use uuid::Uuid;

use crate::gateway::{Authorization, Gateway};
use crate::payment::{Movement, Payment, Status, Verdict};
use crate::table;

/// Everything this service can be asked to do.
#[must_use]
pub fn participant() -> Participant {
    Participant::new(crate::NAME)
        .action(Authorize::default())
        .action(Capture)
        .compensation(Release)
}

/// Customer → held, if the card provider agrees.
#[derive(Debug, Default)]
struct Authorize {
    gateway: Gateway,
}

impl Action for Authorize {
    type Command = AuthorizePayment;
    type Reply = PaymentAuthorized;

    async fn execute(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: AuthorizePayment,
    ) -> Result<Answer<PaymentAuthorized>, Error> {
        let authorized = self
            .gateway
            .authorize(context.op_key, &command.payment_method)
            .map_err(Error::transient)?;
        match authorized {
            Authorization::Approved => {}
            Authorization::Declined { code, message } => return Ok(refused(code, message)),
            Authorization::NoAnswer => return Ok(Answer::Silent),
        }
        let id = Uuid::now_v7();
        let Some(payment) = table::insert_payment(tx, id, &command).await? else {
            return Ok(refused("paid_before", "The order has a payment already."));
        };
        table::post(tx, &payment, &payment.postings(Movement::Hold)).await?;
        Ok(Answer::Done(PaymentAuthorized { payment_id: id }))
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

/// Held → customer.
#[derive(Debug)]
struct Release;

impl Compensation for Release {
    type Command = ReleasePayment;

    async fn compensate(
        &self,
        tx: &mut PgTransaction<'_>,
        _: &Context,
        command: ReleasePayment,
    ) -> Result<(), Error> {
        let payment = table::lock_payment(tx, command.order_id).await?;
        let payment = payment.ok_or_else(|| Error::permanent("the payment to release is gone"))?;
        match payment.status.decide(Movement::Release) {
            Verdict::Move(status) => shift(tx, &payment, Movement::Release, status).await,
            Verdict::Already => Ok(()),
            // Not a refusal, which a compensation may not give: a person has to look at it.
            Verdict::Impossible => Err(Error::permanent("the payment to release is captured")),
        }
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
