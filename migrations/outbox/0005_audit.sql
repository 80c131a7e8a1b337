-- What people did, and who they were: one row for each act, written in the transaction that did it, so that
-- there is neither an act without its row nor a row without its act.

-- Rows are inserted, and deleted when they are old; never changed. Nobody but the owner and the housekeeping
-- below may take one away.
create table outbox.audit (
    -- In the order of writing, which is the order of acts closely enough to page by.
    id      bigint      generated always as identity,
    at      timestamptz not null default clock_timestamp(),
    -- The caller whom a service knew by his token; the name that somebody gave where nobody was asked.
    actor   text        not null,
    -- What that caller might do at most: `viewer`, `operator`, `admin`. Null where nobody was asked.
    role    text,
    -- What was done, as `parked.discard`, and to what, as `parked/outbox-12`: a path of the API.
    action  text        not null,
    subject text        not null,
    -- Why, in the actor's words; null where nobody wanted to know.
    reason  text,
    -- What else there is to say. No payload.
    details jsonb       not null default '{}',
    constraint audit_pkey primary key (id),
    constraint audit_actor_is_named check (actor <> ''),
    constraint audit_action_is_named check (action <> ''),
    constraint audit_subject_is_named check (subject <> ''),
    constraint audit_details_are_an_object check (jsonb_typeof(details) = 'object')
);

-- Each filter of the list, with the list's order behind it.
create index audit_by_actor on outbox.audit (actor, id);
create index audit_by_action on outbox.audit (action, id);
create index audit_by_subject on outbox.audit (subject, id);
-- What is old.
create index audit_by_time on outbox.audit (at);

-- Forgets what is older than `retention`, a bounded piece at a time; returns how many rows. Whoever may call it
-- need own nothing, and can make nobody forget what he did today.
create function outbox.forget_audit(retention interval) returns integer
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    gone integer;
begin
    if retention < interval '1 day' then
        raise exception using errcode = 'invalid_parameter_value', message =
            'what people did is remembered for a day at least';
    end if;
    delete from outbox.audit where id = any (array(
        select id from outbox.audit where at < now() - retention order by at limit 10000));
    get diagnostics gone = row_count;
    return gone;
end
$$;
revoke all on function outbox.forget_audit(interval) from public;

-- The roles of 0004, and what they need here:
--
-- | role                             | may                                                   |
-- |----------------------------------|-------------------------------------------------------|
-- | _producer, _relay, _consumer     | append: whoever may act must be able to say so        |
-- | _producer, _consumer             | read, for services show it                            |
-- | _consumer                        | forget what is old, as it does with the inbox         |
-- | _reader                          | read                                                  |
alter function outbox.make_roles(text) rename to make_roles_for_messages;

create function outbox.make_roles(prefix text) returns void
    language plpgsql volatile security invoker
as $$
begin
    -- Checks the prefix, and gives the reader each table's columns, this one's too.
    perform outbox.make_roles_for_messages(prefix);
    execute format('grant insert on outbox.audit to %I, %I, %I',
                   prefix || '_producer', prefix || '_relay', prefix || '_consumer');
    execute format('grant select on outbox.audit to %I, %I', prefix || '_producer', prefix || '_consumer');
    execute format('grant execute on function outbox.forget_audit(interval) to %I', prefix || '_consumer');
end
$$;
