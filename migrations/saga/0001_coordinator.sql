-- What a coordinator remembers. Only saga/src/table.rs writes to these tables; saga/src/http/table.rs
-- reads them to show them.

-- A definition that some replica has started with. Two programs that call different graphs by the
-- same name and version would steer each other's sagas; the primary key lets the first one decide.
create table saga.definition (
    name          text        not null,
    version       integer     not null,
    -- sha256 of what steers a saga (steps, classes, order, kinds, topics), not of its budgets.
    hash          text        not null,
    registered_at timestamptz not null default now(),
    constraint definition_pkey primary key (name, version),
    constraint definition_version_positive check (version > 0)
);

-- The state of each saga: the fold of its history, and its timers, kept so that a turn reads and
-- writes one row. Locking this row is how replicas, replies and timers take turns.
--
-- The order of the columns counts: of an update that finds room on its row's page, the WAL has only
-- what lies between the first byte that differs and the last. So what never changes stands first, and
-- the columns that are null now and then last, because everything behind them moves.
create table saga.instance (
    id              uuid        not null,
    created_at      timestamptz not null default now(),
    definition      text        not null,
    -- Pinned at the start: a saga ends under the graph it began with. No foreign key: every start
    -- would lock the same definition row, and all writers come through one file anyway.
    version         integer     not null,
    hash            text        not null,
    business_key    text        not null,
    -- Names and values to find it by, from its definition. Never changes.
    tags            jsonb       not null default '{}',
    -- A person wants it to send nothing.
    paused          boolean     not null default false,
    -- Its deadline has passed.
    late            boolean     not null default false,
    -- The resources it holds or waits for.
    locks           json        not null default '[]',
    data            jsonb       not null,
    -- Each step in the definition's order, as an array: name, status, round, attempt, what it waits
    -- for, the digest of its answer. Written at each turn, and objects would be twice as long.
    steps           json        not null,
    -- When it goes on by itself: each timer as an array of step, phase, round, attempt and moment (in
    -- microseconds since 1970). The view saga.timer shows them as rows.
    timers          json        not null default '[]',
    -- How often firing them failed since it last went on; each failure moves `look_at` further away, so
    -- that it starves no other saga.
    failures        integer     not null default 0,
    status          text        not null,
    -- The number of the last event folded in.
    seq             bigint      not null,
    updated_at      timestamptz not null default now(),
    -- When its timers have to be looked at: when the first is due, or earlier. A turn that moves the
    -- first timer back leaves this as it is, and an indexed column with it; whoever looks in vain
    -- moves it on. Null if it has no timers.
    look_at         timestamptz,
    -- What it waits for, and until when: of several steps under way the one that keeps it, or the
    -- first. All null once it has ended.
    waiting_for     text,
    waiting_step    text,
    waiting_phase   text,
    waiting_round   integer,
    waiting_attempt integer,
    waiting_until   timestamptz,
    -- Why it compensates, for a person.
    reason          text,
    -- Why nobody but a person can go on.
    parked_reason   text,
    -- When it ended; null until then.
    ended_at        timestamptz,
    constraint instance_pkey primary key (id),
    -- Starting again with the same business key finds the saga that exists. The key comes first so
    -- that the list can be filtered by it without naming a definition.
    constraint instance_business_key_unique unique (business_key, definition),
    constraint instance_status_known check (status in
        ('running', 'compensating', 'completed', 'compensated', 'parked', 'abandoned')),
    constraint instance_waiting_known check (waiting_for in
        ('reply', 'backoff', 'round', 'probe', 'lock', 'late_reply', 'person')),
    constraint instance_waiting_whole check (
        num_nulls(waiting_for, waiting_step, waiting_phase, waiting_round, waiting_attempt) in (0, 5)),
    -- An ended saga waits for nothing; any other waits for something, or it would be forgotten.
    constraint instance_waits_until_ended check (
        (waiting_for is null) = (status in ('completed', 'compensated', 'abandoned'))),
    constraint instance_ended_has_its_moment check (
        (ended_at is not null) = (status in ('completed', 'compensated', 'abandoned')))
    -- A handful of updates in a saga's life, few of an indexed column, and all sagas of a page live at
    -- the same time: room for a second version of each. (With 80, half of the updates left their
    -- page, and the table was no smaller.)
) with (fillfactor = 50);

-- The list, newest first. Neither column ever changes.
create index instance_by_age on saga.instance (created_at desc, id desc);
-- The list of one status. The status changes two or three times in a saga's life, so most updates
-- stay heap-only. Nearly all sagas are completed in the end; the list of those goes by age.
create index instance_by_status on saga.instance (status, created_at desc, id desc)
    where status <> 'completed';
-- Where to look for timers that are due, the oldest first.
create index instance_by_look on saga.instance (look_at) where look_at is not null;
-- `tags @> '{"customer": "…"}'`. They never change, so only a start pays for it.
create index instance_by_tag on saga.instance using gin (tags jsonb_path_ops) where tags <> '{}';

-- When sagas go on by themselves, for people.
create view saga.timer as
select i.id as saga_id,
       -- Empty for the saga's own deadline; the resource for a claim that was granted.
       t.entry ->> 0 as step,
       -- `action` or `compensation`; `deadline`; `lock`.
       t.entry ->> 1 as phase,
       -- Which attempt is meant: a timer of another one is dropped by the decision.
       (t.entry ->> 2)::integer as round,
       (t.entry ->> 3)::integer as attempt,
       timestamptz 'epoch' + (t.entry ->> 4)::bigint * interval '1 microsecond' as fire_at
from saga.instance i
cross join lateral json_array_elements(i.timers) as t (entry);

-- The history. Append-only: a row is never updated; the state above folds from it alone. The
-- primary key is the second guard against two coordinators taking the same turn.
create table saga.event (
    saga_id     uuid        not null,
    seq         bigint      not null,
    kind        text        not null,
    -- As it was written: it is read whole, never searched.
    body        json        not null,
    -- Of what came or went in a message: its record in the broker, and the trace. Only told, never
    -- decided upon.
    origin      json,
    recorded_at timestamptz not null default clock_timestamp(),
    constraint event_pkey primary key (saga_id, seq),
    constraint event_seq_positive check (seq > 0)
);

-- Replies to sagas of versions that the replica which took them does not know: in a rolling deploy
-- another one does, and takes them from here. Their messages are handled and stand in the inbox.
create table saga.pending (
    id         bigint      not null generated always as identity,
    saga_id    uuid        not null,
    step       text        not null,
    phase      text        not null,
    round      integer     not null,
    outcome    text        not null,
    kind       text        not null,
    payload    bytea,
    -- As in saga.event.
    origin     json,
    arrived_at timestamptz not null default clock_timestamp(),
    constraint pending_pkey primary key (id)
);

-- A saga's own, in the order of their arrival.
create index pending_by_saga on saga.pending (saga_id, id);

-- What should not have happened, for a person to look at. The history has the same; this is the
-- list across sagas.
create table saga.anomaly (
    saga_id     uuid        not null,
    -- The event that says so.
    seq         bigint      not null,
    kind        text        not null,
    definition  text        not null,
    step        text        not null,
    phase       text        not null,
    round       integer     not null,
    -- What the reply said.
    outcome     text        not null,
    recorded_at timestamptz not null default clock_timestamp(),
    constraint anomaly_pkey primary key (saga_id, seq),
    constraint anomaly_kind_known check (kind in
        ('after_terminal', 'late_success', 'contradiction', 'null_compensated'))
);

-- The list, newest first.
create index anomaly_by_age on saga.anomaly (recorded_at desc, saga_id, seq);
