-- Looking up by message id and by person, without an index over random values in the way of each insert.
-- Forward only: never edit this file, add another.

-- The newest messages, in the order of acceptance: what the two tables below do not hold yet. The writer
-- moves them there in sorted order, many at a time, so that a page is written for many rows and not for one.
CREATE TABLE recent (
    seq          INTEGER PRIMARY KEY NOT NULL,
    message_hash INTEGER NOT NULL,
    person       INTEGER NOT NULL
);
CREATE TABLE message_ids (
    message_hash INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    PRIMARY KEY (message_hash, seq)
) WITHOUT ROWID;
CREATE TABLE persons (
    person INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (person, seq)
) WITHOUT ROWID;

-- One after the other: the second table takes the room of the first index.
INSERT INTO message_ids (message_hash, seq) SELECT message_hash, seq FROM messages ORDER BY message_hash, seq;
DROP INDEX messages_message_hash;
INSERT INTO persons (person, seq) SELECT person, seq FROM messages ORDER BY person, seq;
DROP INDEX messages_person;

CREATE TRIGGER messages_added AFTER INSERT ON messages BEGIN
    INSERT INTO recent (seq, message_hash, person) VALUES (new.seq, new.message_hash, new.person);
END;
CREATE TRIGGER messages_deleted AFTER DELETE ON messages BEGIN
    DELETE FROM recent WHERE seq = old.seq;
    DELETE FROM message_ids WHERE message_hash = old.message_hash AND seq = old.seq;
    DELETE FROM persons WHERE person = old.person AND seq = old.seq;
END;
