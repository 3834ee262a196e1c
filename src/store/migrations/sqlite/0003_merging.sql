-- Merging, urgency and the time within which a request is worth sending.

-- Three classes: 0 what may trigger a mail, 1 other live traffic, 2 bulk. It matters while pending.
UPDATE messages SET class = CASE WHEN class = 1 THEN 2 WHEN kind IN ('identify', 'delete') THEN 1 ELSE 0 END
WHERE state = 0;

-- Each class is read on its own, in order.
DROP INDEX messages_pending;
CREATE INDEX messages_pending ON messages (destination, class, seq) WHERE state = 0;

-- A merged request carries several deliveries. Its parts are kept beside it in the state `part`, one for
-- each delivery, in case it is refused: then its own state is `taken_apart` and they are pending.
ALTER TABLE requests ADD COLUMN is_merged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN merged_into INTEGER;
ALTER TABLE requests ADD COLUMN expires_at INTEGER;
ALTER TABLE deliveries ADD COLUMN part_id INTEGER;
CREATE INDEX requests_merged_into ON requests (merged_into) WHERE merged_into IS NOT NULL;
CREATE INDEX requests_taken_apart ON requests (id) WHERE state = 'taken_apart';
