-- notification-service: what customers would be told.
--
-- The schema is created by the migrator (notification-service/sqlx.toml). Only
-- notification-service/src/table.rs speaks to this table.

create table notifications.notification (
    id          uuid        not null,
    -- The message id of the event that caused it.
    event_id    uuid        not null,
    order_id    uuid        not null,
    -- The recipient. How to reach a customer is a customer service's knowledge, not ours.
    customer_id uuid        not null,
    template    text        not null,
    -- What would be sent, already in words.
    text        text        not null,
    created_at  timestamptz not null default now(),
    constraint notification_pkey primary key (id),
    -- The inbox already applies an event once; this holds even after the inbox has forgotten it.
    constraint notification_event_id_key unique (event_id),
    constraint notification_template_check
        check (template in ('order_placed', 'order_confirmed', 'order_rejected', 'order_abandoned'))
);

-- What an order's customer was told, in order: ids are time-ordered (UUIDv7).
create index notification_order_id_idx on notifications.notification (order_id, id);
