//! An order: what somebody asks for, what is right with it, and what it costs. Pure: no SQL, no
//! clock.

use chassis::http::{Problem, Violations};
use chrono::{DateTime, Utc};
use contracts::{Address, Currency, Money};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

/// The currencies the shop sells in.
pub const CURRENCIES: [&str; 5] = ["CHF", "EUR", "GBP", "SEK", "USD"];
/// The card provider's tokens, as in a real provider's test mode.
pub const PAYMENT_METHODS: [&str; 6] = [
    "pm_card_visa",
    "pm_card_declined",
    "pm_insufficient_funds",
    "pm_flaky",
    "pm_lost_answer",
    "pm_timeout",
];
/// The most items of an order.
pub const MAX_ITEMS: usize = 100;
/// The most pieces of an item.
pub const MAX_QUANTITY: i64 = 1000;
/// The highest price of a piece, in minor units: a million. With the other limits it keeps totals,
/// and sums of very many totals, far from the end of 64 bits.
pub const MAX_UNIT_PRICE: i64 = 100_000_000;

const MAX_SKU: usize = 64;
const MAX_LINE: usize = 200;
const MAX_POSTCODE: usize = 16;

/// An order as it was asked for. Nothing is checked yet but its form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "customer_id": "018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b",
    "currency": "EUR",
    "items": [{"sku": "BOOK-1", "quantity": 2, "unit_price": 1250}],
    "payment_method": "pm_card_visa",
    "delivery": {
        "name": "Ada Lovelace", "street": "Chausseestraße 1", "postcode": "10115",
        "city": "Berlin", "country": "DE"
    }
}))]
pub struct NewOrder {
    /// Who orders.
    pub customer_id: Uuid,
    /// ISO 4217: one of [`CURRENCIES`].
    #[schema(example = "EUR", pattern = "^(CHF|EUR|GBP|SEK|USD)$")]
    pub currency: String,
    /// What is ordered: 1 to [`MAX_ITEMS`], and not all of it free.
    #[schema(min_items = 1, max_items = 100)]
    pub items: Vec<Item>,
    /// The card provider's token: one of [`PAYMENT_METHODS`].
    #[schema(example = "pm_card_visa")]
    pub payment_method: String,
    /// Where it goes.
    pub delivery: Delivery,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OrderItem)]
pub struct Item {
    /// The article: letters, digits, `.`, `_`, `-`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    pub sku: String,
    /// 1 to [`MAX_QUANTITY`].
    #[schema(minimum = 1, maximum = 1000)]
    pub quantity: i64,
    /// Minor units of the order's currency: 0 to [`MAX_UNIT_PRICE`].
    #[schema(minimum = 0, maximum = 100_000_000_i64)]
    pub unit_price: i64,
}

/// Where an order goes, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OrderDelivery)]
pub struct Delivery {
    /// Who receives the parcel.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Street and number.
    #[schema(min_length = 1, max_length = 200)]
    pub street: String,
    /// The postal code.
    #[schema(min_length = 1, max_length = 16)]
    pub postcode: String,
    /// Town.
    #[schema(min_length = 1, max_length = 200)]
    pub city: String,
    /// ISO 3166-1 alpha-2, uppercase.
    #[schema(pattern = "^[A-Z]{2}$")]
    pub country: String,
}

/// An order that is right and not yet placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Who orders.
    pub customer_id: Uuid,
    /// What it costs.
    pub total: Money,
    /// What is ordered.
    pub items: Vec<Item>,
    /// The card provider's token.
    pub payment_method: String,
    /// Where it goes.
    pub address: Address,
    /// Tells the same request from another one under the same key: SHA-256 of what was asked for,
    /// whatever its white space and order of fields.
    pub request_hash: Vec<u8>,
}

/// An order that was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Order {
    /// Its id.
    pub id: Uuid,
    /// Where it stands.
    pub status: Status,
    /// Why it was rejected or abandoned, in words for the customer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it was rejected, in a word for programs. As it is stored: a later release may know more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Rejection>)]
    pub rejection: Option<String>,
    /// What it costs, in minor units.
    pub total: i64,
    /// ISO 4217.
    pub currency: String,
    /// The saga that fulfils it.
    pub saga_id: Uuid,
    /// Who ordered.
    pub customer_id: Uuid,
    /// What was ordered.
    pub items: Vec<Item>,
    /// The card provider's token.
    pub payment_method: String,
    /// Where it goes.
    pub delivery: Delivery,
    /// When it was placed.
    pub created_at: DateTime<Utc>,
}

/// Where an order stands; the words of the column `orders.orders.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = OrderStatus)]
pub enum Status {
    /// Its saga runs.
    Pending,
    /// Paid, and with the carrier.
    Confirmed,
    /// It will not come; nothing of it is left.
    Rejected,
    /// A person gave it up; something of it may be left.
    Abandoned,
}

