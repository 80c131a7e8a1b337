//! The saga of an order, without a database and without a broker: every trial there is, on a ledger of
//! the customer's money and the vans' places.

use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveDate;
use contracts::delivery::{
    CancelDelivery, DeliveryHandedOver, DeliveryScheduled, HandOverDelivery, ScheduleDelivery,
};
use contracts::payment::{
    AuthorizePayment, CapturePayment, PaymentAuthorized, PaymentCaptured, ReleasePayment,
};
use contracts::{Address, Money, topic};
use order_service::fulfilment::{Fulfilment, Patience, definition};
use saga::intervention::What;
use saga::testing::{
    Bounds, Given, Ledger, Script, World, dies_after_each_commit, explore, fails_at_each_step,
    repeats_each_step, times_out_at_each_step, wander,
};
use saga::{Definition, Status};
use uuid::Uuid;

const TOTAL: i64 = 4_200;
/// Five open orders at once.
const CREDIT_LIMIT: i64 = 5 * TOTAL;

fn fulfilment() -> Definition<Fulfilment> {
    let patience = Patience {
        timeout: Duration::from_secs(5),
        attempts: 3,
    };
    definition(patience, CREDIT_LIMIT).expect("a sound definition")
}

fn order() -> Fulfilment {
    Fulfilment {
        order_id: Uuid::from_u128(1),
        customer_id: Uuid::from_u128(2),
        total: Money {
            amount: TOTAL,
            currency: "EUR".parse().expect("a currency"),
        },
        payment_method: "pm_card_visa".to_owned(),
        address: Address {
            name: "Ada".to_owned(),
            street: "Am Markt 1".to_owned(),
            postcode: "04109".to_owned(),
            city: "Leipzig".to_owned(),
            country: "DE".to_owned(),
        },
        payment_id: None,
        delivery_day: None,
        tracking: None,
    }
}

fn authorized() -> PaymentAuthorized {
    PaymentAuthorized {
        payment_id: Uuid::from_u128(3),
    }
}

fn scheduled() -> DeliveryScheduled {
    DeliveryScheduled {
        delivery_id: Uuid::from_u128(4),
        day: NaiveDate::from_ymd_opt(2030, 5, 17).expect("a day"),
    }
}

fn captured() -> PaymentCaptured {
    PaymentCaptured {
        payment_id: Uuid::from_u128(3),
    }
}

fn handed_over() -> DeliveryHandedOver {
    DeliveryHandedOver {
        delivery_id: Uuid::from_u128(4),
        tracking: "TR-1".to_owned(),
    }
}

/// The shop: the money is held, then the merchant's; a place in a van is taken, or given back.
fn shop() -> Given {
    Given::new(&fulfilment(), &order())
        .reply("authorize-payment", &authorized())
        .reply("schedule-delivery", &scheduled())
        .reply("capture-payment", &captured())
        .reply("hand-over", &handed_over())
        .listens(
            topic::PAYMENT_COMMANDS,
            [
                AuthorizePayment::KIND,
                ReleasePayment::KIND,
                CapturePayment::KIND,
            ],
        )
        .listens(
            topic::DELIVERY_COMMANDS,
            [
                ScheduleDelivery::KIND,
                CancelDelivery::KIND,
                HandOverDelivery::KIND,
            ],
        )
        .ledger(
            Ledger::new()
                .with("customer", 10_000)
                .with("merchant", 0)
                .with("places", 3)
                .with("on-the-road", 0),
        )
        .does("authorize-payment", |ledger, command: AuthorizePayment| {
            ledger.hold("customer", command.amount.amount)
        })
        .undoes("authorize-payment", |ledger, _: ReleasePayment| {
            ledger.release("customer", TOTAL)
        })
        .does("schedule-delivery", |ledger, _: ScheduleDelivery| {
            ledger.hold("places", 1)
        })
        .undoes("schedule-delivery", |ledger, _: CancelDelivery| {
            ledger.release("places", 1)
        })
        .does("capture-payment", |ledger, _: CapturePayment| {
            ledger.capture("customer", "merchant", TOTAL)
        })
        .does("hand-over", |ledger, _: HandOverDelivery| {
            ledger.capture("places", "on-the-road", 1)
        })
}

/// An order within its customer's credit.
fn started() -> Script {
    Script::of(&fulfilment(), &order())
        .expect_nothing_sent()
        .locks_granted()
}

#[test]
fn the_saga_of_an_order_fails_well_at_each_step() {
    fails_at_each_step(&shop());
}

#[test]
fn the_saga_of_an_order_bears_repetition() {
    repeats_each_step(&shop());
}

