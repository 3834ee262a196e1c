-- The queue: messages, their deliveries, the requests that carry the deliveries, the attempts at the requests, and the
-- leases, with indexes for the queries of people. Every time is in Unix milliseconds. Every digest is the first eight
-- bytes of an HMAC with the key of the installation.
--
-- `numbers.rs` makes the numbers of messages and requests. A number begins with the second at which it was assigned, so
-- a day is a range of numbers. The tables that grow with the history are partitioned by day, and a look-up by number
-- reads one partition. Retention drops partitions. Rows that are written at the speed of senders (messages, payloads,
-- pending, outcomes) are inserted and dropped, never updated. Rows that are written at Loops' rate may be updated.
--
-- `@` stands for the quoted name of the schema and a dot.

-- Single values. Locked while the schema or the partitions are being changed.
CREATE TABLE @meta (
    is_only          boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    version          integer NOT NULL,
    usable_from      integer NOT NULL,            -- the lowest version whose programs work on this schema
    installation_key bytea NOT NULL
);

-- The move of a queue from SQLite that created the schema. Empty if no move created it.
CREATE TABLE @moves (
    id          text PRIMARY KEY,
    began_at    bigint NOT NULL,
    part        integer NOT NULL DEFAULT 0,       -- the parts before this one are copied,
    through     bigint NOT NULL DEFAULT 0,        -- and of this one the rows up to here:
    rows        bigint NOT NULL DEFAULT 0,        -- how many rows in all
    finished_at bigint,                           -- NULL: nothing else may use the schema
    opened_at   bigint                            -- when a process first opened it then
);

-- The days that have partitions, counted from the epoch.
CREATE TABLE @days (
    day              integer PRIMARY KEY,
    has_payloads     boolean NOT NULL DEFAULT true,
    -- It has messages, outcomes and deliveries. The other partitions are dropped last, with this row.
    has_records      boolean NOT NULL DEFAULT true,
    -- How far the payloads that outlive the day's others were copied to `payloads_kept`.
    kept_through     bigint NOT NULL DEFAULT 0,
    -- How far the excerpts and details of the day's messages were removed with their payloads.
    stripped_through bigint NOT NULL DEFAULT 0,
    -- A message was received at most this long, or a minute, before or after its number was assigned.
    slack_ms         bigint NOT NULL DEFAULT 0
);

-- A destination's part in the numbers of its messages, and the last number. The row is locked from before a number is
-- assigned until the message is committed, so the numbers of a destination become visible in order. `last` never
-- decreases. The page has room for new versions of its few rows.
CREATE TABLE @streams (
    destination text PRIMARY KEY,
    no          smallint NOT NULL UNIQUE CHECK (no BETWEEN 0 AND 255),
    last        bigint NOT NULL DEFAULT 0         -- second and index in it, as `numbers.rs` counts
) WITH (fillfactor = 20);

-- The leases. A row stays when its lease ends, so that the token keeps growing. Each step of delivery locks it FOR
-- SHARE.
CREATE TABLE @leases (
    destination text PRIMARY KEY,
    holder      text NOT NULL,
    token       bigint NOT NULL,
    taken_at    bigint NOT NULL,
    expires_at  bigint NOT NULL
) WITH (fillfactor = 20);

-- The processes that run, or did not end cleanly.
CREATE TABLE @replicas (
    name         text PRIMARY KEY,                -- as the holder of leases
    host         text NOT NULL,
    version      text NOT NULL,
    started_at   bigint NOT NULL,
    last_seen_at bigint NOT NULL,
    status       text NOT NULL                    -- JSON: what it reported then
) WITH (fillfactor = 20);

-- The actions of people, for as long as records are kept.
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
    trace   bytea,                                -- in which it was accepted; NULL: it is not traced
    payload bytea NOT NULL
) PARTITION BY RANGE (seq);
ALTER TABLE @payloads ALTER COLUMN payload SET STORAGE EXTERNAL;

-- Payloads that are kept longer than the others of their day. They are copies until the day's partition is dropped.
CREATE TABLE @payloads_kept (
    seq       bigint PRIMARY KEY,
    done_at   bigint,                             -- NULL while the message is pending
    is_failed boolean,
    trace     bytea,
    payload   bytea NOT NULL
);
ALTER TABLE @payloads_kept ALTER COLUMN payload SET STORAGE EXTERNAL;

