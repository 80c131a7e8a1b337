-- What lists, counts and progress read, so that each costs what it shows and not what was ever there.

-- The sagas of one definition, version and status, newest first. By its first three columns the few
-- groups there are can be found without reading their sagas; each is then read or counted as far as
-- somebody wants to see. Definition, version and start never change (a migration apart), so an update
-- that touched no index before touches this one no more.
create index instance_by_version on saga.instance (definition, version, status, created_at desc, id desc);

-- Which definitions, versions and statuses there are sagas of: one look into the index for each.
create view saga.instance_group as
with recursive found (definition, version, status) as (
    (select definition, version, status from saga.instance
     order by definition, version, status limit 1)
    union all
    select next.definition, next.version, next.status
    from found
    cross join lateral (
        select i.definition, i.version, i.status from saga.instance i
        where (i.definition, i.version, i.status)
              > (found.definition, found.version, found.status)
        order by i.definition, i.version, i.status limit 1) as next
)
select definition as of_definition, version as of_version, status as of_status from found;

-- How far a bulk operation is, counted by whoever settles an item: a page that follows one of a
-- hundred thousand sagas asks every second.
alter table saga.bulk
    add column total   integer not null default 0,
    add column done    integer not null default 0,
    add column refused integer not null default 0,
    add column changed integer not null default 0,
    add column gone    integer not null default 0,
    add column failed  integer not null default 0;

update saga.bulk
set total = items.total, done = items.done, refused = items.refused, changed = items.changed,
    gone = items.gone, failed = items.failed
from (select bulk_id, count(*) as total,
             count(*) filter (where result = 'done') as done,
             count(*) filter (where result = 'refused') as refused,
             count(*) filter (where result = 'changed') as changed,
             count(*) filter (where result = 'gone') as gone,
             count(*) filter (where result = 'failed') as failed
      from saga.bulk_item group by bulk_id) as items
where items.bulk_id = bulk.id;

-- A key is its caller's own: two people who call their requests "1" ask for two operations. The name
-- stays, because a replica of the release before goes by it.
alter table saga.bulk drop constraint bulk_idempotency_key_unique;
alter table saga.bulk add constraint bulk_idempotency_key_unique unique (actor, idempotency_key);

-- Effects outside of the database whose answers are not known. Few, and soon answered: what stays
-- here is what somebody has to look at.
create index barrier_running on saga.barrier (recorded_at) where state = 'running';