#[test]
fn the_saga_of_an_order_survives_its_coordinator() {
    dies_after_each_commit(&shop());
}

#[test]
fn the_saga_of_an_order_bears_silence() {
    times_out_at_each_step(&shop());
}

#[test]
fn no_order_of_faults_breaks_the_saga_of_an_order() {
    let alone = explore(&shop(), &Bounds::unattended());
    for ending in [
        "completed",
        "compensated",
        "parked: hand-over did not answer",
    ] {
        assert!(alone.ends(ending), "{alone}");
    }
}

#[test]
fn no_person_breaks_the_saga_of_an_order() {
    let attended = Bounds {
        interventions: 1,
        losses: 0,
        duplicates: 0,
        ..Bounds::default()
    };
    let attended = explore(&shop(), &attended);
    for ending in ["completed", "compensated", "paused", "abandoned"] {
        assert!(attended.ends(ending), "{attended}");
    }
}

#[test]
fn the_saga_of_an_order_comes_to_an_end_by_any_way() {
    let effects_outside = shop().external("capture-payment");
    wander(&shop(), 1, 150);
    wander(&effects_outside, 1_000, 150);
}

#[test]
fn many_orders_at_once_lose_no_money() {
    let ledger = Ledger::new()
        .with("customer", 1_000_000)
        .with("merchant", 0)
        .with("places", 80)
        .with("on-the-road", 0);
    let mut world = World::new(5, ledger).faults(120);
    let shop = Arc::new(shop());
    for _ in 0..100 {
        world.start(&shop);
    }
    let (lived, ledger) = world.run();
    let completed = lived.endings.get("completed").copied().unwrap_or_default();
    let compensated = lived
        .endings
        .get("compensated")
        .copied()
        .unwrap_or_default();
    // Only so many places there are: the others are refused, and their money is free again.
    assert_eq!(completed + compensated, 100, "{lived}");
    assert!(compensated >= 20, "{lived}");
    let completed = i64::try_from(completed).expect("few");
    assert_eq!(ledger.of("merchant").balance, completed * TOTAL);
    assert_eq!(ledger.of("customer").held, 0);
    assert_eq!(ledger.of("on-the-road").balance, completed);
}

#[test]
fn a_postcode_that_is_not_served_gives_the_money_back() {
    started()
        .expect_sent("authorize-payment")
        .succeeds("authorize-payment", &authorized())
        .expect_sent("schedule-delivery")
        .refuses(
            "schedule-delivery",
            "not_served",
            "We do not deliver there.",
        )
        .expect_compensation(
            "authorize-payment",
            &ReleasePayment {
                order_id: order().order_id,
            },
        )
        .compensates("authorize-payment")
        .expect_turned_back_because("We do not deliver there.")
        .expect_undone(["authorize-payment"])
        .expect_status(Status::Compensated);
}

#[test]
fn an_order_beyond_the_credit_limit_begins_nothing() {
    let mut order = order();
    order.total.amount = CREDIT_LIMIT + 1;
    let resource = format!("credit/{}/EUR", order.customer_id);
    Script::of(&fulfilment(), &order)
        .lock_refused(&resource)
        .expect_nothing_sent()
        .expect_turned_back_because("more of credit/")
        .expect_status(Status::Compensated);
}

#[test]
fn a_card_provider_that_never_answers_is_undone_as_if_it_had() {
    started()
        .never_answers("authorize-payment")
        .expect_compensation_sent("authorize-payment")
        .finds_nothing_to_undo("authorize-payment")
        .expect_status(Status::Compensated);
}

#[test]
fn a_capture_that_is_not_answered_is_never_rolled_back_on_a_guess() {
    let parked = || {
        started()
            .succeeds("authorize-payment", &authorized())
            .succeeds("schedule-delivery", &scheduled())
            .expect_sent("capture-payment")
            .never_answers("capture-payment")
            .expect_parked_because("capture-payment did not answer")
            .operator_may_not(What::Cancel {}, "cannot be undone")
    };
    let late = parked()
        .succeeds("capture-payment", &captured())
        .expect_sent("hand-over")
        .succeeds("hand-over", &handed_over())
        .expect_status(Status::Completed);
    assert_eq!(late.data::<Fulfilment>().tracking.as_deref(), Some("TR-1"));
    let refused = parked().refuses("capture-payment", "expired", "The hold has expired.");
    refused
        .expect_compensation_sent("schedule-delivery")
        .compensates("schedule-delivery")
        .compensates("authorize-payment")
        .expect_undone(["schedule-delivery", "authorize-payment"]);
}
