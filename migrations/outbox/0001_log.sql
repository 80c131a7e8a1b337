-- The outgoing side: an append-only log, the relay's one row, and what could not be sent.

-- `cache 1` is not a default left alone but a condition of correctness: a session that cached
-- numbers would give an earlier number to a later message of the same key.
create sequence outbox.log_seq as bigint cache 1;

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
) partition by list (((seq >> 20) & 3));

-- A ring of four partitions of 2^20 numbers each. Every number finds a partition, so an insert
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
    constraint relay_pkey primary key (only_row),
    constraint relay_has_one_row check (only_row)
-- Updated many times a second: leave room for HOT, and vacuum by count, not by share.
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

insert into outbox.relay (system_identifier)
select system_identifier from pg_control_system();

-- Full copies of messages the broker would not take, so that they do not pin the log.
create table outbox.parked (
    seq         bigint      not null,
    message_id  uuid        not null,
    topic       text        not null,
    key         text        not null,
    kind        text        not null,
    payload     bytea,
    traceparent text,
    headers     jsonb,
    created_at  timestamptz not null,
    -- `poison`: refused even when sent alone. `held`: its topic refused (unknown, not permitted).
    class       text        not null,
    reason      text        not null,
    parked_at   timestamptz not null default now(),
    constraint parked_pkey primary key (seq),
    constraint parked_class_is_known check (class in ('poison', 'held'))
);

-- The relay tries the oldest message of each topic that refused.
create index parked_held on outbox.parked (topic, seq) where class = 'held';
