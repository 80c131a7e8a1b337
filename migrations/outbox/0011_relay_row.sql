-- What the relay's row has to say besides cursor and lease.

alter table outbox.relay
    -- How long a lease lasts that was just renewed. An end farther away than that is none that the
    -- holder has written by this clock: the clock was set back, or this is another server whose clock
    -- is behind. Null in a row of before: at most a minute.
    add column lease_length interval,
    -- Which broker the cursor's acknowledgements are from, as the broker calls itself. Null until it
    -- was asked. Another broker has none of the messages that the cursor has passed.
    add column broker text,
    -- No row of the tick under way has a higher number: above lies what has been committed since, which
    -- may be much. Null in a row of before.
    add column target_ceiling bigint;

-- Whether a lease with this end is held now: by this clock it has not ended, and is not longer than it
-- was made. A second is allowed for, because the length is read a moment before the clock.
create function outbox.lease_is_held(lease_until timestamptz, lease_length interval) returns boolean
    language sql volatile parallel safe
    return lease_until >= clock_timestamp()
       and lease_until <= clock_timestamp() + coalesce(lease_length, interval '1 minute')
                          + interval '1 second';

-- The leader finds requests topic by topic, so that those of one that refuses hide no other's.
create index parked_replay_by_topic on outbox.parked (topic, seq) where replay_at is not null;