/// Why an order was rejected; the words of the column `orders.orders.rejection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = OrderRejection)]
pub enum Rejection {
    /// It exceeds the customer's credit limit.
    CreditLimit,
    /// The payment service refused it.
    PaymentRefused,
    /// The delivery service refused it.
    DeliveryRefused,
    /// The payment service did not answer in time.
    PaymentUnanswered,
    /// The delivery service did not answer in time.
    DeliveryUnanswered,
    /// A person cancelled it.
    Cancelled,
    /// Something else; the reason tells.
    Other,
}

impl NewOrder {
    /// Checks everything and says what it costs.
    ///
    /// # Errors
    ///
    /// 422 naming every wrong field.
    pub fn check(self) -> Result<Draft, Problem> {
        let mut violations = Violations::new();
        let currency = self.check_currency(&mut violations);
        self.check_items(&mut violations);
        violations.check(
            PAYMENT_METHODS.contains(&self.payment_method.as_str()),
            "payment_method",
            format!("must be one of {}", PAYMENT_METHODS.join(", ")),
        );
        self.delivery.check(&mut violations);
        violations.into_result()?;
        match (self.total(), currency) {
            (Some(amount), Some(currency)) => self.draft(Money { amount, currency }),
            // Both are within what was just checked.
            _ => Err(Problem::internal("an order without a total")),
        }
    }

    fn check_currency(&self, violations: &mut Violations) -> Option<Currency> {
        violations.check(
            CURRENCIES.contains(&self.currency.as_str()),
            "currency",
            format!("must be one of {}", CURRENCIES.join(", ")),
        );
        self.currency.parse().ok()
    }

    fn check_items(&self, violations: &mut Violations) {
        violations.check(
            (1..=MAX_ITEMS).contains(&self.items.len()),
            "items",
            format!("must be 1 to {MAX_ITEMS} items"),
        );
        let is_free = !self.items.is_empty() && self.items.iter().all(|item| item.unit_price == 0);
        violations.check(!is_free, "items", "must cost something together");
        for (index, item) in self.items.iter().take(MAX_ITEMS).enumerate() {
            let field = |name| format!("items[{index}].{name}");
            violations.check(
                is_sku(&item.sku),
                field("sku"),
                format!("must be 1 to {MAX_SKU} letters, digits, dots, dashes or underscores"),
            );
            violations.check(
                (1..=MAX_QUANTITY).contains(&item.quantity),
                field("quantity"),
                format!("must be from 1 to {MAX_QUANTITY}"),
            );
            violations.check(
                (0..=MAX_UNIT_PRICE).contains(&item.unit_price),
                field("unit_price"),
                format!("must be from 0 to {MAX_UNIT_PRICE}"),
            );
        }
    }

    /// `None` when it does not fit; then some quantity or price is out of its range.
    fn total(&self) -> Option<i64> {
        self.items.iter().try_fold(0_i64, |total, item| {
            total.checked_add(item.quantity.checked_mul(item.unit_price)?)
        })
    }

    fn draft(self, total: Money) -> Result<Draft, Problem> {
        let canonical = serde_json::to_vec(&self).map_err(Problem::internal)?;
        Ok(Draft {
            customer_id: self.customer_id,
            total,
            items: self.items,
            payment_method: self.payment_method,
            address: self.delivery.into(),
            request_hash: Sha256::digest(canonical).to_vec(),
        })
    }
}

impl Delivery {
    fn check(&self, violations: &mut Violations) {
        for (field, line) in [
            ("delivery.name", &self.name),
            ("delivery.street", &self.street),
            ("delivery.city", &self.city),
        ] {
            let message = format!("must be 1 to {MAX_LINE} characters in one line");
            violations.check(is_line(line), field, message);
        }
        violations.check(
            is_postcode(&self.postcode),
            "delivery.postcode",
            format!("must be 1 to {MAX_POSTCODE} letters and digits, spaces or dashes between"),
        );
        violations.check(
            self.country.len() == 2 && self.country.bytes().all(|b| b.is_ascii_uppercase()),
            "delivery.country",
            "must be two uppercase letters (ISO 3166-1)",
        );
    }
}

impl From<Delivery> for Address {
    fn from(delivery: Delivery) -> Self {
        Self {
            name: delivery.name,
            street: delivery.street,
            postcode: delivery.postcode,
            city: delivery.city,
            country: delivery.country,
        }
    }
}

