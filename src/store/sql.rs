//! The SQL that every engine runs. Parameters are `$1`, `$2`…, which SQLite takes as well.
//!
//! `state = 0` and `state = 1` stand in the text, never as parameters: only then does a planner
//! see that a partial index fits.

/// $1 destination, $2 class, $3 after, $4 limit.
///
/// A message's next attempt is the earliest of its requests that were tried: requests of one
/// message share a lane, so that one holds back those behind it.
pub(super) const PENDING: &str = "
    SELECT m.seq, m.lane, m.person, m.class,
           CASE WHEN m.is_planned = 1 THEN (
               SELECT MIN(r.next_attempt_at) FROM deliveries d JOIN requests r ON r.id = d.request_id
               WHERE d.seq = m.seq AND r.state = 'pending'
           ) END AS next_attempt_at
    FROM messages m
    WHERE m.destination = $1 AND m.state = 0 AND m.class = $2 AND m.seq > $3
    ORDER BY m.seq LIMIT $4";

/// $1 destination, $2 person, $3 lane, $4 before. By the index of persons: a lane's messages are all of
/// one.
pub(super) const BEFORE: &str = "
    SELECT m.seq, m.lane, m.person, m.class,
           CASE WHEN m.is_planned = 1 THEN (
               SELECT MIN(r.next_attempt_at) FROM deliveries d JOIN requests r ON r.id = d.request_id
               WHERE d.seq = m.seq AND r.state = 'pending'
           ) END AS next_attempt_at
    FROM messages m
    WHERE m.person = $2 AND m.seq < $4 AND m.lane = $3 AND m.destination = $1 AND m.state = 0
    ORDER BY m.seq";

/// $1 destination.
pub(super) const DEPTH_COUNT: &str =
    "SELECT COUNT(*) FROM messages WHERE destination = $1 AND state = 0";

/// $1 destination, $2 class. The oldest of a class is the first in order.
pub(super) const DEPTH_OLDEST: &str = "
    SELECT received_at FROM messages WHERE destination = $1 AND state = 0 AND class = $2
    ORDER BY seq LIMIT 1";

/// $1 seq.
pub(super) const OPEN_MESSAGE: &str = "
    SELECT source, message_id, received_at, payload, is_planned FROM messages
    WHERE seq = $1 AND state = 0";

/// $1 seq. Its pending requests in the order of the deliveries, each once.
pub(super) const OPEN_REQUESTS: &str = "
    SELECT r.id, r.method, r.path, r.body, r.idempotency_key, r.attempts, r.first_attempt_at,
           r.next_attempt_at, r.is_merged, r.expires_at
    FROM deliveries d JOIN requests r ON r.id = d.request_id
    WHERE d.seq = $1 AND r.state = 'pending'
    GROUP BY r.id ORDER BY MIN(d.position)";

/// $1 message_hash, $2 message_id, $3 limit.
pub(super) const BY_MESSAGE_ID: &str = "
    SELECT seq, source, destination, message_id, kind, received_at, state, unmatched
    FROM messages WHERE message_hash = $1 AND message_id = $2 ORDER BY seq DESC LIMIT $3";

/// $1 person, $2 before, $3 limit.
pub(super) const BY_PERSON: &str = "
    SELECT seq, source, destination, message_id, kind, received_at, state, unmatched
    FROM messages WHERE person = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3";

/// $1 seq.
pub(super) const LOG_DELIVERIES: &str = "
    SELECT d.subscription, d.action, d.state, d.reason, d.detail, d.warnings, d.request_id,
           r.method, r.path, r.idempotency_key, r.next_attempt_at
    FROM deliveries d LEFT JOIN requests r ON r.id = d.request_id
    WHERE d.seq = $1 ORDER BY d.position";

/// $1 request id.
pub(super) const LOG_ATTEMPTS: &str = "
    SELECT number, started_at, duration_ms, status, outcome, excerpt FROM attempts
    WHERE request_id = $1 ORDER BY number";

/// The newest migration that was applied.
pub(super) const SCHEMA_VERSION: &str = "SELECT MAX(version) FROM _sqlx_migrations WHERE success";

