-- The queue: messages, their deliveries, the requests that carry them, the attempts at those, and the leases; and
-- what people ask about them. Every time is in Unix milliseconds, every digest is the first eight bytes of an HMAC
-- with the key of the installation.
--
-- `numbers.rs` makes the numbers of messages and requests: a number begins with the second at which it was given.
-- So a day is a range of numbers, the tables that grow with the history are partitioned by day, and a look-up by
-- number reads one partition. Retention drops partitions. What senders write at their speed (messages, payloads,
-- pending, outcomes) is inserted and dropped, never updated; what follows Loops' rate may be updated.
--
-- `@` stands for the quoted name of the schema and a dot.

-- Single values. Locked while the schema or the partitions are changed.
CREATE TABLE @meta (
    is_only          boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    version          integer NOT NULL,
    usable_from      integer NOT NULL,            -- the lowest version whose programs work on this schema
    installation_key bytea NOT NULL
);

-- The move of a queue from SQLite for which the schema was made; no row: it was made for none.
CREATE TABLE @moves (
    id          text PRIMARY KEY,
    began_at    bigint NOT NULL,
    part        integer NOT NULL DEFAULT 0,       -- the parts before this one are copied,
    through     bigint NOT NULL DEFAULT 0,        -- and of this one the rows up to here:
    rows        bigint NOT NULL DEFAULT 0,        -- how many rows in all
    finished_at bigint,                           -- NULL: nothing else may use the schema
    opened_at   bigint                            -- when a process first opened it then
);

-- The days that have partitions, since the epoch.
CREATE TABLE @days (
    day              integer PRIMARY KEY,
    has_payloads     boolean NOT NULL DEFAULT true,
    -- It has messages, outcomes and deliveries; the other partitions go last, with this row.
    has_records      boolean NOT NULL DEFAULT true,
    -- How far the payloads that outlive the day's others were copied to `payloads_kept`.
    kept_through     bigint NOT NULL DEFAULT 0,
    -- How far the excerpts and details of the day's messages were removed with their payloads.
    stripped_through bigint NOT NULL DEFAULT 0,
    -- A message was received at most so long before or after its number was given, or a minute.
    slack_ms         bigint NOT NULL DEFAULT 0
);

-- A destination's part in the numbers of its messages, and the last one. The row is locked from before a number is
-- given until the message is committed, so numbers of a destination become visible in order. `last` never
-- decreases. The page has room for new versions of its few rows.
CREATE TABLE @streams (
    destination text PRIMARY KEY,
    no          smallint NOT NULL UNIQUE CHECK (no BETWEEN 0 AND 255),
    last        bigint NOT NULL DEFAULT 0         -- second and index in it, as `numbers.rs` counts
) WITH (fillfactor = 20);

-- Who may deliver. The row stays when a lease ends, so that its token keeps growing. Each step of delivery locks it
-- FOR SHARE.
CREATE TABLE @leases (
    destination text PRIMARY KEY,
    holder      text NOT NULL,
    token       bigint NOT NULL,
    taken_at    bigint NOT NULL,
    expires_at  bigint NOT NULL
) WITH (fillfactor = 20);

-- The processes that run, or did not end in order.
CREATE TABLE @replicas (
    name         text PRIMARY KEY,                -- as the holder of leases
    host         text NOT NULL,
    version      text NOT NULL,
    started_at   bigint NOT NULL,
    last_seen_at bigint NOT NULL
) WITH (fillfactor = 20);

-- What people did, for as long as records are kept.
CREATE TABLE @audit (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        bigint NOT NULL,
    role      text NOT NULL,
    session   text NOT NULL,
    process   text NOT NULL,
    action    text NOT NULL,
    arguments text NOT NULL,                      -- JSON object
    result    text NOT NULL
);

CREATE INDEX audit_at ON @audit (at);

-- The messages, without their contents.
CREATE TABLE @messages (
    seq           bigint PRIMARY KEY,
    message_hash  bigint NOT NULL,                -- digest of message_id
    lane          bigint,                         -- digest of the order key; NULL once erased
    anonymous     bigint,                         -- digest of anonymousId, if that is not the order key
    email         bigint,                         -- digest of the e-mail address, if that is not the order key
    received_at   bigint NOT NULL,
    payload_bytes integer NOT NULL,               -- length of its payload
    class         smallint NOT NULL,              -- 0 event, 1 live, 2 bulk
    kind          text NOT NULL,
    source        text NOT NULL,
    destination   text NOT NULL,
    message_id    text NOT NULL,
    event         text,                           -- the name under which it is listed, of a track
    warnings      text                            -- JSON array; NULL when there are none
) PARTITION BY RANGE (seq);

