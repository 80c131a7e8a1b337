-- order-service: orders and their items. Sagas have a schema of their own.
--
-- The schema is created by the migrator (order-service/sqlx.toml). Only
-- order-service/src/table.rs speaks to these tables.

create table orders.orders (
    -- UUIDv7: time-ordered, so that it is also the cursor of lists.
    id              uuid        not null,
    customer_id     uuid        not null,
    -- Minor units; the sum of the items, kept because it is what was promised and paid.
    total           bigint      not null,
    currency        text        not null,
    payment_method  text        not null,
    recipient       text        not null,
    street          text        not null,
    postcode        text        not null,
    city            text        not null,
    country         text        not null,
    status          text        not null,
    -- Why it was rejected or abandoned, in words for the customer.
    reason          text,
    -- The saga that fulfils it; started in the transaction that inserts this row.
    saga_id         uuid        not null,
    -- The client's Idempotency-Key. On the order's own row, so that key and order are one insert:
    -- a second request with the key waits for the first one's commit and then finds the order. The
    -- key is good for as long as the order exists.
    idempotency_key text,
    -- SHA-256 of the request, to tell "again" from "something else under the same key".
    request_hash    bytea       not null,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint orders_pkey primary key (id),
    constraint orders_saga_id_key unique (saga_id),
    constraint orders_idempotency_key_key unique (idempotency_key),
    constraint orders_total_check check (total > 0),
    constraint orders_currency_check check (currency ~ '^[A-Z]{3}$'),
    -- pending: its saga runs. confirmed: paid and with the carrier. rejected: nothing is left.
    -- abandoned: a person gave it up, whatever is left.
    constraint orders_status_check check (status in ('pending', 'confirmed', 'rejected', 'abandoned')),
    constraint orders_reason_check check ((reason is not null) = (status in ('rejected', 'abandoned')))
) with (fillfactor = 80); -- updated once, when its saga ends

-- A customer's orders, newest first. The status is filtered on the way: a customer has few orders,
-- and an index on a column that changes would cost every order a second index entry.
create index orders_customer_id_idx on orders.orders (customer_id, id);

create table orders.item (
    order_id   uuid     not null,
    -- The item's place in the request, from 0.
    line       smallint not null,
    sku        text     not null,
    quantity   integer  not null,
    -- Minor units of the order's currency.
    unit_price bigint   not null,
    constraint item_pkey primary key (order_id, line),
    constraint item_order_id_fkey foreign key (order_id) references orders.orders (id),
    constraint item_quantity_check check (quantity > 0),
    constraint item_unit_price_check check (unit_price >= 0)
);
