-- A command that the relay has not sent has not been ignored: its timer is put off without an attempt.

-- The transaction that wrote the event, and with it the command that the event tells of: the relay's
-- cursor is a snapshot, so this says whether the command has been sent. None in rows from before.
alter table saga.event add column xid xid8;
alter table saga.event alter column xid set default pg_current_xact_id();

-- And that is what its saga waits for. What was allowed before is allowed still, so no row has to be
-- looked at.
alter table saga.instance
    drop constraint instance_waiting_known,
    add constraint instance_waiting_known check (waiting_for in
        ('reply', 'backoff', 'round', 'probe', 'lock', 'late_reply', 'person', 'relay')) not valid;
