-- An idempotency key is its caller's own: two callers who both call their request "1" place two orders,
-- and neither learns of the other's.

-- Who placed it; empty where nobody was asked who they are; null of the orders placed before this was
-- recorded, whose keys count for every caller, as they did.
alter table orders.orders add column placed_by text;
alter table orders.orders alter column placed_by set default '';

alter table orders.orders drop constraint orders_idempotency_key_key;
alter table orders.orders add constraint orders_idempotency_key_key unique (idempotency_key, placed_by);
