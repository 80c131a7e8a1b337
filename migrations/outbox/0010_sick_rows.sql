-- A row that no relay can send does not get into the log. Whoever writes to it by other ways than
-- `enqueue` meets these constraints; the relay parks what was there before them and cannot be sent.
--
-- `not valid`: rows of before stay as they are, and nobody reads through the log for this.

-- Whether headers can be sent: none, or a flat object of strings. (`strict`, or an array of strings would
-- pass for a string.)
create function outbox.are_headers(headers jsonb) returns boolean
    language sql immutable parallel safe
    return headers is null
        or (jsonb_typeof(headers) = 'object'
            and not jsonb_path_exists(headers, 'strict $.* ? (@.type() != "string")'));

-- A time as programs can read it: `infinity`, and years that have no four digits, are cut off.
create function outbox.readable_time(at timestamptz) returns timestamptz
    language sql immutable parallel safe
    return least(greatest(at, '0001-01-01 00:00:00+00'::timestamptz),
                 '9999-12-31 23:59:59+00'::timestamptz);

alter table outbox.log
    -- What the relay sends as headers.
    add constraint log_headers_are_an_object_of_strings check (outbox.are_headers(headers)) not valid,
    -- What `ce_time` can say. Neither `infinity` nor the years beyond have a form there.
    add constraint log_created_at_is_a_time check (
        created_at >= '0001-01-01 00:00:00+00' and created_at < '10000-01-01 00:00:00+00'
    ) not valid,
    -- The relay reads by snapshots: a row under a future transaction is not read until that comes, one
    -- under an ancient transaction never. Not immutable, which is why it is not to be validated either:
    -- it is about the insert, not about the row.
    add constraint log_xid_is_its_own check (xid = pg_current_xact_id()) not valid;

-- The roles of 0004: a producer writes the seven columns that `enqueue` writes. Whose transaction it
-- is, its place and its time are the log's own business.
alter function outbox.make_roles(text) rename to make_roles_that_insert_rows;

create function outbox.make_roles(prefix text) returns void
    language plpgsql volatile security invoker
as $$
begin
    -- Checks the prefix.
    perform outbox.make_roles_that_insert_rows(prefix);
    execute format('revoke insert on outbox.log from %I', prefix || '_producer');
    execute format('grant insert (message_id, topic, key, kind, payload, traceparent, headers)
                    on outbox.log to %I', prefix || '_producer');
end
$$;
