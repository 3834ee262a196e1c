-- The queue: messages, their deliveries, the requests that carry the deliveries, the attempts at the requests, and the
-- leases, with indexes for the queries of people. Every time is in Unix milliseconds. Every digest is the first eight
-- bytes of an HMAC with the key of the installation.

-- Single values.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY NOT NULL,
    value NOT NULL
) WITHOUT ROWID;

-- `last_seq`: the last sequence number that was assigned. It never decreases, even after the newest records
-- were purged, so no number is assigned twice.
-- `sorted_through`: messages up to this one are in `message_ids` and `persons`; newer ones are found by
-- reading `messages`.
INSERT INTO meta (name, value) VALUES
    ('last_seq', 0), ('sorted_through', 0), ('installation_key', randomblob(32));

-- The messages, without their contents, so that reading and updating them is cheap.
CREATE TABLE messages (
    seq              INTEGER PRIMARY KEY NOT NULL,
    state            INTEGER NOT NULL DEFAULT 0,  -- 0 pending, 1 done
    is_planned       INTEGER NOT NULL DEFAULT 0,
    is_failed        INTEGER NOT NULL DEFAULT 0,  -- set when done: one of its deliveries failed
    has_contents     INTEGER NOT NULL DEFAULT 1,  -- 0 once its retention is over, or it was erased
    class            INTEGER NOT NULL,            -- 0 event, 1 live, 2 bulk
    message_hash     INTEGER NOT NULL,            -- digest of message_id
    lane             INTEGER,                     -- digest of the order key; NULL once erased
    anonymous        INTEGER,                     -- digest of anonymousId, if that is not the order key
    email            INTEGER,                     -- digest of the e-mail address, if that is not the order key
    received_at      INTEGER NOT NULL,
    done_at          INTEGER,
    event_id         INTEGER,                     -- of event_names; NULL unless it is a track
    kind             TEXT NOT NULL,
    source           TEXT NOT NULL,
    destination      TEXT NOT NULL,
    message_id       TEXT NOT NULL,
    payload_bytes    INTEGER NOT NULL,            -- length of its payload
    unmatched        TEXT,                        -- why no subscription took it, in a word
    unmatched_detail TEXT,
    warnings         TEXT                         -- JSON array; NULL when there are none
);

