-- The door in for everyone who speaks SQL: other languages, and triggers. It promises what the Rust
-- functions in outbox/src/outgoing/enqueue promise and refuses what they refuse, in the same words;
-- a test takes the same messages through both doors. Direct inserts into outbox.log are not checked.

-- Time first (RFC 9562, version 7), so that ids sort by when they were made and the receiver's inbox
-- finds its partition. PostgreSQL has its own from version 18.
create function outbox.uuid_v7() returns uuid
    language sql volatile parallel safe
as $$
    -- 48 bits of milliseconds over a random version 4, whose version bits 0100 become 0111.
    select encode(
        set_bit(set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                from 1 for 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;

-- Makes later writers of the key wait until this transaction ends, so that messages follow the order
-- of the transactions. For writers that lock no row of their own. The first half keeps these locks
-- apart from the application's own advisory locks.
create function outbox.lock_key(key text) returns void
    language sql volatile
as $$
    select pg_advisory_xact_lock(hashtext('outbox.lock_key'), hashtext(lock_key.key))
$$;

-- Appends one message to the log, in the caller's transaction, and returns its id. The message leaves
-- if and only if that transaction commits; also from inside a trigger or a savepoint.
--
-- A null payload is a tombstone. Headers are a flat object of strings; `traceparent` in it gets its own
-- column, and `content-type` says what the payload is, if not JSON. An id given by the caller must be
-- unique for ever: receivers take a second message with it for a repetition.
--
-- A message that breaks a limit is refused with SQLSTATE OB001 and a text that names the limit.
create function outbox.enqueue(
    topic      text,
    key        text,
    kind       text,
    payload    bytea,
    headers    jsonb default null,
    message_id uuid default null
) returns uuid
    language plpgsql volatile security invoker
as $$
declare
    id          uuid := coalesce(enqueue.message_id, outbox.uuid_v7());
    refusal     text;
    count       bigint := 0;
    bytes       bigint := 0;
    -- Key and kind, the key once more as `ce_subject`, the payload, the headers with 10 bytes for the
    -- lengths of each, and 1 KiB for what else is sent: see `record_bytes` in Rust.
    size        bigint;
    largest     bigint;
begin
    if enqueue.headers is not null then
        if jsonb_typeof(enqueue.headers) <> 'object' then
            raise exception using errcode = 'OB001',
                message = 'message refused: headers are an object of strings';
        end if;
        select count(*), coalesce(sum(octet_length(h.name) + octet_length(h.value #>> '{}')), 0),
               case when bool_or(jsonb_typeof(h.value) <> 'string')
                    then 'headers are an object of strings'
                    when bool_or(h.name = '' or starts_with(h.name, 'ce_'))
                    then 'a header''s name is not empty and does not begin with ce_' end
        into count, bytes, refusal
        from jsonb_each(enqueue.headers) as h (name, value);
    end if;

    refusal := case
        when (enqueue.topic collate "C" ~ '^[A-Za-z0-9._-]{1,249}$'
              and enqueue.topic not in ('.', '..')) is not true
            then 'a topic name has 1 to 249 letters, digits, dots, dashes or underscores'
        when (octet_length(enqueue.kind) between 1 and 255) is not true
            then 'a kind has 1 to 255 bytes'
        when enqueue.key is null
            then 'a key is not null; a message without one has the empty key'
        when octet_length(enqueue.key) > 1024
            then 'a key has at most 1024 bytes'
        when count > 64
            then 'a message has at most 64 headers'
        when bytes > 16384
            then format('headers have at most 16384 bytes together, these have %s', bytes)
        else refusal
    end;
    if refusal is not null then
        raise exception using errcode = 'OB001', message = 'message refused: ' || refusal;
    end if;

    size := 1024 + 2 * octet_length(enqueue.key) + octet_length(enqueue.kind)
          + coalesce(octet_length(enqueue.payload), 0) + bytes + 10 * count;
    select coalesce((select t.max_bytes from outbox.topic as t where t.name = enqueue.topic), 1048576)
    into largest;
    if size > largest then
        raise exception using errcode = 'OB001', message = format(
            'message refused: the record has %s bytes with key, headers and envelope, '
            'topic %s takes at most %s (its max.message.bytes, as noted in outbox.topic)',
            size, enqueue.topic, largest);
    end if;

    -- Otherwise the message could be published and its transaction then be lost in a crash.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    insert into outbox.log (message_id, topic, key, kind, payload, traceparent, headers)
    values (id, enqueue.topic, enqueue.key, enqueue.kind, enqueue.payload,
            enqueue.headers ->> 'traceparent',
            nullif(enqueue.headers - 'traceparent', '{}'));
    return id;
end
$$;

-- The same for a payload that is JSON: `outbox.enqueue_json('orders.events', new.id::text,
-- 'order.placed.v1', to_jsonb(new))`. SQL null is a tombstone; JSON null is four bytes.
create function outbox.enqueue_json(
    topic      text,
    key        text,
    kind       text,
    payload    jsonb,
    headers    jsonb default null,
    message_id uuid default null
) returns uuid
    language sql volatile security invoker
as $$
    select outbox.enqueue($1, $2, $3, convert_to($4::text, 'UTF8'), $5, $6)
$$;