fn is_sku(text: &str) -> bool {
    (1..=MAX_SKU).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Something to read, in one line: no control characters, which no label can print and NUL among
/// which no database can store.
fn is_line(text: &str) -> bool {
    !text.trim().is_empty()
        && text.chars().count() <= MAX_LINE
        && !text.chars().any(char::is_control)
}

fn is_postcode(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= MAX_POSTCODE
        && ends
            .iter()
            .all(|b| b.is_some_and(u8::is_ascii_alphanumeric))
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b" -".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(quantity: i64, unit_price: i64) -> Item {
        Item {
            sku: "BOOK-1".to_owned(),
            quantity,
            unit_price,
        }
    }

    fn order() -> NewOrder {
        NewOrder {
            customer_id: Uuid::nil(),
            currency: "EUR".to_owned(),
            items: vec![item(2, 1250)],
            payment_method: "pm_card_visa".to_owned(),
            delivery: Delivery {
                name: "Ada Lovelace".to_owned(),
                street: "Chausseestraße 1".to_owned(),
                postcode: "10115".to_owned(),
                city: "Berlin".to_owned(),
                country: "DE".to_owned(),
            },
        }
    }

    fn with(change: impl FnOnce(&mut NewOrder)) -> NewOrder {
        let mut order = order();
        change(&mut order);
        order
    }

    fn wrong_fields(order: NewOrder) -> Vec<String> {
        let problem = order.check().expect_err("it is wrong");
        problem.errors().iter().map(|e| e.field.clone()).collect()
    }

    #[test]
    fn the_total_is_the_sum_of_the_items() {
        let draft = with(|o| o.items.push(item(3, 100))).check().unwrap();
        assert_eq!(draft.total.amount, 2800);
        assert_eq!(draft.total.currency.code(), "EUR");
    }

    #[test]
    fn the_largest_order_there_is_does_not_overflow() {
        let items = vec![item(MAX_QUANTITY, MAX_UNIT_PRICE); MAX_ITEMS];
        let draft = with(|o| o.items = items).check().unwrap();
        assert_eq!(draft.total.amount, 10_000_000_000_000);
    }

    #[test]
    fn every_wrong_field_is_named() {
        type Change = fn(&mut NewOrder);
        let cases: [(Change, &str); 21] = [
            (|o| o.currency = "eur".into(), "currency"),
            (|o| o.currency = "XXX".into(), "currency"),
            (|o| o.items[0].sku = String::new(), "items[0].sku"),
            (|o| o.items[0].sku = "A B".into(), "items[0].sku"),
            (|o| o.items[0].sku = "A".repeat(65), "items[0].sku"),
            (|o| o.items.push(item(0, 1)), "items[1].quantity"),
            (|o| o.items.push(item(-1, 1)), "items[1].quantity"),
            (|o| o.items.push(item(1001, 1)), "items[1].quantity"),
            (|o| o.items.push(item(1, -1)), "items[1].unit_price"),
            (
                |o| o.items.push(item(1, 100_000_001)),
                "items[1].unit_price",
            ),
            (|o| o.items = vec![item(1, 1); 101], "items"),
            (|o| o.items = vec![item(1, 0)], "items"),
            (|o| o.payment_method = "pm_gold".into(), "payment_method"),
            (|o| o.delivery.name = " ".into(), "delivery.name"),
            (|o| o.delivery.name = "A\0B".into(), "delivery.name"),
            (|o| o.delivery.street = "x".repeat(201), "delivery.street"),
            (|o| o.delivery.city = String::new(), "delivery.city"),
            (|o| o.delivery.postcode = String::new(), "delivery.postcode"),
            (
                |o| o.delivery.postcode = "1".repeat(17),
                "delivery.postcode",
            ),
            (|o| o.delivery.country = "de".into(), "delivery.country"),
            (
                |o| o.delivery.country = "Germany".into(),
                "delivery.country",
            ),
        ];
        for (change, field) in cases {
            assert_eq!(wrong_fields(with(change)), [field]);
        }
    }

    #[test]
    fn all_wrong_fields_are_named_at_once() {
        let fields = wrong_fields(with(|o| {
            o.currency = "?".into();
            o.items[0].quantity = i64::MAX;
            o.items[0].unit_price = i64::MAX;
        }));
        assert!(fields.starts_with(&["currency".into(), "items[0].quantity".into()]));
    }

    #[test]
    fn postcodes_of_other_countries_are_postcodes() {
        for postcode in ["10115", "SW1A 1AA", "114 55", "01-234", "8001"] {
            with(|o| o.delivery.postcode = postcode.into())
                .check()
                .unwrap();
        }
    }

    #[test]
    fn another_request_has_another_hash() {
        let hash = |order: NewOrder| order.check().unwrap().request_hash;
        assert_eq!(hash(order()), hash(order()));
        assert_ne!(hash(order()), hash(with(|o| o.items[0].quantity = 3)));
    }
}
