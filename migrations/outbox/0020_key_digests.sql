-- A record's key is as long as its sender likes, and an index entry is not: over 2,704 bytes the insert fails
-- (54000), so a record with such a key could be neither handled nor parked, and its partition stood still.
-- Where a key is indexed its digest is, which has 32 bytes whatever the key has. Statements that look for a
-- key compare the digest; who needs the key itself reads the column.

-- Immutable in truth: a database never changes its encoding.
create function outbox.key_digest(key text) returns bytea
    language sql immutable strict parallel safe
    return sha256(convert_to(key, 'UTF8'));

-- The way in. Rows that are there get their digest as the column is added.
alter table outbox.inbox_blocked
    add column key_digest bytea generated always as (sha256(key)) stored,
    drop constraint inbox_blocked_pkey,
    add constraint inbox_blocked_pkey primary key (consumer, topic, key_digest);
alter table outbox.inbox_parked
    add column key_digest bytea generated always as (sha256(key)) stored;
drop index outbox.inbox_parked_by_key;
-- What a key's head leaves behind is handled in order.
create index inbox_parked_by_key on outbox.inbox_parked (consumer, topic, key_digest, id);

-- The way out: enqueue takes keys of at most 1,024 bytes, whoever writes to outbox.log takes any.
alter table outbox.blocked_key
    add column key_digest bytea generated always as (outbox.key_digest(key)) stored,
    drop constraint blocked_key_pkey,
    add constraint blocked_key_pkey primary key (topic, key_digest);
drop index outbox.blocked_key_released;
create index blocked_key_released on outbox.blocked_key (topic, key_digest) where head is null;
alter table outbox.parked
    add column key_digest bytea generated always as (outbox.key_digest(key)) stored;
drop index outbox.parked_by_key;
-- What a key's head leaves behind is sent in order.
create index parked_by_key on outbox.parked (topic, key_digest, seq);
