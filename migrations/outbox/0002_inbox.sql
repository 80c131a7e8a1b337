-- The incoming side: what each consumer has handled, and what it could not.

-- The consumers that have handled anything. The inbox has their numbers: shorter than names in a row,
-- in its index and in the WAL, and faster to compare.
create table outbox.consumer (
    id   integer generated always as identity,
    name text    not null,
    constraint consumer_pkey primary key (id),
    constraint consumer_name_is_unique unique (name)
);

-- The number of a consumer, which gets one if it has none.
create function outbox.consumer_id(consumer_name text) returns integer
    language plpgsql as $$
declare
    known integer;
begin
    select id into known from outbox.consumer where name = consumer_name;
    if known is null then
        -- Waits for another transaction that does the same; the next statement sees its row.
        insert into outbox.consumer (name) values (consumer_name)
        on conflict on constraint consumer_name_is_unique do nothing;
        select id into known from outbox.consumer where name = consumer_name;
    end if;
    return known;
end
$$;

-- One row per consumer and message, inserted in the transaction that handles the message: a
-- second delivery finds it and does nothing.
--
-- Partitioned by the message id, not by a date of receipt: a UUIDv7 begins with its time, so a
-- duplicate meets its first copy in the same partition however much later it comes. Days (inbox_20260102,
-- by UTC) are added ahead and dropped whole by outbox.keep_inbox.
create table outbox.inbox (
    consumer   integer     not null,
    message_id uuid        not null,
    handled_at timestamptz not null default now(),
    constraint inbox_pkey primary key (consumer, message_id)
) partition by range (message_id);

-- The least id that a UUIDv7 made at that moment or later can have.
create function outbox.first_uuid(at timestamptz) returns uuid
    language sql immutable strict parallel safe
    return (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- Ids that are not times of this century: other versions of UUIDs, mostly. They have partitions of
-- their own so that the default one stays small: whenever a day is attached, the default partition is
-- locked and read through.
create table outbox.inbox_low partition of outbox.inbox
    for values from (minvalue) to (outbox.first_uuid('2024-01-01 00:00:00+00'));
create table outbox.inbox_high partition of outbox.inbox
    for values from (outbox.first_uuid('2100-01-01 00:00:00+00')) to (maxvalue);
-- Ids of days without a partition: late ones, and the few others that look like times.
create table outbox.inbox_other partition of outbox.inbox default;

-- These three lose their old rows one batch at a time.
create index inbox_low_by_age on outbox.inbox_low (handled_at);
create index inbox_high_by_age on outbox.inbox_high (handled_at);
create index inbox_other_by_age on outbox.inbox_other (handled_at);

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

-- Keeps the inbox's partitions: days ahead (and back, for a consumer that begins at a topic's
-- start) are added, days older than `retention` dropped, old rows elsewhere deleted. A message is
-- remembered for at least `retention` after it was handled; null is for ever. Each call does a
-- bounded piece and says how much; call again while anything is done, and every minute or so.
--
-- Whoever may call it need own nothing: it runs as the schema's owner.
--
-- Nobody waits for it longer than `lock_timeout`, and it waits for nobody longer: what cannot be
-- locked now is left for a later call. A day is made aside and attached, because `create … partition
-- of` would lock the whole inbox; attaching locks the default partition only.
create function outbox.keep_inbox(
    retention interval,
    ahead     integer default 3,
    out created integer, out dropped integer, out deleted integer
)
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '200ms'
as $$
declare
    today  constant date := (now() at time zone 'utc')::date;
    -- The oldest day that still matters.
    cutoff constant date := ((now() - retention) at time zone 'utc')::date;
    day    date;
    name   text;
    low    uuid;
    high   uuid;
    few    boolean;
    fresh  boolean;
    gone   integer;
begin
    created := 0;
    dropped := 0;
    deleted := 0;
    -- One caller at a time; the others have nothing to add.
    if not pg_try_advisory_xact_lock(hashtext('outbox.keep_inbox'), 0) then
        return;
    end if;

    for day, name in
        select today + n, 'inbox_' || to_char(today + n, 'YYYYMMDD')
        from generate_series(greatest(cutoff, today - 15) - today, ahead) as n
        where to_regclass('outbox.inbox_' || to_char(today + n, 'YYYYMMDD')) is null
        order by abs(n)
        limit 8
    loop
        low := outbox.first_uuid(day::timestamp at time zone 'utc');
        high := outbox.first_uuid((day + 1)::timestamp at time zone 'utc');
        -- A block of its own, so that a day that cannot be attached gives back its locks.
        begin
            lock table outbox.inbox_other in access exclusive mode;
            -- What came before its day had a partition moves; a crowd stays and ages where it is.
            select count(*) <= 10000 into few
            from (select from outbox.inbox_other as late
                  where late.message_id >= low and late.message_id < high limit 10001) as crowd;
            continue when not few;
            execute format('create table outbox.%I (like outbox.inbox including defaults including indexes)',
                           name);
            execute format('with late as (delete from outbox.inbox_other
                                          where message_id >= %L and message_id < %L returning *)
                            insert into outbox.%I select * from late', low, high, name);
            execute format('alter table outbox.inbox attach partition outbox.%I
                            for values from (%L) to (%L)', name, low, high);
            created := created + 1;
        exception when lock_not_available or deadlock_detected then
            -- Somebody uses it, and the other days want the same lock.
            exit;
        end;
    end loop;

    if retention is null then
        return;
    end if;

    for name in
        select relname
        from pg_inherits join pg_class on pg_class.oid = inhrelid
        where inhparent = 'outbox.inbox'::regclass and relname ~ '^inbox_[0-9]{8}$'
          and to_date(substr(relname, 7), 'YYYYMMDD') < cutoff
        order by relname
    loop
        exit when dropped >= 4;
        begin
            execute format('lock table outbox.%I in access exclusive mode', name);
            -- Handled long after it was made: its duplicates may come just as late.
            execute format('select exists (select from outbox.%I where handled_at > now() - $1)', name)
                into fresh using retention;
            continue when fresh;
            -- Emptied first, which locks this day only; to drop it takes the whole inbox for a moment.
            execute format('truncate outbox.%I', name);
            begin
                execute format('drop table outbox.%I', name);
                dropped := dropped + 1;
            exception when lock_not_available or deadlock_detected then
                null;
            end;
        exception when lock_not_available or deadlock_detected then
            null;
        end;
    end loop;

    foreach name in array array['inbox_low', 'inbox_high', 'inbox_other'] loop
        execute format('delete from outbox.%I where ctid = any (array(
                            select ctid from outbox.%I where handled_at < now() - $1
                            order by handled_at limit 10000))', name, name)
            using retention;
        get diagnostics gone = row_count;
        deleted := deleted + gone;
    end loop;
end
$$;

-- Whoever may call it may make the inbox forget.
revoke all on function outbox.keep_inbox(interval, integer) from public;
