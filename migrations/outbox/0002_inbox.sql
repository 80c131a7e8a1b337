-- The incoming side: what each consumer has handled, and what it could not.

-- One row per consumer and message, inserted in the transaction that handles the message: a
-- second delivery finds it and does nothing.
--
-- Partitioned by the message id, not by a date of receipt: a UUIDv7 begins with its time, so a
-- duplicate meets its first copy in the same partition however much later it comes. Days are added
-- ahead and dropped whole by outbox.keep_inbox; ids of another kind live in the default partition.
create table outbox.inbox (
    consumer   text        not null,
    message_id uuid        not null,
    handled_at timestamptz not null default now(),
    constraint inbox_pkey primary key (consumer, message_id)
) partition by range (message_id);

create table outbox.inbox_other partition of outbox.inbox default;

-- A key whose messages wait behind one that could not be handled. The row is the lock of the
-- parking protocol: followers are parked, and parked messages handled again or discarded, while it
-- is held `for update`; it is deleted in the transaction that removes the key's last parked row.
create table outbox.inbox_blocked (
    consumer   text        not null,
    topic      text        not null,
    key        bytea       not null,
    blocked_at timestamptz not null default now(),
    constraint inbox_blocked_pkey primary key (consumer, topic, key)
);

-- Full copies of messages that could not be handled, with the reason.
create table outbox.inbox_parked (
    -- In the order of parking, which inside a key is the order of the partition.
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
    -- a transient error outlived its budget. `blocked`: behind another parked message of its key.
    class       text        not null,
    reason      text        not null,
    attempts    integer     not null,
    parked_at   timestamptz not null default now(),
    -- An operator asks for it to be handled again; the consumer does. Also set on what a removed
    -- head leaves behind.
    replay_at   timestamptz,
    replay_by   text,
    constraint inbox_parked_pkey primary key (id),
    constraint inbox_parked_once unique (consumer, message_id),
    constraint inbox_parked_class_is_known
        check (class in ('unreadable', 'refused', 'exhausted', 'blocked')),
    constraint inbox_parked_replay_has_an_author check ((replay_at is null) = (replay_by is null))
);

-- What a key's head leaves behind is handled in order.
create index inbox_parked_by_key on outbox.inbox_parked (consumer, topic, key, id);
-- Each consumer looks for requests once a second.
create index inbox_parked_replay on outbox.inbox_parked (consumer, id) where replay_at is not null;
