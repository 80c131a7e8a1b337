//! The topics of the shop. Who writes one creates it, and so does who reads it.

/// Commands to payment-service, keyed by saga.
pub const PAYMENT_COMMANDS: &str = "payments.commands";
/// Commands to delivery-service, keyed by saga.
pub const DELIVERY_COMMANDS: &str = "deliveries.commands";
/// What participants answer to order-service's sagas, keyed by saga.
pub const ORDER_REPLIES: &str = "orders.replies";
/// What happened to orders, keyed by order: for whoever wants to know.
pub const ORDER_EVENTS: &str = "orders.events";
