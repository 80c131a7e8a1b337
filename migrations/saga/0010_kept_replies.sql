-- Replies that are kept are taken up one saga at a time, each at its own moment, so that one that
-- fails is neither tried all the time nor in front of the others.
alter table saga.pending
    -- When it is to be taken up. Null while its saga is parked as a whole: until a person retries.
    add column not_before timestamptz default clock_timestamp(),
    -- How often taking it up failed; each failure moves `not_before` further away.
    add column failures integer not null default 0;

-- What is to be taken up, the oldest first, without walking over what is held.
create index pending_due on saga.pending (not_before) where not_before is not null;
