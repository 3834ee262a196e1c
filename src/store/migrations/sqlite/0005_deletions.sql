-- Deletions of people. Forward only: never edit this file, add another.

-- Deletions that stand behind a message: what they are about is not put back to work. There are few.
CREATE INDEX messages_deletions ON messages (person, destination, seq) WHERE kind = 'delete';

-- How far the erasure of a person's contents has come.
ALTER TABLE erasures ADD COLUMN erased_through INTEGER NOT NULL DEFAULT 0;
