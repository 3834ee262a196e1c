-- Deletions that were delivered, of messages of any type. Forward only: never edit this file, add another.

-- What was accepted up to such a deletion is not replayed. Erasures are not enough: they end, and only
-- messages of type `delete` have them.
CREATE TABLE deletions (
    seq         INTEGER PRIMARY KEY NOT NULL REFERENCES messages (seq),
    person      INTEGER NOT NULL,
    destination TEXT NOT NULL,
    accepted    INTEGER NOT NULL         -- the message's place when it was accepted
);

CREATE INDEX deletions_person ON deletions (person, destination, accepted);

INSERT INTO deletions (seq, person, destination, accepted)
SELECT DISTINCT m.seq, m.person, m.destination, COALESCE(p.first_seq, m.seq)
FROM deliveries d JOIN messages m ON m.seq = d.seq LEFT JOIN replays p ON p.seq = m.seq
WHERE d.action = 'deleteContact' AND d.state = 'delivered';
