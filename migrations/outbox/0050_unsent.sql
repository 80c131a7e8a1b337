-- Which messages the relay has not sent yet, by the transactions that enqueued them: for a sender that
-- must not hold its own outage against the receiver. With the owner's rights, because producers may not
-- read the log; it tells nothing of a message but this.
--
-- A message has been sent if its transaction is below the stored cursor; where that is in the middle of
-- what it reads, if its number is. One that is held because of its topic has not. Where no relay has ever
-- led, somebody else carries the log (change data capture), and everything counts as sent.
create function outbox.unsent(xids text[], topics text[], keys text[]) returns setof boolean
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
    -- By the log's index whatever the statistics say.
    set enable_seqscan = off
    set jit = off
as $$
    select relay.epoch > 0 and (
               case when pg_visible_in_snapshot(asked.xid::xid8, relay.settled) then false
                    else exists (
                        select from outbox.log l
                        where l.xid = asked.xid::xid8
                          and l.topic = asked.topic and l.key = asked.key
                          and not (pg_visible_in_snapshot(l.xid, relay.target)
                                   and l.seq <= relay.last_seq)) end
               or exists (
                   select from outbox.parked p
                   where p.topic = asked.topic
                     and p.key_digest = outbox.key_digest(asked.key) and p.class = 'held'))
    from unnest(xids, topics, keys) with ordinality as asked (xid, topic, key, place)
    cross join outbox.relay relay
    order by asked.place
$$;