CREATE INDEX messages_hash ON @messages (message_hash);
CREATE INDEX messages_lane ON @messages (lane, seq) WHERE lane IS NOT NULL;
CREATE INDEX messages_anonymous ON @messages (anonymous, seq) WHERE anonymous IS NOT NULL;
CREATE INDEX messages_email ON @messages (email, seq) WHERE email IS NOT NULL;
CREATE INDEX messages_event ON @messages (event, seq) WHERE event IS NOT NULL;

-- The stamped messages as JSON. A message has contents as long as it has a row here or in `payloads_kept`.
CREATE TABLE @payloads (
    seq     bigint PRIMARY KEY,
    payload bytea NOT NULL
) PARTITION BY RANGE (seq);
ALTER TABLE @payloads ALTER COLUMN payload SET STORAGE EXTERNAL;

-- Those that are kept longer than the others of their day: copies, until the day's partition is dropped.
CREATE TABLE @payloads_kept (
    seq       bigint PRIMARY KEY,
    done_at   bigint,                             -- NULL while the message is pending
    is_failed boolean,
    payload   bytea NOT NULL
);
ALTER TABLE @payloads_kept ALTER COLUMN payload SET STORAGE EXTERNAL;

CREATE INDEX payloads_kept_done ON @payloads_kept (is_failed, done_at) WHERE done_at IS NOT NULL;

