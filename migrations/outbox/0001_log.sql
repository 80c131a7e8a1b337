-- The outgoing side: an append-only log, the relay's one row, and what could not be sent.

-- `cache 1` is not a default left alone but a condition of correctness: a session that cached
-- numbers would give an earlier number to a later message of the same key.
create sequence outbox.log_seq as bigint cache 1;

-- How many numbers a partition of the ring has, as a power of two: 20, or what the setting
-- `outbox.partition_bits` says while this migration runs (`alter database … set outbox.partition_bits = 22`,
-- or `recompense migrate --partition-bits 22`). Chosen once. A constant, which the server folds into the
-- partition expression when it reads it, so it costs no call.
do $$
declare
    bits constant text := coalesce(nullif(current_setting('outbox.partition_bits', true), ''), '20');
begin
    if bits !~ '^[0-9]{1,2}$' or bits::integer not between 8 and 30 then
        raise exception 'outbox.partition_bits is %: it must be a number from 8 to 30', bits;
    end if;
    execute format('create function outbox.partition_bits() returns integer
                    language sql immutable parallel safe return %s', bits);
end
$$;

-- One row per message. Rows are inserted and, a partition at a time, truncated; never updated,
-- never deleted one by one, so the log has no dead tuples except those of aborted transactions.
create table outbox.log (
    -- The writer's top-level transaction. Declared before `seq`, because defaults are evaluated
    -- in column order: the transaction id must exist before the number is drawn, or a snapshot
    -- could count a number as past whose transaction it does not know.
    xid         xid8        not null default pg_current_xact_id(),
    -- Order of publishing. Gaps are normal (aborted transactions).
    seq         bigint      not null default nextval('outbox.log_seq'),
    message_id  uuid        not null,
    topic       text        not null,
    -- Becomes the record key; messages of one key stay in order.
    key         text        not null,
    kind        text        not null,
    -- Null is a tombstone.
    payload     bytea,
    -- W3C trace context of the span that enqueued; a column of its own, so that change data
    -- capture can route it too.
    traceparent text,
    -- Further headers as a flat object of strings; null when there are none, which is usual.
    headers     jsonb,
    -- The wall clock at the insert, not at the transaction's start.
    created_at  timestamptz not null default clock_timestamp(),
    constraint log_topic_is_named check (topic <> ''),
    constraint log_kind_is_named check (kind <> '')
) partition by list (((seq >> outbox.partition_bits()) & 3));

-- A ring of four partitions. Every number finds a partition, so an insert
-- never fails because housekeeping is late; then a partition holds several turns and is larger.
create table outbox.log_0 partition of outbox.log for values in (0);
create table outbox.log_1 partition of outbox.log for values in (1);
create table outbox.log_2 partition of outbox.log for values in (2);
create table outbox.log_3 partition of outbox.log for values in (3);

-- Finds the rows of a transaction that was long open, in order (`seq` second, so a page of a huge
-- transaction costs a page), and tells whether a partition holds rows that are still needed.
create index log_by_xid on outbox.log (xid, seq);

-- Reads on from a snapshot's floor, a page at a time.
create index log_by_seq on outbox.log (seq);

-- The relay's lease and cursor: one row, because every write of the cursor must also prove that
-- the lease is still held, and a statement on one row does both.
create table outbox.relay (
    only_row          boolean     not null default true,
    -- Raised at every take-over; with `owner` it fences a former leader's writes.
    epoch             bigint      not null default 0,
    owner             text,
    -- By the clock of this database.
    lease_until       timestamptz not null default '-infinity',
    -- Everything visible in `settled` has been acknowledged by the broker.
    settled           pg_snapshot not null default '1:1:',
    -- Whatever was not visible in `settled` and is not listed in it has a higher number: where
    -- reading begins. See `Cut::floor` in outbox/src/outgoing/cursor.rs.
    settled_floor     bigint      not null default 0,
    -- The tick under way is what is visible in `target` and not in `settled`.
    target            pg_snapshot not null default '1:1:',
    target_floor      bigint      not null default 0,
    -- Of that tick everything up to this number has been acknowledged.
    last_seq          bigint      not null default 0,
    -- Which cluster the snapshots belong to: transaction ids mean nothing in another.
    system_identifier bigint      not null,
    written_at        timestamptz not null default now(),
    -- An operator's wish: while it stands, the leader keeps its lease and sends nothing.
    paused_at         timestamptz,
    paused_by         text,
    constraint relay_pkey primary key (only_row),
    constraint relay_has_one_row check (only_row),
    constraint relay_pause_has_an_author check ((paused_at is null) = (paused_by is null))
-- Updated many times a second: leave room for HOT, and vacuum by count, not by share.
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

insert into outbox.relay (system_identifier)
select system_identifier from pg_control_system();

-- What is known of the topics: written by the services that declare them and by the relay, read
-- by everyone who enqueues. A topic without a row has the defaults.
create table outbox.topic (
    name      text        not null,
    -- The largest record the broker takes, in bytes, key and headers included: its
    -- `max.message.bytes`. Null while nobody has asked it.
    max_bytes integer,
    -- What happens to later messages of a key whose message was refused for good. `block-key`: they
    -- wait behind it in outbox.parked (events). `skip-message`: they flow on (commands and replies,
    -- which do not depend on order: a blocked key would park the compensation that is needed).
    on_poison text        not null default 'block-key',
    noted_at  timestamptz not null default now(),
    constraint topic_pkey primary key (name),
    constraint topic_policy_is_known check (on_poison in ('block-key', 'skip-message')),
    constraint topic_limit_is_positive check (max_bytes > 0)
);

-- A key whose messages wait behind a refused one. The row is the lock of the parking protocol:
-- followers are parked, and parked messages sent or discarded, while it is held `for update`; it is
-- deleted in the transaction that removes the key's last parked row.
create table outbox.blocked_key (
    topic      text        not null,
    key        text        not null,
    -- The refused message, by its number in outbox.parked. Null once it is gone: those behind it
    -- are being sent, in order.
    head       bigint,
    blocked_at timestamptz not null default now(),
    constraint blocked_key_pkey primary key (topic, key)
);

-- Full copies of messages that were not sent, so that they do not pin the log.
create table outbox.parked (
    seq          bigint      not null,
    message_id   uuid        not null,
    topic        text        not null,
    key          text        not null,
    kind         text        not null,
    payload      bytea,
    traceparent  text,
    headers      jsonb,
    created_at   timestamptz not null,
    -- `poison`: refused even when sent alone. `blocked`: behind a poisoned message of its key.
    -- `held`: its topic refused (unknown, not permitted); the leader tries it again by itself.
    class        text        not null,
    reason       text        not null,
    -- Times it was sent alone and refused.
    attempts     integer     not null default 0,
    -- The last message of its key that had been given to the broker's client before this one was
    -- refused, and may have arrived first. Null when there is none.
    overtaken_by bigint,
    parked_at    timestamptz not null default now(),
    -- An operator asks for it to be sent again; only the leader sends.
    replay_at    timestamptz,
    replay_by    text,
    constraint parked_pkey primary key (seq),
    constraint parked_class_is_known check (class in ('poison', 'blocked', 'held')),
    constraint parked_replay_has_an_author check ((replay_at is null) = (replay_by is null))
);

-- The leader tries the oldest message of each topic that refused.
create index parked_held on outbox.parked (topic, seq) where class = 'held';
-- What a key's head leaves behind is sent in order.
create index parked_by_key on outbox.parked (topic, key, seq);
-- The leader looks every second for requests, and for keys that are being released.
create index parked_replay on outbox.parked (seq) where replay_at is not null;
create index blocked_key_released on outbox.blocked_key (topic, key) where head is null;
