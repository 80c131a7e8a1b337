-- When a replica that steers sagas of this definition's version was last there. Sagas of a version that
-- no replica has any more stand still, with what they hold; this is how that is noticed. Null: no
-- replica has said so yet.
alter table saga.definition add column seen_at timestamptz;