CREATE INDEX payloads_kept_done ON @payloads_kept (is_failed, done_at) WHERE done_at IS NOT NULL;

-- The messages that are not done, which engines read in order. It is as small as the backlog. A message has a row
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
-- Deletions, because a message before one of them is not replayed. There are few.
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

-- The delivery of one message under one subscription. Several deliveries may have the same request.
CREATE TABLE @deliveries (
    seq           bigint NOT NULL,
    replay        integer NOT NULL,               -- the replay that made it; 0: none did
    position      integer NOT NULL,
    is_superseded boolean NOT NULL DEFAULT false, -- a later replay made it anew: it no longer counts
    request_id    bigint,
    part_id       bigint,                         -- its part of a merged request
    ended_at      bigint,
    state         text NOT NULL,                  -- pending, delivered, shadowed, failed
    subscription  text NOT NULL,
    action        text NOT NULL,
    reason        text,
    detail        text,
    warnings      text,                           -- JSON array; NULL when there are none
    planned       bigint,                         -- digest of the request that its subscription made; NULL: none
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
    state            text NOT NULL,               -- pending, delivered, shadowed, failed, part, taken_apart
    destination      text NOT NULL,
    path             text NOT NULL,
    idempotency_key  text,
    body             bytea                        -- NULL once the request has ended: nothing sends it again
) PARTITION BY RANGE (id);

-- Provides the part of a request's number that is unique within a second.
CREATE SEQUENCE @request_numbers;