/// $1 destination, $2 holder, $3 now, $4 expiry. No row while another holds it.
pub(super) const LEASE: &str = "
    INSERT INTO leases (destination, holder, token, expires_at) VALUES ($1, $2, 1, $4)
    ON CONFLICT (destination) DO UPDATE SET
        token = CASE WHEN leases.holder = excluded.holder AND leases.expires_at > $3
                     THEN leases.token ELSE leases.token + 1 END,
        holder = excluded.holder,
        expires_at = excluded.expires_at
    WHERE leases.holder = excluded.holder OR leases.expires_at <= $3
    RETURNING token";

/// $1 destination, $2 holder, $3 token. Nobody is called the empty name.
pub(super) const RELEASE: &str = "
    UPDATE leases SET holder = '', expires_at = 0
    WHERE destination = $1 AND holder = $2 AND token = $3";

/// $1 destination, $2 holder, $3 token.
pub(super) const LEASE_IN_FORCE: &str =
    "SELECT token FROM leases WHERE destination = $1 AND holder = $2 AND token = $3";

/// $1 seq, $2 destination.
pub(super) const PLAN_STATE: &str =
    "SELECT state, is_planned, lane FROM messages WHERE seq = $1 AND destination = $2";

/// $1 destination, $2 lane, $3 method, $4 path, $5 body, $6 idempotency key, $7 now, $8 state,
/// $9 is merged, $10 merged into, $11 expires at.
///
/// The state `part` is that of a request which waits in case the merged one is refused.
pub(super) const INSERT_REQUEST: &str = "
    INSERT INTO requests (state, destination, lane, method, path, body, idempotency_key, created_at,
                          is_merged, merged_into, expires_at)
    VALUES ($8, $1, $2, $3, $4, $5, $6, $7, $9, $10, $11) RETURNING id";

