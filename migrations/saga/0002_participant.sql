-- What a participant remembers, in its own database beside its own rows. Only
-- saga/src/participant/table.rs speaks to these tables.

-- One row for each operation that arrived, with the answer it got. Inserting the row is how a
-- duplicate, or a compensation that overtook its action, is noticed.
create table saga.barrier (
    saga_id      uuid        not null,
    step         text        not null,
    round        integer     not null,
    phase        text        not null,
    op_key       uuid        not null,
    -- claimed: the transaction that inserted the row is carrying the operation out; nobody else
    -- sees such a row. running: an effect outside of this database may have begun, and its answer
    -- is not stored; committed before the effect is called, so that no crash can hide it.
    -- answered: settled for good.
    state        text        not null,
    -- `tombstoned` on an action says: its compensation, or a question what became of it, was here
    -- first; it must never take effect.
    outcome      text,
    reply_kind   text,
    -- The very bytes that were answered: a duplicate gets the same ones.
    reply        bytea,
    -- What was asked, for as long as the effect is running: whoever meets the row can find out
    -- what became of it, a compensation as well, without waiting for the command to come again.
    command_kind text,
    command      bytea,
    -- When the row came, or when a running one was answered: retention counts from here.
    recorded_at  timestamptz not null default now(),
    constraint barrier_pkey primary key (saga_id, step, round, phase),
    constraint barrier_phase_known check (phase in ('action', 'compensation')),
    constraint barrier_state_known check (state in ('claimed', 'running', 'answered')),
    constraint barrier_outcome_fits check (
        (phase = 'action' and outcome in ('succeeded', 'failed', 'tombstoned'))
        or (phase = 'compensation' and outcome in ('compensated', 'null_compensated'))),
    constraint barrier_answer_whole check (
        num_nulls(outcome, reply_kind, reply) = case state when 'answered' then 0 else 3 end),
    constraint barrier_command_while_running check (
        num_nulls(command_kind, command) = case state when 'running' then 0 else 2 end),
    -- A compensation has one outcome and is repeated until it has it: there is nothing to find out.
    constraint barrier_only_actions_run check (state <> 'running' or phase = 'action')
    -- The row is inserted, then gets its answer, nearly always in the same transaction.
) with (fillfactor = 70);

-- What retention removes, oldest first. The column does not change in the update that stores an
-- answer, so that update stays on its page.
create index barrier_by_age on saga.barrier (recorded_at);

-- Up to when rows may have been removed. Where no row is found of a saga that began before, that
-- proves nothing: the operation may have taken effect and been forgotten. At most one row.
create table saga.barrier_horizon (
    is_only          boolean     not null default true,
    forgotten_before timestamptz not null,
    constraint barrier_horizon_pkey primary key (is_only),
    constraint barrier_horizon_only_one check (is_only)
);