CREATE TABLE @attempts (
    request_id  bigint NOT NULL,
    number      integer NOT NULL,
    started_at  bigint NOT NULL,
    duration_ms bigint NOT NULL,
    status      smallint,
    outcome     text NOT NULL,
    excerpt     text NOT NULL,
    -- A settlement that is repeated because its first response was lost counts once.
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

-- Events that Loops refused, and that are replayed if their contact appears.
CREATE TABLE @awaiting (
    seq          bigint NOT NULL,                 -- of the message
    lane         bigint NOT NULL,
    until        bigint NOT NULL,
    is_due       boolean NOT NULL DEFAULT false,  -- the contact has appeared
    subscription text NOT NULL,
    destination  text NOT NULL,
    PRIMARY KEY (seq, subscription)
);

CREATE INDEX awaiting_lane ON @awaiting (lane, destination);
CREATE INDEX awaiting_due ON @awaiting (seq) WHERE is_due;
CREATE INDEX awaiting_until ON @awaiting (until);

-- Messages that are held: they are not planned, and their lanes wait. The row is deleted once the message is planned or
-- has ended.
CREATE TABLE @held (
    seq         bigint PRIMARY KEY,               -- of the message
    lane        bigint NOT NULL,
    contact     bigint NOT NULL,                  -- that it would create, as in `contacts`
    email       bigint,                           -- as in `contacts`
    since       bigint NOT NULL,
    is_due      boolean NOT NULL DEFAULT false,   -- Loops has the contact by now
    destination text NOT NULL,
    reason      text NOT NULL
);

CREATE INDEX held_destination ON @held (destination, seq);
CREATE INDEX held_due ON @held (destination, seq) WHERE is_due;
CREATE INDEX held_lane ON @held (lane, destination, seq);
CREATE INDEX held_contact ON @held (contact, destination);
CREATE INDEX held_email ON @held (email, destination) WHERE email IS NOT NULL;

-- The contacts that frozen requests may create, by message. Filled only while there is a cap on new contacts.
CREATE TABLE @creating (
    seq         bigint NOT NULL,                  -- of the message
    contact     bigint NOT NULL,                  -- as in `contacts`
    email       bigint,                           -- as in `contacts`
    destination text NOT NULL,
    PRIMARY KEY (seq, contact)
);

CREATE INDEX creating_contact ON @creating (destination, contact);

-- The actions of people about new contacts, by day.
CREATE TABLE @new_contact_days (
    destination text NOT NULL,
    day         bigint NOT NULL,                  -- when it began
    released    bigint NOT NULL,                  -- contacts that may be created beyond the cap
    discarded   bigint NOT NULL,                  -- messages that were held
    PRIMARY KEY (destination, day)
);

-- Deletions that were delivered. Messages that were accepted up to such a deletion are not replayed.
CREATE TABLE @deletions (
    seq         bigint PRIMARY KEY,
    lane        bigint NOT NULL,
    destination text NOT NULL,
    accepted    bigint NOT NULL                   -- the message's sequence number when it was accepted
);

CREATE INDEX deletions_lane ON @deletions (lane, destination, accepted);

-- Delivered deletions whose person's contents are not erased yet, and the progress of the erasure.
CREATE TABLE @erasures (
    seq            bigint PRIMARY KEY,
    lane           bigint NOT NULL,
    destination    text NOT NULL,
    erased_through bigint NOT NULL DEFAULT 0
);

CREATE INDEX erasures_lane ON @erasures (lane, destination, seq);

-- The days of messages that were erased since their partitions were vacuumed. Each erasure adds rows, and each vacuum
-- deletes the rows that it saw.
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

-- What is known of the contacts at Loops.
CREATE TABLE @contacts (
    contact     bigint NOT NULL,                  -- digest of its userId; of its e-mail address if it has none
    email       bigint,                           -- digest of its address, beside a userId
    claimed     bigint,                           -- digest of the address in a request for it that is on its way
    lane        bigint,                           -- of the last request that was accepted; NULL: none was
    reported_at bigint,                           -- when Loops last reported that others changed it
    known_at    bigint,                           -- since when Loops is known to have it; 0: by a request; NULL: it is not
    changed_day integer NOT NULL,                 -- of the last change of this row, in days since the epoch
    is_shared   boolean NOT NULL DEFAULT false,   -- requests of another lane or contact may have changed it; never unset
    destination text NOT NULL,
    properties  bytea NOT NULL,                   -- their digests, as the program packs them
    address     bytea,                            -- its address, encrypted; NULL unless identity is "link"
    PRIMARY KEY (contact, destination)
) WITH (fillfactor = 50);
ALTER TABLE @contacts ALTER COLUMN properties SET STORAGE EXTERNAL;

-- By address, those apart that are not shared yet: however many have an address, few of them have to be marked.
CREATE INDEX contacts_email ON @contacts (email, destination, is_shared) WHERE email IS NOT NULL;
-- As small as the number of contacts whose last request is being sent, or was not accepted.
CREATE INDEX contacts_claimed ON @contacts (claimed, destination, is_shared) WHERE claimed IS NOT NULL;
-- As small as the number of contacts whose digest is not that of their lane.
CREATE INDEX contacts_lane ON @contacts (lane, destination) WHERE lane <> contact;
CREATE INDEX contacts_changed ON @contacts (changed_day);

-- Contacts that Loops may mix up, by day.
CREATE TABLE @conflicts (
    person      bigint NOT NULL,                  -- digest of the userId with several addresses, or of the address
    count       bigint NOT NULL,
    request_id  bigint NOT NULL,                  -- that showed it last
    day         integer NOT NULL,                 -- in days since the epoch
    destination text NOT NULL,
    kind        text NOT NULL,                    -- addresses: of one userId; user_ids: with one address
    PRIMARY KEY (day, destination, kind, person)
);

CREATE INDEX conflicts_person ON @conflicts (person, destination);
-- The conflicts that are shown: a single change of an address mixes nobody up.
CREATE INDEX conflicts_shown ON @conflicts (day) WHERE kind = 'user_ids' OR count > 2;

-- Receipts of erasures, which outlive the erased data.
CREATE TABLE @receipts (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_hash bigint NOT NULL,                 -- of the deletion
    person       bigint NOT NULL,                 -- digest of the id or address that the deletion names
    asked_at     bigint NOT NULL,
    request_id   bigint,
    deleted_at   bigint,                          -- when Loops deleted the contact
    confirmed_at bigint,                          -- when it was deleted, as Loops reported
    erased_at    bigint,                          -- when the erasure ended
    messages     bigint NOT NULL DEFAULT 0,       -- what was erased, by kind
    feedback     bigint NOT NULL DEFAULT 0,
    contacts     bigint NOT NULL DEFAULT 0,
    opt_outs     bigint NOT NULL DEFAULT 0,
    status       smallint,                        -- of Loops' last answer
    receipt      text NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    destination  text NOT NULL,
    source       text NOT NULL,                   -- of the deletion
    problem      text,                            -- why Loops has not deleted the contact, in a word
    UNIQUE (message_hash, source, destination)
);

CREATE UNIQUE INDEX receipts_receipt ON @receipts (receipt);
CREATE INDEX receipts_person ON @receipts (person, destination);
CREATE INDEX receipts_open ON @receipts (destination) WHERE erased_at IS NULL;
CREATE INDEX receipts_asked ON @receipts (asked_at);

-- The contacts that left, as Loops reported it. Kept until the person is erased.
CREATE TABLE @opt_outs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person      bigint,                           -- digest of the contact's userId
    email       bigint,                           -- digest of its e-mail address
    at          bigint NOT NULL,                  -- when, by Loops' clock
    is_lifted   boolean NOT NULL DEFAULT false,   -- it came back
    destination text NOT NULL,
    list        text NOT NULL,                    -- id of the mailing list that it left; empty: all mails
    event       text NOT NULL                     -- by which Loops reported it
);