/// $1 seq, $2 position, $3 request id, $4 state, $5 ended at, $6 subscription, $7 action,
/// $8 reason, $9 detail, $10 warnings, $11 its part of a merged request.
pub(super) const INSERT_DELIVERY: &str = "
    INSERT INTO deliveries (seq, position, request_id, state, ended_at, subscription, action,
                            reason, detail, warnings, part_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

/// $1 merged request. Each of its deliveries goes by its own request.
pub(super) const TAKE_APART_DELIVERIES: &str = "
    UPDATE deliveries SET request_id = part_id, part_id = NULL
    WHERE request_id = $1 AND state = 'pending' AND part_id IS NOT NULL";

/// $1 merged request.
pub(super) const TAKE_APART_REQUESTS: &str =
    "UPDATE requests SET state = 'pending' WHERE merged_into = $1 AND state = 'part'";

/// $1 merged request: what it held is in its parts now.
pub(super) const DROP_MERGED_BODY: &str = "UPDATE requests SET body = NULL WHERE id = $1";

/// $1 merged request, which has ended as one.
pub(super) const FORGET_PARTS: &str = "
    UPDATE deliveries SET part_id = NULL WHERE request_id = $1 AND part_id IS NOT NULL";

/// $1 merged request, which has ended as one.
pub(super) const DELETE_PARTS: &str =
    "DELETE FROM requests WHERE merged_into = $1 AND state = 'part'";

/// $1 seq, $2 unmatched, $3 state, $4 done at, $5 is failed.
pub(super) const PLANNED: &str = "
    UPDATE messages SET is_planned = 1, unmatched = $2, state = $3, done_at = $4, is_failed = $5
    WHERE seq = $1 AND state = 0 AND is_planned = 0";

/// $1 request id, $2 destination.
pub(super) const REQUEST_STATE: &str =
    "SELECT state FROM requests WHERE id = $1 AND destination = $2";

/// $1 request id, $2 number.
pub(super) const ATTEMPT_KNOWN: &str =
    "SELECT id FROM attempts WHERE request_id = $1 AND number = $2";

/// $1 request id, $2 number, $3 started at, $4 duration, $5 status, $6 outcome, $7 excerpt.
pub(super) const INSERT_ATTEMPT: &str = "
    INSERT INTO attempts (request_id, number, started_at, duration_ms, status, outcome, excerpt)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (request_id, number) DO NOTHING";

/// $1 request id, $2 state, $3 how many attempts more, $4 started at, $5 next attempt at.
pub(super) const SETTLE_REQUEST: &str = "
    UPDATE requests SET state = $2, attempts = attempts + $3,
        first_attempt_at = COALESCE(first_attempt_at, $4), next_attempt_at = $5
    WHERE id = $1 AND state = 'pending'";

/// $1 request id, $2 state, $3 ended at, $4 reason, $5 detail.
pub(super) const SETTLE_DELIVERIES: &str = "
    UPDATE deliveries SET state = $2, ended_at = $3, reason = $4, detail = $5
    WHERE request_id = $1 AND state = 'pending'";

/// $1 request id, $2 done at. Every message of the request that has no pending delivery left.
pub(super) const SETTLE_MESSAGES: &str = "
    UPDATE messages SET state = 1, done_at = $2, is_failed = CASE WHEN EXISTS (
        SELECT 1 FROM deliveries d WHERE d.seq = messages.seq AND d.state = 'failed'
    ) THEN 1 ELSE 0 END
    WHERE seq IN (SELECT seq FROM deliveries WHERE request_id = $1) AND state = 0 AND is_planned = 1
      AND NOT EXISTS (
        SELECT 1 FROM deliveries d WHERE d.seq = messages.seq AND d.state = 'pending')";

/// $1 is failed, $2 done before or at, $3 limit.
pub(super) const PAST_PAYLOADS: &str = "
    SELECT seq FROM messages
    WHERE state = 1 AND payload IS NOT NULL AND is_failed = $1 AND done_at <= $2
    ORDER BY done_at LIMIT $3";

/// $1 seq. A request whose other messages are still pending is pending itself, and stays.
pub(super) const DROP_BODIES: &str = "
    UPDATE requests SET body = NULL
    WHERE id IN (SELECT request_id FROM deliveries WHERE seq = $1) AND state <> 'pending' AND body IS NOT NULL";

/// $1 seq. An answer of Loops may repeat what the request held, and so may the detail made of it.
pub(super) const DROP_EXCERPTS: &str = "
    UPDATE attempts SET excerpt = ''
    WHERE request_id IN (
        SELECT r.id FROM deliveries d JOIN requests r ON r.id = d.request_id
        WHERE d.seq = $1 AND r.state <> 'pending')";

/// $1 seq.
pub(super) const DROP_DETAILS: &str =
    "UPDATE deliveries SET detail = NULL WHERE seq = $1 AND detail IS NOT NULL";

/// $1 seq.
pub(super) const DROP_PAYLOAD: &str =
    "UPDATE messages SET payload = NULL WHERE seq = $1 AND state = 1";

/// $1 done before or at, $2 limit.
pub(super) const PAST_RECORDS: &str = "
    SELECT seq FROM messages WHERE state = 1 AND done_at <= $1 ORDER BY done_at LIMIT $2";

/// $1 seq.
pub(super) const DELETE_DELIVERIES: &str =
    "DELETE FROM deliveries WHERE seq = $1 RETURNING request_id";

/// $1 request id.
pub(super) const DELETE_ATTEMPTS: &str = "
    DELETE FROM attempts WHERE request_id = $1
    AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.request_id = $1)";

/// $1 request id.
pub(super) const DELETE_REQUEST: &str = "
    DELETE FROM requests WHERE id = $1
    AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.request_id = $1)";

/// Requests that were taken apart and whose parts are all gone; they carry nothing.
pub(super) const PAST_MERGED: &str = "
    SELECT id FROM requests r WHERE r.state = 'taken_apart' AND r.id > 0
    AND NOT EXISTS (SELECT 1 FROM requests p WHERE p.merged_into = r.id) LIMIT $1";

/// $1 seq.
pub(super) const DELETE_MESSAGE: &str = "DELETE FROM messages WHERE seq = $1 AND state = 1";
