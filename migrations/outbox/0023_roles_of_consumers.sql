-- The roles of 0004, and what they need of 0021 and 0022:
--
-- | role      | may                                                             |
-- |-----------|-----------------------------------------------------------------|
-- | _consumer | note which topic it has read, and how long it must be remembered |
alter function outbox.make_roles(text) rename to make_roles_before_0023;

create function outbox.make_roles(prefix text) returns void
    language plpgsql volatile security invoker
as $$
begin
    perform outbox.make_roles_before_0023(prefix);
    execute format('grant select, insert, update on outbox.consumer_topic to %I', prefix || '_consumer');
    execute format('grant execute on function outbox.note_retention(text, interval) to %I',
                   prefix || '_consumer');
end
$$;