CREATE INDEX opt_outs_person ON @opt_outs (person, destination) WHERE person IS NOT NULL;
CREATE INDEX opt_outs_email ON @opt_outs (email, destination) WHERE email IS NOT NULL;

-- The contact properties, mailing lists and event names of the teams at Loops, as they were last read.
CREATE TABLE @catalogues (
    destination text PRIMARY KEY,
    account     bigint NOT NULL,                  -- differs between teams at Loops
    kept_at     bigint NOT NULL,
    record      text NOT NULL                     -- JSON
);

-- The events that Loops reported by its webhooks, and the webhooks that wait to be handed on.
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
-- As small as the number of webhooks that wait.
CREATE INDEX loops_events_forward ON @loops_events (destination, forward_at) WHERE forward_at IS NOT NULL;

-- Accepts messages, whose columns are arrays, and returns the indices of the duplicates among them. Returns NULL, and
-- does nothing, if a stream of the destinations is missing, or locked by another transaction.
--
-- One call replaces many statements, each of which would be planned again: the server keeps the plans of a function for
-- the connection, even behind a pooler. The plans are generic for all days, and made while the tables may still be
-- empty. The name ends with a version: a function that a release calls is never changed, but replaced by one with
-- another name.
CREATE FUNCTION @accept_1(
    now_ms        bigint,                         -- NULL: the clock of the database
    window_ms     bigint,                         -- how long a message id is remembered
    since         bigint,                         -- no message with a number before this one matters
    destinations  text[],                         -- of the messages, each once
    message_hash  bigint[],
    lane          bigint[],
    anonymous     bigint[],
    email         bigint[],
    received_at   bigint[],
    payload_bytes integer[],
    class         smallint[],
    kind          text[],
    source        text[],
    destination   text[],
    message_id    text[],
    event         text[],
    warnings      text[],
    trace         bytea[],
    payload       bytea[]
) RETURNS integer[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    second     bigint;
    duplicates integer[];
    seqs       bigint[];                          -- NULL for a duplicate
BEGIN
    -- In the order of the streams, so that no two transactions wait for each other. Those who have to wait had better
    -- do so in a statement of their own, and let more messages gather.
    IF (SELECT COUNT(*) FROM (SELECT FROM @streams s WHERE s.destination = ANY(destinations)
                              ORDER BY no FOR UPDATE SKIP LOCKED) s) < cardinality(destinations) THEN
        RETURN NULL;
    END IF;
    -- Each statement sees what was committed before it began, so this one sees all that was committed under the lock.
    -- One digest after another: if a list of them is compared with a partition that is new, the planner assumes so
    -- many rows that it would read all of them by number.
    duplicates := ARRAY(
        SELECT DISTINCT u.number::integer
        FROM unnest(message_hash, source, message_id, received_at) WITH ORDINALITY
                 u (hash, source, message_id, received_at, number)
             CROSS JOIN LATERAL (
                 SELECT m.source, m.message_id, m.received_at FROM @messages m
                 WHERE m.message_hash = u.hash AND m.seq >= since OFFSET 0) m
        WHERE m.source = u.source AND m.message_id = u.message_id AND m.received_at >= u.received_at - window_ms);
    IF cardinality(duplicates) = cardinality(message_hash) THEN
        RETURN duplicates;
    END IF;
    now_ms := COALESCE(now_ms, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint);
    second := GREATEST(floor(now_ms / 1000.0)::bigint - 1577836800, 0);
    -- As `numbers.rs` gives numbers.
    seqs := ARRAY(
        SELECT CASE WHEN is_new THEN ((last >> 15) << 23) | (no::bigint << 15) | (last & 32767) END
        FROM (SELECT number, no, is_new, GREATEST(last + 1, second << 15) - 1
                         + COUNT(*) FILTER (WHERE is_new) OVER (PARTITION BY no ORDER BY number) AS last
              FROM (SELECT u.number, s.no, s.last, u.number <> ALL(duplicates) AS is_new
                    FROM unnest(destination) WITH ORDINALITY u (destination, number)
                         JOIN @streams s ON s.destination = u.destination) u) u
        ORDER BY number);
    INSERT INTO @messages (seq, message_hash, lane, anonymous, email, received_at, payload_bytes, class, kind,
                           source, destination, message_id, event, warnings)
    SELECT * FROM unnest(seqs, message_hash, lane, anonymous, email, received_at, payload_bytes, class, kind,
                         source, destination, message_id, event, warnings) u (seq)
    WHERE u.seq IS NOT NULL;
    INSERT INTO @payloads (seq, trace, payload)
    SELECT * FROM unnest(seqs, trace, payload) u (seq) WHERE u.seq IS NOT NULL;
    INSERT INTO @pending (seq, lane, received_at, payload_bytes, class, source, destination, is_deletion)
    SELECT u.seq, u.lane, u.received_at, u.payload_bytes, u.class, u.source, u.destination, u.kind = 'delete'
    FROM unnest(seqs, lane, received_at, payload_bytes, class, source, destination, kind)
             u (seq, lane, received_at, payload_bytes, class, source, destination, kind)
    WHERE u.seq IS NOT NULL;
    UPDATE @streams s SET last = GREATEST(s.last + 1, second << 15) - 1 + u.count
    FROM (SELECT u.destination, COUNT(*) FROM unnest(seqs, destination) u (seq, destination)
          WHERE u.seq IS NOT NULL GROUP BY u.destination) u
    WHERE s.destination = u.destination;
    -- The times of messages are near those of their numbers, as long as the clocks are right.
    IF EXISTS (SELECT FROM unnest(seqs, received_at) u (seq, received_at)
               WHERE abs(u.received_at - ((u.seq >> 23) + 1577836800) * 1000) > 60000) THEN
        UPDATE @days d SET slack_ms = u.slack_ms
        FROM (SELECT ((u.seq >> 23) + 1577836800) / 86400 AS day,
                     MAX(abs(u.received_at - ((u.seq >> 23) + 1577836800) * 1000)) AS slack_ms
              FROM unnest(seqs, received_at) u (seq, received_at) WHERE u.seq IS NOT NULL GROUP BY 1) u
        WHERE d.day = u.day AND d.slack_ms < u.slack_ms AND u.slack_ms > 60000;
    END IF;
    -- In an order that is the same for all transactions, so that none waits for one that waits for it.
    INSERT INTO @tallies AS t (step, at, stage, destination, source, subscription, reason, count)
    SELECT step, received_at - ((received_at % step) + step) % step AS at, 'received', destination, source, '', '',
           COUNT(*)
    FROM unnest(seqs, received_at, destination, source) u (seq, received_at, destination, source)
         CROSS JOIN unnest(ARRAY[60000, 3600000]) step
    WHERE u.seq IS NOT NULL GROUP BY step, at, destination, source
    ORDER BY step, at, destination COLLATE "C", source COLLATE "C"
    ON CONFLICT (step, at, stage, destination, source, subscription, reason)
    DO UPDATE SET count = t.count + excluded.count;
    RETURN duplicates;
END $$;
