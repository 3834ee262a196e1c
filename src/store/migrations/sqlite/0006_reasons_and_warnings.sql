-- Why a message is unmatched as a fixed word with the text beside it, and notes of the door about a
-- message. Forward only: never edit this file, add another.

ALTER TABLE messages ADD COLUMN unmatched_detail TEXT;
-- JSON array; NULL when there are none.
ALTER TABLE messages ADD COLUMN warnings TEXT;

-- Until now the column held the text.
UPDATE messages SET unmatched_detail = unmatched, unmatched = CASE
        WHEN unmatched LIKE 'integrations %' THEN 'integrations'
        WHEN unmatched LIKE '%replayed for%' THEN 'replay'
        ELSE 'no_subscription' END
WHERE unmatched IS NOT NULL;
