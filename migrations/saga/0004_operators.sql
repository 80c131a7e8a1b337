-- What people did. Only saga/src/operator/table.rs and saga/src/operator/bulk/table.rs write to these
-- tables; retention forgets them.

-- An intervention that was carried out, so that the same request under the same key is answered
-- again instead of being done again. The history has what followed from it; this is who may ask twice.
-- Written in the intervention's transaction, under the instance's lock.
create table saga.intervention (
    saga_id         uuid        not null,
    -- Chosen by whoever asked.
    idempotency_key text        not null,
    -- sha256 of what was asked. The same key with another request is a mistake of the client's.
    request_hash    text        not null,
    operation       text        not null,
    actor           text        not null,
    reason          text        not null,
    -- What was answered.
    result          jsonb       not null,
    at              timestamptz not null default clock_timestamp(),
    constraint intervention_pkey primary key (saga_id, idempotency_key),
    constraint intervention_operation_known check (operation in
        ('pause', 'resume', 'cancel', 'retry', 'complete_step', 'skip_compensation', 'abandon', 'migrate'))
);

-- One intervention for many sagas, carried out one saga at a time by whoever comes.
create table saga.bulk (
    id              uuid        not null,
    idempotency_key text        not null,
    request_hash    text        not null,
    -- `operation` and what belongs to it.
    what            jsonb       not null,
    operation       text        not null,
    -- Which sagas were asked for, for a person; the ones that were found are in saga.bulk_item.
    selection       jsonb       not null,
    actor           text        not null,
    -- What the actor might do at most, for the audit; null where nobody was asked.
    role            text,
    reason          text        not null,
    -- Whether a saga that has moved on since may be intervened in nevertheless.
    allow_changed   boolean     not null,
    -- Sagas a second, by all replicas together.
    per_second      integer     not null,
    status          text        not null default 'running',
    -- The next saga's turn. This is the throttle: each saga that is taken moves it on.
    next_at         timestamptz not null default clock_timestamp(),
    created_at      timestamptz not null default clock_timestamp(),
    ended_at        timestamptz,
    cancelled_by    text,
    cancel_reason   text,
    constraint bulk_pkey primary key (id),
    constraint bulk_idempotency_key_unique unique (idempotency_key),
    constraint bulk_per_second_positive check (per_second > 0),
    constraint bulk_status_known check (status in ('running', 'done', 'cancelled')),
    constraint bulk_ended_has_its_moment check ((ended_at is null) = (status = 'running')),
    constraint bulk_cancelled_by_somebody check ((cancelled_by is not null) = (status = 'cancelled'))
    -- One update for each saga, of no indexed column but among the few that run.
) with (fillfactor = 50);

-- What there is to do, and since when.
create index bulk_running on saga.bulk (created_at) where status = 'running';
-- The list, newest first; what retention looks for.
create index bulk_by_age on saga.bulk (created_at desc, id desc);

-- The sagas of a bulk operation, as they were found when it was asked for.
create table saga.bulk_item (
    bulk_id      uuid        not null,
    -- In the order of their starts, from 1.
    position     integer     not null,
    saga_id      uuid        not null,
    -- The number of its last event when it was found.
    expected_seq bigint      not null,
    -- None until its turn.
    result       text,
    -- Why it was refused or failed.
    detail       text,
    -- How often it could not be carried out for a cause that may pass, and when it is tried again.
    failures     integer     not null default 0,
    not_before   timestamptz,
    done_at      timestamptz,
    constraint bulk_item_pkey primary key (bulk_id, position),
    constraint bulk_item_of_bulk foreign key (bulk_id) references saga.bulk (id) on delete cascade,
    constraint bulk_item_result_known check (result in ('done', 'refused', 'changed', 'gone', 'failed')),
    constraint bulk_item_done_has_its_moment check ((done_at is null) = (result is null))
);

-- The next one, without walking over those that are done.
create index bulk_item_pending on saga.bulk_item (bulk_id, position) where result is null;
