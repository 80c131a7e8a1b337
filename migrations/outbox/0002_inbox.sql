-- The incoming side: what each consumer has handled, and what it could not.

-- One row per consumer and message, inserted in the transaction that handles the message: a
-- second delivery finds it and does nothing.
create table outbox.inbox (
    consumer   text        not null,
    message_id uuid        not null,
    handled_at timestamptz not null default now(),
    constraint inbox_pkey primary key (consumer, message_id)
);

-- Full copies of messages that could not be handled, with the reason.
create table outbox.inbox_parked (
    id          bigint      generated always as identity,
    consumer    text        not null,
    message_id  uuid        not null,
    topic       text        not null,
    partition   integer     not null,
    "offset"    bigint      not null,
    -- Raw bytes: an unreadable record may have any key and any headers.
    key         bytea,
    payload     bytea,
    -- `[[name, value as hex or null], …]` in the order received.
    headers     jsonb       not null,
    -- `unreadable`: not one of our messages. `refused`: the handler's permanent error. `exhausted`:
    -- a transient error outlived its budget.
    class       text        not null,
    reason      text        not null,
    attempts    integer     not null,
    parked_at   timestamptz not null default now(),
    constraint inbox_parked_pkey primary key (id),
    constraint inbox_parked_once unique (consumer, message_id),
    constraint inbox_parked_class_is_known check (class in ('unreadable', 'refused', 'exhausted'))
);
