-- Effects outside of the participant's database are work items: the consumer commits what is to be
-- done, a runner does it. Only saga/src/participant/runner/table.rs speaks to these tables.

-- One row for each operation that the runner has to bring to its answer. It goes, with the commands
-- that wait for it, in the transaction that stores the answer.
create table saga.external (
    saga_id    uuid        not null,
    step       text        not null,
    round      integer     not null,
    phase      text        not null,
    -- The kind of command that asked for it, and so who carries it out.
    kind       text        not null,
    -- When it is to be worked at next. While somebody does, when another one may take it over.
    next_at    timestamptz not null default clock_timestamp(),
    -- Drawn by whoever works at it. Whoever finds another one when it is done writes nothing.
    lease      uuid,
    -- How often somebody began to work at it. 0: nothing was ever called.
    tries      integer     not null,
    -- Why the last try came to nothing.
    last_error text,
    begun_at   timestamptz not null default now(),
    constraint external_pkey primary key (saga_id, step, round, phase),
    constraint external_phase_known check (phase in ('action', 'compensation')),
    constraint external_tries_counted check (tries >= 0)
);

-- What is due, each kind by itself: a slow one must not stand in front of the others.
create index external_due on saga.external (kind, next_at);

-- The commands that wait for its answer, as they came.
create table saga.external_command (
    saga_id    uuid        not null,
    step       text        not null,
    round      integer     not null,
    phase      text        not null,
    message_id uuid        not null,
    -- In the order in which they came.
    number     bigint      not null generated always as identity,
    topic      text        not null,
    -- `partition` and `offset` of its record.
    at_partition integer   not null,
    at_offset  bigint      not null,
    kind       text        not null,
    payload    bytea,
    headers    json        not null,
    constraint external_command_pkey primary key (saga_id, step, round, phase, message_id),
    constraint external_command_of foreign key (saga_id, step, round, phase)
        references saga.external on delete cascade
);

-- Effects that were begun before there was a runner: it finds out what became of them. Nobody is
-- told; whoever asks again gets the answer.
insert into saga.external (saga_id, step, round, phase, kind, tries, begun_at)
select saga_id, step, round, phase, command_kind, 1, recorded_at
from saga.barrier
where state = 'running';

-- By whom the horizon was raised last: it moves with the clock, but never by a large step, so that a
-- clock that is wrong for an hour does not make the barrier forget everything.
alter table saga.barrier_horizon add column raised_at timestamptz not null default now();
