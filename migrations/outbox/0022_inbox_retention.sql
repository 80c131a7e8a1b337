-- How long the inbox remembers is for each consumer to say, and its rows lie together: days are dropped for
-- all of them. So each notes what it needs, and the longest counts. And the clock is looked at twice before
-- anything is forgotten: one that leaps ahead would make every row old at once.

alter table outbox.consumer
    -- How long it must be remembered what this consumer has handled; null is for ever.
    add column retention interval,
    -- When it last said so; null if it never did, as versions before this one.
    add column retention_noted_at timestamptz;

-- Notes what a consumer needs. At start, and every minute.
--
-- Whoever may call it need own nothing.
create function outbox.note_retention(consumer_name text, wanted interval) returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    known integer := outbox.consumer_id(consumer_name);
begin
    -- Once an hour is enough, unless it is another one.
    update outbox.consumer set retention = wanted, retention_noted_at = now()
    where id = known
      and (retention is distinct from wanted or retention_noted_at is null
           or retention_noted_at not between now() - interval '1 hour' and now());
end
$$;
revoke all on function outbox.note_retention(text, interval) from public;

-- When the inbox was last kept, by this database's clock: one row.
create table outbox.inbox_keeping (
    only_row     boolean     not null default true,
    kept_at      timestamptz not null default now(),
    -- Nothing is forgotten before: a day after the clock was last seen to leap.
    forgets_from timestamptz not null default now(),
    constraint inbox_keeping_pkey primary key (only_row),
    constraint inbox_keeping_has_one_row check (only_row)
);
insert into outbox.inbox_keeping default values;

-- As before, but that it forgets for nobody what another consumer needs, and nothing in the first day after
-- the clock has leapt: ahead by a day, or back. A database that was left alone for longer looks the same, and
-- loses nothing but a day's worth of space.
create or replace function outbox.keep_inbox(
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
    cutoff date;
    day    date;
    name   text;
    low    uuid;
    high   uuid;
    few    boolean;
    fresh  boolean;
    gone   integer;
    -- What counts of `retention` and what the consumers have noted.
    remembered interval;
    kept    timestamptz;
    is_held boolean;
begin
    created := 0;
    dropped := 0;
    deleted := 0;
    -- One caller at a time; the others have nothing to add.
    if not pg_try_advisory_xact_lock(hashtext('outbox.keep_inbox'), 0) then
        return;
    end if;

    -- A consumer that was not seen for longer than it wants to remember has nothing left to remember.
    select case when not coalesce(bool_or(c.retention is null), false)
           then greatest(keep_inbox.retention,
                         max(c.retention) filter (where c.retention_noted_at > now() - c.retention)) end
    into remembered
    from outbox.consumer as c where c.retention_noted_at is not null;
    if keep_inbox.retention is null then
        remembered := null;
    end if;
    cutoff := ((now() - remembered) at time zone 'utc')::date;

    select kept_at into kept from outbox.inbox_keeping;
    if now() not between kept and kept + interval '1 day' then
        raise warning 'the inbox was last kept at %, now it is %: nothing is forgotten for a day, '
                      'in case the clock is wrong', kept, now();
        update outbox.inbox_keeping set forgets_from = now() + interval '1 day';
    end if;
    update outbox.inbox_keeping set kept_at = now() returning now() < forgets_from into is_held;

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

    if remembered is null or is_held then
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
                into fresh using remembered;
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
            using remembered;
        get diagnostics gone = row_count;
        deleted := deleted + gone;
    end loop;
end
$$;
