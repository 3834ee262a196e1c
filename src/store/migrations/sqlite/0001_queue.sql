-- The queue: messages, their deliveries, the requests that carry them, the attempts at those, and
-- the leases. Every time is Unix milliseconds. Forward only: never edit this file, add another.

-- What was accepted. The payload stands last, so that the columns before it are read without
-- touching the pages that a long payload spills over to. AUTOINCREMENT, since a number must never
-- be given twice, even after the newest records were purged.
CREATE TABLE messages (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    state        INTEGER NOT NULL DEFAULT 0,  -- 0 pending, 1 done
    is_planned   INTEGER NOT NULL DEFAULT 0,
    is_failed    INTEGER NOT NULL DEFAULT 0,  -- set when done: one of its deliveries failed
    class        INTEGER NOT NULL,            -- 0 live, 1 bulk
    lane         INTEGER NOT NULL,
    person       INTEGER NOT NULL,
    message_hash INTEGER NOT NULL,
    received_at  INTEGER NOT NULL,
    done_at      INTEGER,
    kind         TEXT NOT NULL,
    source       TEXT NOT NULL,
    destination  TEXT NOT NULL,
    message_id   TEXT NOT NULL,
    unmatched    TEXT,
    payload      BLOB                         -- NULL once its retention is over
);

-- Reading in order, and the depth. Partial, so that it is as small as the backlog, not the history.
CREATE INDEX messages_pending ON messages (destination, seq) WHERE state = 0;
-- Duplicates and look-up by message id: eight bytes a row; the text is compared in the table.
CREATE INDEX messages_message_hash ON messages (message_hash);
-- Look-up by person, newest first.
CREATE INDEX messages_person ON messages (person, seq);
-- Payloads to be dropped: failed ones are kept longer, so they are a range of their own and are
-- not walked over by each purge of the others.
CREATE INDEX messages_payload_kept ON messages (is_failed, done_at) WHERE state = 1 AND payload IS NOT NULL;
-- Records to be deleted.
CREATE INDEX messages_done ON messages (done_at) WHERE state = 1;

-- One HTTP call to Loops, made of one delivery or of several merged ones.
CREATE TABLE requests (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    state            TEXT NOT NULL,           -- pending, delivered, failed
    destination      TEXT NOT NULL,
    lane             INTEGER NOT NULL,
    attempts         INTEGER NOT NULL DEFAULT 0,
    created_at       INTEGER NOT NULL,
    first_attempt_at INTEGER,
    next_attempt_at  INTEGER,
    method           TEXT NOT NULL,
    path             TEXT NOT NULL,
    idempotency_key  TEXT,
    body             BLOB                     -- NULL once the retention of its messages is over
);

-- The fate of one message under one subscription. Several may name one request.
CREATE TABLE deliveries (
    id           INTEGER PRIMARY KEY,
    seq          INTEGER NOT NULL REFERENCES messages (seq),
    position     INTEGER NOT NULL,
    request_id   INTEGER REFERENCES requests (id),
    state        TEXT NOT NULL,               -- pending, delivered, failed
    ended_at     INTEGER,
    subscription TEXT NOT NULL,
    action       TEXT NOT NULL,
    reason       TEXT,
    detail       TEXT,
    warnings     TEXT                         -- JSON array; NULL when there are none
);

-- The deliveries of a message, in order; no position is taken twice.
CREATE UNIQUE INDEX deliveries_seq ON deliveries (seq, position);
-- Who is carried by a request.
CREATE INDEX deliveries_request ON deliveries (request_id) WHERE request_id IS NOT NULL;

CREATE TABLE attempts (
    id          INTEGER PRIMARY KEY,
    request_id  INTEGER NOT NULL REFERENCES requests (id),
    number      INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    status      INTEGER,
    outcome     TEXT NOT NULL,
    excerpt     TEXT NOT NULL
);

-- The attempts of a request, in order. Unique, so that a settlement which is said twice (because
-- its first answer was lost) counts once.
CREATE UNIQUE INDEX attempts_request ON attempts (request_id, number);

-- Who may deliver. The row stays when a lease ends, so that its token goes on growing.
CREATE TABLE leases (
    destination TEXT PRIMARY KEY NOT NULL,
    holder      TEXT NOT NULL,
    token       INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
);
