//! The wire does not change by accident: each kind equals its golden file, both ways.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use contracts::delivery::{
    CancelDelivery, DeliveryHandedOver, DeliveryScheduled, HandOverDelivery, ScheduleDelivery,
};
use contracts::order::{OrderAbandoned, OrderConfirmed, OrderPlaced, OrderRejected};
use contracts::payment::{
    AuthorizePayment, CapturePayment, PaymentAuthorized, PaymentCaptured, ReleasePayment,
};
use contracts::{Address, Money};
use outbox::Payload;
use uuid::{Uuid, uuid};

const ORDER: Uuid = uuid!("01930c4e-7a00-7000-8000-000000000001");
const CUSTOMER: Uuid = uuid!("01930c4e-7a00-7000-8000-000000000002");
const PAYMENT: Uuid = uuid!("01930c4e-7a00-7000-8000-000000000003");
const DELIVERY: Uuid = uuid!("01930c4e-7a00-7000-8000-000000000004");

#[test]
fn payment_words_equal_their_golden_files() {
    same(&AuthorizePayment {
        order_id: ORDER,
        customer_id: CUSTOMER,
        amount: total(),
        payment_method: "pm_card_visa".to_owned(),
    });
    same(&PaymentAuthorized {
        payment_id: PAYMENT,
    });
    same(&ReleasePayment { order_id: ORDER });
    same(&CapturePayment { order_id: ORDER });
    same(&PaymentCaptured {
        payment_id: PAYMENT,
    });
}

#[test]
fn delivery_words_equal_their_golden_files() {
    same(&ScheduleDelivery {
        order_id: ORDER,
        address: Address {
            name: "Ada Lovelace".to_owned(),
            street: "Chausseestraße 1".to_owned(),
            postcode: "10115".to_owned(),
            city: "Berlin".to_owned(),
            country: "DE".to_owned(),
        },
    });
    same(&DeliveryScheduled {
        delivery_id: DELIVERY,
        day: day(),
    });
    same(&CancelDelivery { order_id: ORDER });
    same(&HandOverDelivery { order_id: ORDER });
    same(&DeliveryHandedOver {
        delivery_id: DELIVERY,
        tracking: "RC-000000000004".to_owned(),
    });
}

#[test]
fn order_words_equal_their_golden_files() {
    same(&OrderPlaced {
        order_id: ORDER,
        customer_id: CUSTOMER,
        total: total(),
    });
    same(&OrderConfirmed {
        order_id: ORDER,
        customer_id: CUSTOMER,
        total: total(),
        delivery_day: Some(day()),
        tracking: Some("RC-000000000004".to_owned()),
    });
    same(&OrderRejected {
        order_id: ORDER,
        customer_id: CUSTOMER,
        reason: "The card was declined.".to_owned(),
    });
    same(&OrderAbandoned {
        order_id: ORDER,
        customer_id: CUSTOMER,
    });
}

#[test]
fn every_kind_has_a_golden_file_and_every_golden_file_a_kind() {
    let files: BTreeSet<String> = fs::read_dir(golden())
        .expect("the folder of golden files")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            path.file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(kinds_in_the_source(), files);
}

#[test]
fn a_reader_ignores_a_field_that_it_does_not_know() {
    let text = format!(r#"{{"payment_id":"{PAYMENT}","added_later":true}}"#);
    let read: PaymentAuthorized = serde_json::from_str(&text).expect("an extra field is fine");
    assert_eq!(
        read,
        PaymentAuthorized {
            payment_id: PAYMENT
        }
    );
}

/// Encoding equals the file; decoding the file equals the value.
fn same<P: Payload + PartialEq + Debug>(value: &P) {
    let path = golden().join(format!("{}.json", P::KIND));
    let file = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let encoded = serde_json::to_string_pretty(value).expect("encodes");
    assert_eq!(encoded, file.trim_end(), "{} changed on the wire", P::KIND);
    let decoded: P = serde_json::from_str(&file).expect("decodes");
    assert_eq!(&decoded, value);
}

/// Read from the source, so that a new payload cannot be forgotten here.
fn kinds_in_the_source() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    fs::read_dir(source)
        .expect("the source folder")
        .map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("a source file"))
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.trim().strip_prefix("const KIND: &'static str = \""))
                .filter_map(|rest| rest.strip_suffix("\";"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn total() -> Money {
    Money {
        amount: 2500,
        currency: "EUR".parse().expect("a currency"),
    }
}

fn day() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 1, 15).expect("a day")
}
