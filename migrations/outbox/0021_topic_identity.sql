-- Which topic a consumer has read. A topic that is deleted and made again has the same name and other
-- records; the broker gives each an id of its own. A consumer that finds another id than the one noted here
-- begins the partition anew: the offset that it had is a place in a topic which is gone, and what lies below
-- it in the new one would never be read. What comes a second time is known to the inbox.
create table outbox.consumer_topic (
    consumer  text        not null,
    topic     text        not null,
    -- Each partition by itself: whoever has it now looks.
    partition integer     not null,
    -- As the broker's client prints it.
    topic_id  text        not null,
    noted_at  timestamptz not null default now(),
    constraint consumer_topic_pkey primary key (consumer, topic, partition)
);
