-- Semantic locks: what several sagas may not do at once. Only saga/src/locks/table.rs speaks to
-- these tables (retention reads them, to leave alone what still claims something).

-- A resource that somebody claims. The row is what its claimants take turns at: every change of a
-- claim, by whoever, happens while holding it. It is gone when nobody claims the resource any more,
-- so the table is as large as what is claimed now.
create table saga.lock (
    -- Compared by bytes: locks are taken in this order, everywhere the same.
    resource text   collate "C" not null,
    -- How many units can be held together. The latest new claim says it.
    capacity bigint not null,
    constraint lock_pkey primary key (resource),
    constraint lock_resource_fits check (octet_length(resource) between 1 and 200),
    constraint lock_capacity_positive check (capacity > 0)
);

-- A saga's claim. No foreign keys: all writers come through one file, and a lock that is missed is
-- made anew by the next claim, because what is in use is counted here and stored nowhere else.
create table saga.lock_claim (
    saga_id    uuid        not null,
    resource   text        collate "C" not null,
    units      bigint      not null,
    -- `waiting` in the line; `granted` by somebody else's release, its saga has not noticed yet;
    -- `held`.
    state      text        not null,
    -- The place in the line: drawn while holding the lock's row, so nobody slips in ahead.
    position   bigint      not null generated always as identity,
    claimed_at timestamptz not null default clock_timestamp(),
    granted_at timestamptz,
    -- The saga first: a saga gives up all it claims.
    constraint lock_claim_pkey primary key (saga_id, resource),
    constraint lock_claim_units_positive check (units > 0),
    constraint lock_claim_state_known check (state in ('waiting', 'granted', 'held')),
    constraint lock_claim_granted_when_not_waiting check ((granted_at is null) = (state = 'waiting'))
);

-- Who holds a resource; who waits for it, in order.
create index lock_claim_by_resource on saga.lock_claim (resource, state, position);
-- Whose turn has come and who does not know it yet: few, and soon gone.
create index lock_claim_unnoticed on saga.lock_claim (granted_at) where state = 'granted';

-- What retention looks for. Written once in a saga's life, with the status, which is indexed too.
create index instance_by_end on saga.instance (ended_at) where ended_at is not null;