-- The messages that are not done, which engines read in order: as small as the backlog. A message has a row
-- either here or in `outcomes`.
CREATE TABLE @pending (
    destination     text NOT NULL,
    class           smallint NOT NULL,
    seq             bigint NOT NULL,
    lane            bigint NOT NULL,
    received_at     bigint NOT NULL,
    payload_bytes   integer NOT NULL,
    is_planned      boolean NOT NULL DEFAULT false,
    is_deletion     boolean NOT NULL,             -- its type is `delete`
    next_attempt_at bigint,                       -- the earliest of its requests that were tried
    source          text NOT NULL,
    PRIMARY KEY (destination, class, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000);

CREATE UNIQUE INDEX pending_seq ON @pending (seq);
CREATE INDEX pending_lane ON @pending (destination, lane, seq);
-- Deletions behind a message: such a message is not replayed. There are few.
CREATE INDEX pending_deletions ON @pending (destination, lane, seq) WHERE is_deletion;

-- The messages that are done.
CREATE TABLE @outcomes (
    seq              bigint PRIMARY KEY,
    done_at          bigint NOT NULL,
    is_failed        boolean NOT NULL,            -- one of its deliveries failed
    unmatched        text,                        -- why no subscription took it, in a word
    unmatched_detail text
) PARTITION BY RANGE (seq);

CREATE INDEX outcomes_done ON @outcomes (done_at);
CREATE INDEX outcomes_failed ON @outcomes (seq) WHERE is_failed;
CREATE INDEX outcomes_unmatched ON @outcomes (seq) WHERE unmatched IS NOT NULL;

-- The fate of one message under one subscription. Several may name one request.
CREATE TABLE @deliveries (
    seq           bigint NOT NULL,
    replay        integer NOT NULL,               -- the replay that made it; 0: none did
    position      integer NOT NULL,
    is_superseded boolean NOT NULL DEFAULT false, -- a later replay made it anew: it no longer counts
    request_id    bigint,
    part_id       bigint,                         -- its part of a merged request
    ended_at      bigint,
    state         text NOT NULL,                  -- pending, delivered, failed
    subscription  text NOT NULL,
    action        text NOT NULL,
    reason        text,
    detail        text,
    warnings      text,                           -- JSON array; NULL when there are none
    PRIMARY KEY (seq, replay, position)
) PARTITION BY RANGE (seq);

CREATE INDEX deliveries_subscription ON @deliveries (subscription, seq);
CREATE INDEX deliveries_failed ON @deliveries (seq) WHERE state = 'failed' AND NOT is_superseded;
CREATE INDEX deliveries_reason ON @deliveries (reason, seq) WHERE state = 'failed' AND NOT is_superseded;

-- One HTTP call to Loops, made of one delivery or of several merged ones. The parts of a merged request are
-- kept beside it in the state `part`, one for each delivery: if it is refused, its own state becomes
-- `taken_apart` and they become pending.
CREATE TABLE @requests (
    id               bigint PRIMARY KEY,
    seqs             bigint[] NOT NULL,           -- the messages whose deliveries it was made to carry
    parts            bigint[],                    -- of a merged request
    merged_into      bigint,                      -- of a part
    attempts         integer NOT NULL DEFAULT 0,
    is_merged        boolean NOT NULL,
    created_at       bigint NOT NULL,
    first_attempt_at bigint,
    next_attempt_at  bigint,
    expires_at       bigint,
    state            text NOT NULL,               -- pending, delivered, failed, part, taken_apart
    destination      text NOT NULL,
    path             text NOT NULL,
    idempotency_key  text,
    body             bytea                        -- NULL once the request has ended: nothing sends it again
) PARTITION BY RANGE (id);

-- Gives the part of a request's number that tells those of one second apart.
CREATE SEQUENCE @request_numbers;

CREATE TABLE @attempts (
    request_id  bigint NOT NULL,
    number      integer NOT NULL,
    started_at  bigint NOT NULL,
    duration_ms bigint NOT NULL,
    status      smallint,
    outcome     text NOT NULL,
    excerpt     text NOT NULL,
    -- A settlement that is repeated because its first answer was lost counts once.
    PRIMARY KEY (request_id, number)
) PARTITION BY RANGE (request_id);

-- The messages that were replayed.
CREATE TABLE @replays (
    seq               bigint PRIMARY KEY,
    number            integer NOT NULL,           -- 1 for the first replay of the message
    first_seq         bigint NOT NULL,            -- its sequence number when it was accepted
    only_subscription text                        -- the one it is replayed for; NULL: all of them
);

-- The order of acceptance of messages that were replayed.
CREATE INDEX replays_first_seq ON @replays (first_seq);

-- Deletions that were delivered. What was accepted up to such a deletion is not replayed.
CREATE TABLE @deletions (
    seq         bigint PRIMARY KEY,
    lane        bigint NOT NULL,
    destination text NOT NULL,
    accepted    bigint NOT NULL                   -- the message's sequence number when it was accepted
);

CREATE INDEX deletions_lane ON @deletions (lane, destination, accepted);

-- Those among them whose person's contents are still to be erased, and how far that has come.
CREATE TABLE @erasures (
    seq            bigint PRIMARY KEY,
    lane           bigint NOT NULL,
    destination    text NOT NULL,
    erased_through bigint NOT NULL DEFAULT 0
);

CREATE INDEX erasures_lane ON @erasures (lane, destination, seq);

-- The days of messages that were erased since their partitions were vacuumed. Each erasure adds rows, and each vacuum
-- deletes those that it saw.
CREATE TABLE @erased_days (
    id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    day integer NOT NULL
);

-- The names of the events that each source sends.
CREATE TABLE @event_names (
    source        text NOT NULL,
    name          text NOT NULL,
    first_seen_at bigint NOT NULL,
    last_seen_at  bigint NOT NULL,
    PRIMARY KEY (source, name)
);

-- Counts by minute and by hour.
CREATE TABLE @tallies (
    step         integer NOT NULL,                -- length of the interval: 60000 or 3600000
    at           bigint NOT NULL,                 -- its beginning
    stage        text NOT NULL,
    destination  text NOT NULL,
    source       text NOT NULL,
    subscription text NOT NULL,                   -- empty for stages of whole messages
    reason       text NOT NULL,                   -- empty where the stage needs none
    count        bigint NOT NULL,
    PRIMARY KEY (step, at, stage, destination, source, subscription, reason)
) WITH (fillfactor = 50);

-- What Loops reported by its webhooks, and what of it is still to be handed on.
CREATE TABLE @loops_events (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at       bigint NOT NULL,
    at                bigint NOT NULL,            -- when it happened, by Loops' clock
    person            bigint,                     -- digest of the contact's userId
    email             bigint,                     -- digest of its e-mail address
    forward_at        bigint,                     -- when it is due; NULL: nothing is to be handed on
    forward_tries     integer NOT NULL DEFAULT 0,
    destination       text NOT NULL,
    webhook_id        text NOT NULL,
    event             text NOT NULL,
    contact_id        text,
    origin            text,                       -- workflow, campaign, transactional, mailing_list
    origin_id         text,
    origin_name       text,
    email_id          text,
    forward_timestamp text,
    forward_signature text,
    forward_body      bytea
);
ALTER TABLE @loops_events ALTER COLUMN forward_body SET STORAGE EXTERNAL;

CREATE UNIQUE INDEX loops_events_webhook ON @loops_events (destination, webhook_id);
CREATE INDEX loops_events_person ON @loops_events (person, at) WHERE person IS NOT NULL;
CREATE INDEX loops_events_email ON @loops_events (email, at) WHERE email IS NOT NULL;
CREATE INDEX loops_events_destination ON @loops_events (destination, received_at);
CREATE INDEX loops_events_received ON @loops_events (received_at);
-- As small as the number of those that wait.
CREATE INDEX loops_events_forward ON @loops_events (destination, forward_at) WHERE forward_at IS NOT NULL;
