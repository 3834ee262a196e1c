-- Replay and erasure. Forward only: never edit this file, add another.

-- The messages that were replayed, as a table of their own: columns added to `messages` would stand
-- behind the payload, where reading them means reading through it.
CREATE TABLE replays (
    seq               INTEGER PRIMARY KEY NOT NULL REFERENCES messages (seq),
    number            INTEGER NOT NULL,       -- 1 for the first replay of the message
    first_seq         INTEGER NOT NULL,       -- its place when it was accepted
    only_subscription TEXT                    -- the one it is replayed for; NULL: all of them
);

-- The order of acceptance of messages that were replayed.
CREATE INDEX replays_first_seq ON replays (first_seq);

-- The replay that made a delivery, and whether a later one has taken its place: what is superseded is
-- history and no longer tells the state of its message.
ALTER TABLE deliveries ADD COLUMN replay INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN is_superseded INTEGER NOT NULL DEFAULT 0;

DROP INDEX deliveries_seq;
CREATE UNIQUE INDEX deliveries_seq ON deliveries (seq, replay, position);

-- Deletions that were delivered, and whose person's contents are still to be erased.
CREATE TABLE erasures (
    seq INTEGER PRIMARY KEY NOT NULL REFERENCES messages (seq)
);
