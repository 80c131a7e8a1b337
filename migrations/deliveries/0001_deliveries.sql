-- delivery-service: deliveries, and how many fit into a day.
--
-- The schema is created by the migrator (delivery-service/sqlx.toml). Only
-- delivery-service/src/table.rs speaks to these tables.

-- One day of delivering. The row appears when somebody first asks for the day; a person may change
-- its capacity, before or after (`insert … (day, capacity)`, `update … set capacity`).
create table deliveries.day (
    day      date    not null,
    capacity integer not null default 1000,
    -- Places given away. A counter beside the deliveries, so that taking a place is one update of
    -- one row instead of a count under a lock.
    taken    integer not null default 0,
    constraint day_pkey primary key (day),
    constraint day_capacity_check check (capacity >= 0),
    -- Not `taken <= capacity`: a person may lower the capacity of a day that is already full.
    constraint day_taken_check check (taken >= 0)
) with (fillfactor = 50); -- updated all day long in a column without an index

create table deliveries.delivery (
    id         uuid        not null,
    order_id   uuid        not null,
    name       text        not null,
    street     text        not null,
    postcode   text        not null,
    city       text        not null,
    country    text        not null,
    day        date        not null,
    status     text        not null,
    -- The carrier's number; the carrier gives it with the parcel's receipt.
    tracking   text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint delivery_pkey primary key (id),
    -- An order is delivered once, whatever sends the command again. Also the way to find it.
    constraint delivery_order_id_key unique (order_id),
    constraint delivery_day_fkey foreign key (day) references deliveries.day (day),
    -- scheduled: holds a place. cancelled: gave it back. handed_over: the carrier has the parcel.
    constraint delivery_status_check check (status in ('scheduled', 'cancelled', 'handed_over')),
    constraint delivery_tracking_check check ((tracking is not null) = (status = 'handed_over'))
) with (fillfactor = 80);
