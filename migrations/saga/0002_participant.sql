-- What a participant remembers, in its own database beside its own rows. Only
-- saga/src/participant/table.rs speaks to this table.

-- One row for each operation that arrived, with the answer it got. Inserting the row is how a
-- duplicate, or a compensation that overtook its action, is noticed.
create table saga.barrier (
    saga_id     uuid        not null,
    step        text        not null,
    round       integer     not null,
    phase       text        not null,
    op_key      uuid        not null,
    -- Null only inside the transaction that is carrying the operation out. `tombstoned` on an
    -- action says: its compensation was here first, it must never take effect.
    outcome     text,
    reply_kind  text,
    -- The very bytes that were answered: a duplicate gets the same ones.
    reply       bytea,
    recorded_at timestamptz not null default now(),
    constraint barrier_pkey primary key (saga_id, step, round, phase),
    constraint barrier_phase_known check (phase in ('action', 'compensation')),
    constraint barrier_outcome_fits check (
        (phase = 'action' and outcome in ('succeeded', 'failed', 'tombstoned'))
        or (phase = 'compensation' and outcome in ('compensated', 'null_compensated'))),
    constraint barrier_reply_whole check (num_nulls(outcome, reply_kind, reply) in (0, 3))
    -- The row is inserted, then gets its answer in the same transaction.
) with (fillfactor = 70);
