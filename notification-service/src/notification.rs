//! What a customer would be told about an order. Pure: words from events.

use chrono::{DateTime, Utc};
use contracts::Money;
use contracts::order::{OrderAbandoned, OrderConfirmed, OrderPlaced, OrderRejected};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// One notification, as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Notification {
    /// Its id.
    pub id: Uuid,
    /// The event that caused it.
    pub event_id: Uuid,
    /// What it is about.
    pub order_id: Uuid,
    /// The recipient.
    pub customer_id: Uuid,
    /// Which words.
    pub template: Template,
    /// The words.
    pub text: String,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
}

/// Which words; the words of the column `notifications.notification.template`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = NotificationTemplate)]
pub enum Template {
    /// We have your order.
    OrderPlaced,
    /// It is on its way.
    OrderConfirmed,
    /// It will not come.
    OrderRejected,
    /// We look into it.
    OrderAbandoned,
}

/// What is to be said to whom, before it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// What it is about.
    pub order_id: Uuid,
    /// The recipient.
    pub customer_id: Uuid,
    /// Which words.
    pub template: Template,
    /// The words.
    pub text: String,
}

impl From<OrderPlaced> for Letter {
    fn from(event: OrderPlaced) -> Self {
        Self {
            order_id: event.order_id,
            customer_id: event.customer_id,
            template: Template::OrderPlaced,
            text: format!("We have your order over {}.", amount(event.total)),
        }
    }
}

impl From<OrderConfirmed> for Letter {
    fn from(event: OrderConfirmed) -> Self {
        let day = event
            .delivery_day
            .map(|day| format!(" It arrives on {day}."));
        let tracking = event
            .tracking
            .map(|number| format!(" Tracking number: {number}."));
        Self {
            order_id: event.order_id,
            customer_id: event.customer_id,
            template: Template::OrderConfirmed,
            text: format!(
                "Your order over {} is paid and on its way.{}{}",
                amount(event.total),
                day.unwrap_or_default(),
                tracking.unwrap_or_default(),
            ),
        }
    }
}

impl From<OrderAbandoned> for Letter {
    fn from(event: OrderAbandoned) -> Self {
        Self {
            order_id: event.order_id,
            customer_id: event.customer_id,
            template: Template::OrderAbandoned,
            // Whether money is held is not known here; it must not be denied.
            text: "Something went wrong with your order. We look into it and will write to you."
                .to_owned(),
        }
    }
}

impl From<OrderRejected> for Letter {
    fn from(event: OrderRejected) -> Self {
        Self {
            order_id: event.order_id,
            customer_id: event.customer_id,
            template: Template::OrderRejected,
            text: format!(
                "We could not fulfil your order: {} You have not been charged.",
                event.reason
            ),
        }
    }
}

/// For people: the currencies of the shop all have two decimals.
fn amount(money: Money) -> String {
    let (major, minor) = (money.amount / 100, money.amount % 100);
    format!("{major}.{minor:02} {}", money.currency)
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;

    fn total(amount: i64) -> Money {
        let currency = "EUR".parse().unwrap();
        Money { amount, currency }
    }

    #[test]
    fn amounts_are_written_for_people() {
        assert_eq!(amount(total(2500)), "25.00 EUR");
        assert_eq!(amount(total(5)), "0.05 EUR");
    }

    #[test]
    fn a_confirmation_tells_day_and_number() {
        let letter = Letter::from(OrderConfirmed {
            order_id: Uuid::nil(),
            customer_id: Uuid::nil(),
            total: total(2500),
            delivery_day: NaiveDate::from_ymd_opt(2026, 1, 15),
            tracking: Some("RC-1".to_owned()),
        });
        assert_eq!(
            letter.text,
            "Your order over 25.00 EUR is paid and on its way. It arrives on 2026-01-15. \
             Tracking number: RC-1."
        );
    }

    #[test]
    fn a_rejection_tells_the_reason() {
        let letter = Letter::from(OrderRejected {
            order_id: Uuid::nil(),
            customer_id: Uuid::nil(),
            reason: "The card was declined.".to_owned(),
        });
        assert_eq!(
            letter.text,
            "We could not fulfil your order: The card was declined. You have not been charged."
        );
    }
}
