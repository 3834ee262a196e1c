-- The durable queue. Times are milliseconds since 1970, UTC. States are described in src/queue/mod.rs.
-- Migrations only go forward, and work with the code of the release before.

CREATE TABLE messages (
    -- AUTOINCREMENT: a number is never used twice, also after the latest messages were deleted.
    -- Readers go by "greater than the last one seen".
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    source       TEXT    NOT NULL,
    destination  TEXT    NOT NULL,
    message_id   TEXT    NOT NULL,
    message_hash INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    class        INTEGER NOT NULL,   -- 0 live, 1 bulk
    lane         INTEGER NOT NULL,   -- digest of the order key
    person       INTEGER NOT NULL,   -- digest of the id to find a person's messages by
    received_at  INTEGER NOT NULL,
    state        INTEGER NOT NULL DEFAULT 0,   -- 0 pending, 1 done
    is_planned   INTEGER NOT NULL DEFAULT 0,
    has_failed   INTEGER NOT NULL DEFAULT 0,   -- a delivery of it failed: kept longer
    unmatched    TEXT,
    done_at      INTEGER,
    payload      BLOB                -- NULL when its time was over
) STRICT;

-- What the engine reads, in its order. Entries leave it when a message is done, so it is as large as
-- the backlog, and both ends of it are hot pages.
CREATE INDEX messages_pending ON messages (destination, seq) WHERE state = 0;

-- Duplicates, and looking a message up by its id. Eight-byte digests instead of the texts keep the
-- index of random values small; the texts are compared in the row.
CREATE INDEX messages_by_id ON messages (message_hash);

-- Looking up a person's messages, latest first.
CREATE INDEX messages_by_person ON messages (person, seq);

-- Retention: what is done and still has its payload, the longest done first.
CREATE INDEX messages_kept ON messages (has_failed, done_at) WHERE state = 1 AND payload IS NOT NULL;

-- A request as it is sent, at every attempt. One delivery makes one request; merged deliveries share one.
CREATE TABLE requests (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    destination      TEXT    NOT NULL,
    lane             INTEGER NOT NULL,
    method           TEXT    NOT NULL,
    path             TEXT    NOT NULL,
    body             BLOB,               -- NULL when its time was over
    idempotency_key  TEXT,
    state            INTEGER NOT NULL DEFAULT 0,   -- 0 pending, 1 delivered, 2 failed
    attempts         INTEGER NOT NULL DEFAULT 0,
    first_attempt_at INTEGER,
    next_attempt_at  INTEGER,
    created_at       INTEGER NOT NULL
) STRICT;

CREATE TABLE deliveries (
    id           INTEGER PRIMARY KEY,
    seq          INTEGER NOT NULL,      -- of its message
    position     INTEGER NOT NULL,      -- order of the subscriptions
    subscription TEXT    NOT NULL,
    action       TEXT    NOT NULL,
    state        INTEGER NOT NULL,      -- 0 pending, 1 delivered, 2 failed
    reason       TEXT,
    detail       TEXT,
    warnings     TEXT,                  -- JSON list of texts
    request_id   INTEGER,
    ended_at     INTEGER
) STRICT;

CREATE INDEX deliveries_by_message ON deliveries (seq, position);
CREATE INDEX deliveries_by_request ON deliveries (request_id) WHERE request_id IS NOT NULL;

CREATE TABLE attempts (
    id          INTEGER PRIMARY KEY,
    request_id  INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    status      INTEGER,                -- NULL: no answer
    outcome     TEXT    NOT NULL,
    excerpt     TEXT    NOT NULL
) STRICT;

CREATE INDEX attempts_by_request ON attempts (request_id);

-- The right to deliver for a destination. The token grows with every change of hands.
CREATE TABLE leases (
    destination TEXT    PRIMARY KEY,
    holder      TEXT    NOT NULL,
    token       INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT;