-- For reading in order, the depth, and the number of pending bytes. Partial, so that it is as small as the backlog, not
-- the history.
CREATE INDEX messages_pending ON messages (destination, class, seq, payload_bytes) WHERE state = 0;
-- Contents to drop. Contents of failed messages are kept longer, so they are a range of their own.
CREATE INDEX messages_contents ON messages (is_failed, done_at) WHERE state = 1 AND has_contents = 1;
-- Records to delete.
CREATE INDEX messages_done ON messages (done_at) WHERE state = 1;
-- Deletions, because a message before one of them is not replayed. There are few.
CREATE INDEX messages_deletions ON messages (lane, destination, seq) WHERE kind = 'delete';
-- Lists, newest first: the sequence number follows each column.
CREATE INDEX messages_event ON messages (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX messages_failed ON messages (is_failed) WHERE is_failed = 1;
-- What was delivered or shadowed, without the messages that wait. Messages end nearly in order, so it is written at
-- its end.
CREATE INDEX messages_ended_well ON messages (is_failed) WHERE state = 1 AND is_failed = 0;
CREATE INDEX messages_unmatched ON messages (unmatched) WHERE unmatched IS NOT NULL;

-- The stamped messages as JSON. The trace precedes the payload, so that it can be read without it.
CREATE TABLE payloads (
    seq     INTEGER PRIMARY KEY NOT NULL,
    trace   BLOB,                                 -- in which it was accepted; NULL: it is not traced
    payload BLOB NOT NULL
);

-- Sequence numbers by message id and by person. An index over random values costs a page of the write-ahead
-- log for each inserted row, which would be most of the cost of a message, so the writer adds many rows at a
-- time, in sorted order, long after the messages.
CREATE TABLE message_ids (
    message_hash INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    PRIMARY KEY (message_hash, seq)
) WITHOUT ROWID;
CREATE TABLE persons (
    person INTEGER NOT NULL,                      -- lane, anonymous or email of a message
    seq    INTEGER NOT NULL,
    PRIMARY KEY (person, seq)
) WITHOUT ROWID;

CREATE TRIGGER messages_deleted AFTER DELETE ON messages BEGIN
    DELETE FROM message_ids WHERE message_hash = old.message_hash AND seq = old.seq;
    DELETE FROM persons WHERE person IN (old.lane, old.anonymous, old.email) AND seq = old.seq;
    DELETE FROM payloads WHERE seq = old.seq;
END;

-- The messages that were received in a minute lie between these two numbers. For a replayed message,
-- `replays.first_seq` does. After the clock was set back, other messages may lie there as well.
CREATE TABLE minutes (
    minute    INTEGER PRIMARY KEY NOT NULL,       -- since the epoch
    first_seq INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL
);

-- The names of the events that each source sends.
CREATE TABLE event_names (
    id            INTEGER PRIMARY KEY NOT NULL,
    source        TEXT NOT NULL,
    name          TEXT NOT NULL,
    first_seen_at INTEGER NOT NULL,
    last_seen_at  INTEGER NOT NULL,
    UNIQUE (source, name)
);

-- Counts by minute and by hour.
CREATE TABLE tallies (
    step         INTEGER NOT NULL,                -- length of the interval: 60000 or 3600000
    at           INTEGER NOT NULL,                -- its beginning
    stage        TEXT NOT NULL,
    destination  TEXT NOT NULL,
    source       TEXT NOT NULL,
    subscription TEXT NOT NULL,                   -- empty for stages of whole messages
    reason       TEXT NOT NULL,                   -- empty where the stage needs none
    count        INTEGER NOT NULL,
    PRIMARY KEY (step, at, stage, destination, source, subscription, reason)
) WITHOUT ROWID;

-- One HTTP call to Loops, made of one delivery or of several merged ones. The parts of a merged request are
-- kept beside it in the state `part`, one for each delivery: if it is refused, its own state becomes
-- `taken_apart` and they become pending.
CREATE TABLE requests (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    state            TEXT NOT NULL,               -- pending, delivered, shadowed, failed, part, taken_apart
    destination      TEXT NOT NULL,
    attempts         INTEGER NOT NULL DEFAULT 0,
    is_merged        INTEGER NOT NULL DEFAULT 0,
    merged_into      INTEGER,
    created_at       INTEGER NOT NULL,
    first_attempt_at INTEGER,
    next_attempt_at  INTEGER,
    expires_at       INTEGER,
    path             TEXT NOT NULL,
    idempotency_key  TEXT,
    body             BLOB                         -- NULL once the retention of its messages is over
);

CREATE INDEX requests_merged_into ON requests (merged_into) WHERE merged_into IS NOT NULL;

-- The delivery of one message under one subscription. Several deliveries may have the same request.
CREATE TABLE deliveries (
    id            INTEGER PRIMARY KEY,
    seq           INTEGER NOT NULL REFERENCES messages (seq),
    replay        INTEGER NOT NULL DEFAULT 0,     -- the replay that made it; 0: none did
    position      INTEGER NOT NULL,
    is_superseded INTEGER NOT NULL DEFAULT 0,     -- a later replay made it anew: it no longer counts
    request_id    INTEGER REFERENCES requests (id),
    part_id       INTEGER,                        -- its part of a merged request
    state         TEXT NOT NULL,                  -- pending, delivered, shadowed, failed
    ended_at      INTEGER,
    subscription  TEXT NOT NULL,
    action        TEXT NOT NULL,
    reason        TEXT,
    detail        TEXT,
    warnings      TEXT,                           -- JSON array; NULL when there are none
    planned       INTEGER                         -- digest of the request that its subscription made; NULL: none
);

-- The deliveries of a message, in order; no position is taken twice.
CREATE UNIQUE INDEX deliveries_seq ON deliveries (seq, replay, position);
CREATE INDEX deliveries_request ON deliveries (request_id) WHERE request_id IS NOT NULL;
-- Lists, newest first.
CREATE INDEX deliveries_subscription ON deliveries (subscription, seq);
CREATE INDEX deliveries_failed ON deliveries (seq) WHERE state = 'failed' AND is_superseded = 0;
CREATE INDEX deliveries_reason ON deliveries (reason, seq) WHERE state = 'failed' AND is_superseded = 0;

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

-- The attempts of a request, in order. Unique, so that a settlement that is repeated because its first response was
-- lost counts once.
CREATE UNIQUE INDEX attempts_request ON attempts (request_id, number);

-- The leases. A row stays when its lease ends, so that the token keeps growing.
CREATE TABLE leases (
    destination TEXT PRIMARY KEY NOT NULL,
    holder      TEXT NOT NULL,
    token       INTEGER NOT NULL,
    taken_at    INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
);

-- The processes that run, or did not end cleanly.
CREATE TABLE replicas (
    name         TEXT PRIMARY KEY NOT NULL,       -- as the holder of leases
    host         TEXT NOT NULL,
    version      TEXT NOT NULL,
    started_at   INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    status       TEXT NOT NULL                    -- JSON: what it reported then
);

-- The actions of people, for as long as records are kept. Numbers are not used twice.
CREATE TABLE audit (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    at        INTEGER NOT NULL,
    role      TEXT NOT NULL,
    session   TEXT NOT NULL,
    process   TEXT NOT NULL,
    action    TEXT NOT NULL,
    arguments TEXT NOT NULL,                      -- JSON object
    result    TEXT NOT NULL
);

CREATE INDEX audit_at ON audit (at);

-- The messages that were replayed.
CREATE TABLE replays (
    seq               INTEGER PRIMARY KEY NOT NULL REFERENCES messages (seq),
    number            INTEGER NOT NULL,           -- 1 for the first replay of the message
    first_seq         INTEGER NOT NULL,           -- its sequence number when it was accepted
    only_subscription TEXT                        -- the one it is replayed for; NULL: all of them
);

-- The order of acceptance of messages that were replayed.
CREATE INDEX replays_first_seq ON replays (first_seq);

-- Events that Loops refused, and that are replayed if their contact appears.
CREATE TABLE awaiting (
    seq          INTEGER NOT NULL,                -- of the message
    subscription TEXT NOT NULL,
    destination  TEXT NOT NULL,
    lane         INTEGER NOT NULL,
    until        INTEGER NOT NULL,
    is_due       INTEGER NOT NULL DEFAULT 0,      -- 1: the contact has appeared
    PRIMARY KEY (seq, subscription)
) WITHOUT ROWID;

CREATE INDEX awaiting_lane ON awaiting (lane, destination);
CREATE INDEX awaiting_due ON awaiting (seq) WHERE is_due = 1;
CREATE INDEX awaiting_until ON awaiting (until);

-- Messages that are held: they are not planned, and their lanes wait. The row is deleted once the message is planned or
-- has ended.
CREATE TABLE held (
    seq         INTEGER PRIMARY KEY NOT NULL,     -- of the message
    destination TEXT NOT NULL,
    lane        INTEGER NOT NULL,
    contact     INTEGER NOT NULL,                 -- that it would create, as in `contacts`
    email       INTEGER,                          -- as in `contacts`
    reason      TEXT NOT NULL,
    since       INTEGER NOT NULL,
    is_due      INTEGER NOT NULL DEFAULT 0        -- 1: Loops has the contact by now
);

CREATE INDEX held_destination ON held (destination, seq);
CREATE INDEX held_due ON held (destination, seq) WHERE is_due = 1;
CREATE INDEX held_lane ON held (lane, destination, seq);
CREATE INDEX held_contact ON held (contact, destination);
CREATE INDEX held_email ON held (email, destination) WHERE email IS NOT NULL;

-- The contacts that frozen requests may create, by message. Filled only while there is a cap on new contacts.
CREATE TABLE creating (
    seq         INTEGER NOT NULL,                 -- of the message
    contact     INTEGER NOT NULL,                 -- as in `contacts`
    email       INTEGER,                          -- as in `contacts`
    destination TEXT NOT NULL,
    PRIMARY KEY (seq, contact)
) WITHOUT ROWID;

CREATE INDEX creating_contact ON creating (destination, contact);

CREATE TRIGGER messages_planned AFTER UPDATE OF is_planned, state ON messages
WHEN new.is_planned = 1 OR new.state = 1 BEGIN
    DELETE FROM held WHERE seq = new.seq;
END;

CREATE TRIGGER messages_ended AFTER UPDATE OF state ON messages WHEN new.state = 1 BEGIN
    DELETE FROM creating WHERE seq = new.seq;
END;

-- The actions of people about new contacts, by day.
CREATE TABLE new_contact_days (
    destination TEXT NOT NULL,
    day         INTEGER NOT NULL,                 -- when it began
    released    INTEGER NOT NULL,                 -- contacts that may be created beyond the cap
    discarded   INTEGER NOT NULL,                 -- messages that were held
    PRIMARY KEY (destination, day)
) WITHOUT ROWID;

-- Deletions that were delivered. Messages that were accepted up to such a deletion are not replayed.
CREATE TABLE deletions (
    seq         INTEGER PRIMARY KEY NOT NULL REFERENCES messages (seq),
    lane        INTEGER NOT NULL,
    destination TEXT NOT NULL,
    accepted    INTEGER NOT NULL                  -- the message's sequence number when it was accepted
);

CREATE INDEX deletions_lane ON deletions (lane, destination, accepted);

-- Delivered deletions whose person's contents are not erased yet, and the progress of the erasure.
CREATE TABLE erasures (
    seq            INTEGER PRIMARY KEY NOT NULL REFERENCES messages (seq),
    erased_through INTEGER NOT NULL DEFAULT 0
);

-- What is known of the contacts at Loops.
CREATE TABLE contacts (
    id          INTEGER PRIMARY KEY NOT NULL,
    destination TEXT NOT NULL,
    contact     INTEGER NOT NULL,                 -- digest of its userId; of its e-mail address if it has none
    email       INTEGER,                          -- digest of its address, beside a userId
    claimed     INTEGER,                          -- digest of the address in a request for it that is on its way
    address     BLOB,                             -- its address, encrypted; NULL unless identity is "link"
    lane        INTEGER,                          -- of the last request that was accepted; NULL: none was
    is_shared   INTEGER NOT NULL DEFAULT 0,       -- requests of another lane or contact may have changed it; never unset
    reported_at INTEGER,                          -- when Loops last reported that others changed it
    known_at    INTEGER,                          -- since when Loops is known to have it; 0: by a request; NULL: it is not
    changed_day INTEGER NOT NULL,                 -- of the last change of this row, in days since the epoch
    properties  BLOB NOT NULL                     -- their digests, as the program packs them
);

CREATE UNIQUE INDEX contacts_contact ON contacts (destination, contact);
-- By address, those apart that are not shared yet: however many have an address, few of them have to be marked.
CREATE INDEX contacts_email ON contacts (email, destination, is_shared) WHERE email IS NOT NULL;
-- As small as the number of contacts whose last request is being sent, or was not accepted.
CREATE INDEX contacts_claimed ON contacts (claimed, destination, is_shared) WHERE claimed IS NOT NULL;
-- As small as the number of contacts whose digest is not that of their lane.
CREATE INDEX contacts_lane ON contacts (lane, destination) WHERE lane <> contact;
CREATE INDEX contacts_changed ON contacts (changed_day);

-- Contacts that Loops may mix up, by day.
CREATE TABLE conflicts (
    day         INTEGER NOT NULL,                 -- in days since the epoch
    destination TEXT NOT NULL,
    kind        TEXT NOT NULL,                    -- addresses: of one userId; user_ids: with one address
    person      INTEGER NOT NULL,                 -- digest of that userId, or of that address
    count       INTEGER NOT NULL,
    request_id  INTEGER NOT NULL,                 -- that showed it last
    PRIMARY KEY (day, destination, kind, person)
) WITHOUT ROWID;

CREATE INDEX conflicts_person ON conflicts (person, destination);
-- The conflicts that are shown: a single change of an address mixes nobody up.
CREATE INDEX conflicts_shown ON conflicts (day) WHERE kind = 'user_ids' OR count > 2;

-- Receipts of erasures, which outlive the erased data.
CREATE TABLE receipts (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    receipt      TEXT NOT NULL UNIQUE,         -- its id, random
    destination  TEXT NOT NULL,
    source       TEXT NOT NULL,                   -- of the deletion
    message_hash INTEGER NOT NULL,                -- of the deletion
    person       INTEGER NOT NULL,                -- digest of the id or address that the deletion names
    asked_at     INTEGER NOT NULL,
    problem      TEXT,                            -- why Loops has not deleted the contact, in a word
    status       INTEGER,                         -- of Loops' last answer
    request_id   INTEGER,
    deleted_at   INTEGER,                         -- when Loops deleted the contact
    confirmed_at INTEGER,                         -- when it was deleted, as Loops reported
    erased_at    INTEGER,                         -- when the erasure ended
    messages     INTEGER NOT NULL DEFAULT 0,      -- what was erased, by kind
    feedback     INTEGER NOT NULL DEFAULT 0,
    contacts     INTEGER NOT NULL DEFAULT 0,
    opt_outs     INTEGER NOT NULL DEFAULT 0,
    UNIQUE (message_hash, source, destination)
);

CREATE INDEX receipts_person ON receipts (person, destination);
CREATE INDEX receipts_open ON receipts (destination) WHERE erased_at IS NULL;
CREATE INDEX receipts_asked ON receipts (asked_at);

-- The contacts that left, as Loops reported it. Kept until the person is erased.
CREATE TABLE opt_outs (
    id          INTEGER PRIMARY KEY NOT NULL,
    destination TEXT NOT NULL,
    person      INTEGER,                          -- digest of the contact's userId
    email       INTEGER,                          -- digest of its e-mail address
    list        TEXT NOT NULL,                    -- id of the mailing list that it left; empty: all mails
    at          INTEGER NOT NULL,                 -- when, by Loops' clock
    event       TEXT NOT NULL,                    -- by which Loops reported it
    is_lifted   INTEGER NOT NULL DEFAULT 0        -- 1: it came back
);

CREATE INDEX opt_outs_person ON opt_outs (person, destination) WHERE person IS NOT NULL;
CREATE INDEX opt_outs_email ON opt_outs (email, destination) WHERE email IS NOT NULL;

-- The contact properties, mailing lists and event names of the teams at Loops, as they were last read.
CREATE TABLE catalogues (
    destination TEXT PRIMARY KEY NOT NULL,
    account     INTEGER NOT NULL,                 -- differs between teams at Loops
    kept_at     INTEGER NOT NULL,
    record      TEXT NOT NULL                     -- JSON
);

-- The events that Loops reported by its webhooks, and the webhooks that wait to be handed on.
CREATE TABLE loops_events (
    id                INTEGER PRIMARY KEY NOT NULL,
    destination       TEXT NOT NULL,
    webhook_id        TEXT NOT NULL,
    received_at       INTEGER NOT NULL,
    at                INTEGER NOT NULL,           -- when it happened, by Loops' clock
    event             TEXT NOT NULL,
    person            INTEGER,                    -- digest of the contact's userId
    email             INTEGER,                    -- digest of its e-mail address
    contact_id        TEXT,
    origin            TEXT,                       -- workflow, campaign, transactional, mailing_list
    origin_id         TEXT,
    origin_name       TEXT,
    email_id          TEXT,
    forward_tries     INTEGER NOT NULL DEFAULT 0,
    forward_at        INTEGER,                    -- when it is due; NULL: nothing is to be handed on
    forward_bytes     INTEGER,                    -- length of the body
    forward_timestamp TEXT,
    forward_signature TEXT,
    forward_body      BLOB
);

CREATE UNIQUE INDEX loops_events_webhook ON loops_events (destination, webhook_id);
CREATE INDEX loops_events_person ON loops_events (person, at) WHERE person IS NOT NULL;
CREATE INDEX loops_events_email ON loops_events (email, at) WHERE email IS NOT NULL;
CREATE INDEX loops_events_destination ON loops_events (destination, received_at);
-- Records to delete.
CREATE INDEX loops_events_received ON loops_events (received_at);
-- As small as the number of webhooks that wait.
CREATE INDEX loops_events_forward ON loops_events (destination, forward_at, forward_bytes)
    WHERE forward_at IS NOT NULL;
CREATE INDEX loops_events_forward_received ON loops_events (received_at) WHERE forward_at IS NOT NULL;
