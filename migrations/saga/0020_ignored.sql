-- How many replies that changed nothing a saga's history has. A participant that answers for ever, to
-- a saga that ended long ago as well, must not make a history that grows for ever: beyond a number
-- they are counted as metrics only. What sagas have already is not counted: they get as many again.
alter table saga.instance add column ignored integer not null default 0;
