-- Least privilege, for those who want it: group roles with exactly what each kind of work needs.
-- Nothing is made until somebody calls outbox.make_roles.

-- Statistics of a partition that was just emptied. Analyzing is the owner's privilege (there is one to
-- grant only since PostgreSQL 17), and the relay need not own the log.
create function outbox.analyze_log(partition integer) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('analyze outbox.%I', 'log_' || partition);
end
$$;
revoke execute on function outbox.analyze_log(integer) from public;

-- Makes the group roles <prefix>_owner, _producer, _relay, _consumer and _reader where they are missing,
-- and gives each what it needs in the schema `outbox` of this database, no more. Roles cannot log in:
-- grant them to users, several to one where a service both sends and receives. Safe to repeat, and to
-- be repeated after each migration, which may have made something new.
--
-- | role       | may                                                                                    |
-- |------------|----------------------------------------------------------------------------------------|
-- | _owner     | everything: owns the schema; runs migrations                                           |
-- | _producer  | append to the log and declare topics; not read the log                                 |
-- | _relay     | read and truncate the log, move the cursor, park                                       |
-- | _consumer  | write the inbox and what is parked there, and declare topics; not see the log          |
-- | _reader    | read everything but payloads and headers                                               |
--
-- To be called by the schema's owner with the attribute CREATEROLE, or by a superuser.
create function outbox.make_roles(prefix text) returns void
    language plpgsql volatile security invoker
as $$
declare
    owner    text := prefix || '_owner';
    producer text := prefix || '_producer';
    relay    text := prefix || '_relay';
    consumer text := prefix || '_consumer';
    reader   text := prefix || '_reader';
    role     text;
    object   record;
begin
    if (prefix ~ '^[a-z][a-z0-9_]{0,49}$') is not true then
        raise exception using errcode = 'invalid_name', message =
            'a prefix for roles has 1 to 50 small letters, digits or underscores and begins with a letter';
    end if;
    -- Two at once would collide in the catalog.
    perform pg_advisory_xact_lock(hashtext('outbox.make_roles'), 0);

    foreach role in array array[owner, producer, relay, consumer, reader] loop
        if not exists (select from pg_roles where rolname = role) then
            begin
                execute format('create role %I nologin', role);
            exception when duplicate_object or unique_violation then
                -- Roles belong to the whole server: another database's call was quicker.
            end;
        end if;
    end loop;

    -- Whoever gives something away must be a member of who gets it; a superuser always is.
    if not pg_has_role(current_user, owner, 'usage') then
        execute format('grant %I to %I', owner, current_user);
    end if;
    -- Migrations say `create schema if not exists`, which needs this even where it exists.
    if not has_database_privilege(owner, current_database(), 'create') then
        execute format('grant create on database %I to %I', current_database(), owner);
    end if;
    execute format('alter schema outbox owner to %I', owner);
    for object in
        select case when c.relkind = 'S' then 'sequence' else 'table' end as type,
               c.oid::regclass::text as name
        from pg_class as c
        where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'p', 'S')
          -- The sequence of an identity column goes with its table.
          and not exists (select from pg_depend as d
                          where d.classid = 'pg_class'::regclass and d.objid = c.oid
                            and d.deptype = 'i' and c.relkind = 'S')
        union all
        select 'routine', p.oid::regprocedure::text
        from pg_proc as p where p.pronamespace = 'outbox'::regnamespace
    loop
        execute format('alter %s %s owner to %I', object.type, object.name, owner);
    end loop;

    -- What an earlier version of this function granted and this one does not.
    foreach role in array array[producer, relay, consumer, reader] loop
        execute format('revoke all on all tables in schema outbox from %I', role);
        execute format('revoke all on all sequences in schema outbox from %I', role);
        execute format('revoke all on all routines in schema outbox from %I', role);
        execute format('grant usage on schema outbox to %I', role);
        -- A program looks at start whether the schema is up to date.
        if to_regclass('outbox._sqlx_migrations') is not null then
            execute format('grant select on outbox._sqlx_migrations to %I', role);
        end if;
    end loop;

    execute format('grant insert on outbox.log to %I', producer);
    execute format('grant usage on sequence outbox.log_seq to %I', producer);

    execute format('grant select on outbox.log to %I', relay);
    execute format('grant select, truncate on outbox.log_0, outbox.log_1, outbox.log_2, outbox.log_3 to %I', relay);
    execute format('grant select on sequence outbox.log_seq to %I', relay);
    execute format('grant select, update on outbox.relay, outbox.topic to %I', relay);
    execute format('grant select, insert, update, delete on outbox.parked, outbox.blocked_key to %I', relay);
    execute format('grant execute on function outbox.analyze_log(integer) to %I', relay);

    execute format('grant select, insert on outbox.inbox, outbox.consumer to %I', consumer);
    execute format('grant select, insert, update, delete on outbox.inbox_parked, outbox.inbox_blocked to %I', consumer);
    for object in
        select p.oid::regprocedure::text as name from pg_proc as p
        where p.pronamespace = 'outbox'::regnamespace and p.proname = 'keep_inbox'
    loop
        execute format('grant execute on routine %s to %I', object.name, consumer);
    end loop;

    -- A service declares its topics at start, those that it sends to and those that it listens to, and
    -- its readiness asks whether somebody relays.
    execute format('grant select, insert, update on outbox.topic to %I, %I', producer, consumer);
    execute format('grant select on outbox.relay to %I, %I', producer, consumer);

    -- Column by column: neither what a message says nor what its headers say.
    for object in
        select c.oid::regclass::text as name,
               string_agg(quote_ident(a.attname), ', ' order by a.attnum) as columns
        from pg_class as c join pg_attribute as a on a.attrelid = c.oid
        where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'p')
          and not c.relispartition and a.attnum > 0 and not a.attisdropped
          and a.attname not in ('payload', 'headers')
        group by c.oid
    loop
        execute format('grant select (%s) on %s to %I', object.columns, object.name, reader);
    end loop;
    execute format('grant select on all sequences in schema outbox to %I', reader);
end
$$;
