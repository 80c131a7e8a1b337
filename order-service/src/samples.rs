//! Orders to try: each token and place of the simulated providers, with what is to be seen then.

use dashboard::Sample;
use serde_json::json;
use uuid::Uuid;

/// Who orders all of them.
const CUSTOMER: Uuid = Uuid::from_u128(0x018f_0000_0000_7000_8000_0000_0000_0001);

pub(crate) fn samples() -> Vec<Sample> {
    let sample = |label, about, payment_method: &str, postcode: &str| Sample {
        label,
        about,
        path: "/orders",
        body: json!({
            "customer_id": CUSTOMER,
            "currency": "EUR",
            "items": [{"sku": "BOOK-1", "quantity": 2, "unit_price": 1250}],
            "payment_method": payment_method,
            "delivery": {
                "name": "Ada Lovelace", "street": "Torstraße 1", "postcode": postcode,
                "city": "Berlin", "country": "DE"
            },
        }),
    };
    vec![
        sample(
            "All goes well",
            "pm_card_visa: paid, delivered, confirmed",
            "pm_card_visa",
            "10115",
        ),
        sample(
            "Declined",
            "pm_card_declined: refused at the first step, nothing to undo",
            "pm_card_declined",
            "10115",
        ),
        sample(
            "No money",
            "pm_insufficient_funds: refused at the first step",
            "pm_insufficient_funds",
            "10115",
        ),
        sample(
            "No such place",
            "postcode 00000: the money was held, and is released again",
            "pm_card_visa",
            "00000",
        ),
        sample(
            "Flaky",
            "pm_flaky: fails at first, succeeds when tried again",
            "pm_flaky",
            "10115",
        ),
        sample(
            "Lost answer",
            "pm_lost_answer: done, but nobody hears of it; asked again",
            "pm_lost_answer",
            "10115",
        ),
        sample(
            "Never answers",
            "pm_timeout: given up after its time, then undone",
            "pm_timeout",
            "10115",
        ),
        sample(
            "Busy carrier",
            "postcode 99999: two refusals past the point of no return",
            "pm_card_visa",
            "99999",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::order::{NewOrder, PAYMENT_METHODS};

    #[test]
    fn each_is_an_order_and_no_token_is_left_out() {
        let orders = samples().into_iter().map(|sample| {
            let order: NewOrder = serde_json::from_value(sample.body).unwrap();
            assert!(order.clone().check().is_ok(), "{}", sample.label);
            order.payment_method
        });
        let tokens: BTreeSet<_> = orders.collect();
        assert_eq!(tokens, PAYMENT_METHODS.map(str::to_owned).into());
    }
}
