//! The SQL that every engine runs. Parameters are `$1`, `$2`…, which SQLite takes as well.
//!
//! `state = 0` and `state = 1` are literals, never parameters: a planner uses a partial index only for
//! literals.

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

/// $1 destination.
pub(super) const DEPTH_COUNT: &str =
    "SELECT COUNT(*) FROM messages WHERE destination = $1 AND state = 0";

/// $1 destination, $2 class. The oldest of a class is the first in order.
pub(super) const DEPTH_OLDEST: &str = "
    SELECT received_at FROM messages WHERE destination = $1 AND state = 0 AND class = $2
    ORDER BY seq LIMIT 1";

/// From one name in the index to the next, not through all that is pending.
pub(super) const PENDING_DESTINATIONS: &str = "
    WITH RECURSIVE found (destination) AS (
        SELECT MIN(destination) FROM messages WHERE state = 0
        UNION ALL
        SELECT (SELECT MIN(destination) FROM messages WHERE state = 0 AND destination > found.destination)
        FROM found WHERE found.destination IS NOT NULL)
    SELECT destination FROM found WHERE destination IS NOT NULL";

/// $1 seq.
pub(super) const OPEN_MESSAGE: &str = "
    SELECT m.source, m.message_id, m.received_at, m.payload, m.is_planned,
           COALESCE(p.number, 0) AS replay, p.only_subscription,
           EXISTS (SELECT 1 FROM deletions e
                   WHERE e.person = m.person AND e.destination = m.destination
                     AND e.accepted >= p.first_seq) AS is_before_deletion
    FROM messages m LEFT JOIN replays p ON p.seq = m.seq
    WHERE m.seq = $1 AND m.state = 0";

/// $1 seq. The subscriptions under which a replayed message has a delivery that stands.
pub(super) const OPEN_SETTLED: &str =
    "SELECT DISTINCT subscription FROM deliveries WHERE seq = $1 AND is_superseded = 0";

/// $1 seq. Its pending requests in the order of the deliveries, each once.
pub(super) const OPEN_REQUESTS: &str = "
    SELECT r.id, r.path, r.body, r.idempotency_key, r.attempts, r.first_attempt_at,
           r.next_attempt_at, r.is_merged, r.expires_at
    FROM deliveries d JOIN requests r ON r.id = d.request_id
    WHERE d.seq = $1 AND r.state = 'pending'
    GROUP BY r.id ORDER BY MIN(d.replay), MIN(d.position)";

/// $1 seq.
pub(super) const LOG_DELIVERIES: &str = "
    SELECT d.subscription, d.action, d.replay, d.is_superseded <> 0 AS is_superseded, d.state, d.reason, d.detail, d.warnings, d.request_id,
           r.path, r.idempotency_key, r.next_attempt_at
    FROM deliveries d LEFT JOIN requests r ON r.id = d.request_id
    WHERE d.seq = $1 ORDER BY d.replay, d.position";

/// $1 request id.
pub(super) const LOG_ATTEMPTS: &str = "
    SELECT number, started_at, duration_ms, status, outcome, excerpt FROM attempts
    WHERE request_id = $1 ORDER BY number";

/// The newest migration that was applied.
pub(super) const SCHEMA_VERSION: &str = "SELECT MAX(version) FROM _sqlx_migrations WHERE success";

/// $1 destination, $2 holder, $3 now, $4 expiry, $5 an expiry that nobody can have asked for by this
/// clock: it was set back since. No row while another holds it.
pub(super) const LEASE: &str = "
    INSERT INTO leases (destination, holder, token, expires_at) VALUES ($1, $2, 1, $4)
    ON CONFLICT (destination) DO UPDATE SET
        token = CASE WHEN leases.holder = excluded.holder THEN leases.token ELSE leases.token + 1 END,
        holder = excluded.holder,
        expires_at = excluded.expires_at
    WHERE leases.holder = excluded.holder OR leases.expires_at <= $3 OR leases.expires_at >= $5
    RETURNING token";

/// $1 destination, $2 holder, $3 token. Nobody is called the empty name.
pub(super) const RELEASE: &str = "
    UPDATE leases SET holder = '', expires_at = 0
    WHERE destination = $1 AND holder = $2 AND token = $3";

/// $1 destination.
pub(super) const LEASE_HOLDER: &str =
    "SELECT holder, expires_at FROM leases WHERE destination = $1 AND holder <> ''";

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
/// $8 reason, $9 detail, $10 warnings, $11 its part of a merged request. It is of the latest replay of
/// its message.
pub(super) const INSERT_DELIVERY: &str = "
    INSERT INTO deliveries (seq, position, request_id, state, ended_at, subscription, action,
                            reason, detail, warnings, part_id, replay)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
            COALESCE((SELECT number FROM replays WHERE seq = $1), 0))";

/// $1 merged request. Each of its deliveries goes by its own request.
pub(super) const TAKE_APART_DELIVERIES: &str = "
    UPDATE deliveries SET request_id = part_id, part_id = NULL
    WHERE request_id = $1 AND state = 'pending' AND part_id IS NOT NULL";

/// $1 merged request. What was sent with it counts as tried since then.
pub(super) const TAKE_APART_REQUESTS: &str = "
    UPDATE requests SET state = 'pending',
        first_attempt_at = (SELECT m.first_attempt_at FROM requests m WHERE m.id = $1)
    WHERE merged_into = $1 AND state = 'part'";

/// $1 merged request: what it held is in its parts now.
pub(super) const DROP_MERGED_BODY: &str = "UPDATE requests SET body = NULL WHERE id = $1";

/// $1 merged request, which has ended as one.
pub(super) const FORGET_PARTS: &str = "
    UPDATE deliveries SET part_id = NULL WHERE request_id = $1 AND part_id IS NOT NULL";

/// $1 merged request, which has ended as one.
pub(super) const DELETE_PARTS: &str =
    "DELETE FROM requests WHERE merged_into = $1 AND state = 'part'";

/// $1 seq, $2 unmatched, $3 state, $4 done at, $5 is failed, $6 detail of unmatched. A delivery of an earlier replay that
/// failed and still stands counts too.
pub(super) const PLANNED: &str = "
    UPDATE messages SET is_planned = 1, unmatched = $2, unmatched_detail = $6, state = $3, done_at = $4,
        is_failed = CASE WHEN $3 = 1 AND EXISTS (
            SELECT 1 FROM deliveries d
            WHERE d.seq = messages.seq AND d.state = 'failed' AND d.is_superseded = 0
        ) THEN 1 ELSE $5 END
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
        SELECT 1 FROM deliveries d
        WHERE d.seq = messages.seq AND d.state = 'failed' AND d.is_superseded = 0
    ) THEN 1 ELSE 0 END
    WHERE seq IN (SELECT seq FROM deliveries WHERE request_id = $1) AND state = 0 AND is_planned = 1
      AND NOT EXISTS (
        SELECT 1 FROM deliveries d WHERE d.seq = messages.seq AND d.state = 'pending')";

/// $1 seq, $2 destination.
pub(super) const PENDING_ID: &str =
    "SELECT message_id FROM messages WHERE seq = $1 AND destination = $2 AND state = 0";

/// $1 seq. Its parts of merged requests, which go on with the others.
pub(super) const SET_ASIDE_PARTS: &str = "
    DELETE FROM requests
    WHERE state = 'part' AND id IN (SELECT part_id FROM deliveries WHERE seq = $1)";

/// $1 seq, $2 ended at, $3 reason, $4 detail.
pub(super) const SET_ASIDE_DELIVERIES: &str = "
    UPDATE deliveries SET state = 'failed', ended_at = $2, reason = $3, detail = $4, part_id = NULL
    WHERE seq = $1 AND state = 'pending'";

/// $1 seq. Its requests that carry nothing else.
pub(super) const SET_ASIDE_REQUESTS: &str = "
    UPDATE requests SET state = 'failed', next_attempt_at = NULL
    WHERE id IN (SELECT request_id FROM deliveries WHERE seq = $1) AND state = 'pending'
      AND NOT EXISTS (
        SELECT 1 FROM deliveries d WHERE d.request_id = requests.id AND d.state = 'pending')";

/// $1 seq. The first position that no delivery of the message has.
pub(super) const FREE_POSITION: &str =
    "SELECT COALESCE(MAX(position) + 1, 0) FROM deliveries WHERE seq = $1";

/// $1 seq, $2 done at.
pub(super) const SET_ASIDE_MESSAGE: &str = "
    UPDATE messages SET state = 1, is_planned = 1, is_failed = 1, done_at = $2
    WHERE seq = $1 AND state = 0";

/// $1 is failed, $2 done before or at, $3 limit.
pub(super) const PAST_PAYLOADS: &str = "
    SELECT seq FROM messages
    WHERE state = 1 AND payload IS NOT NULL AND is_failed = $1 AND done_at <= $2
    ORDER BY done_at LIMIT $3";

/// $1 seq. A request whose other messages are still pending is pending itself, and stays.
pub(super) const DROP_BODIES: &str = "
    UPDATE requests SET body = NULL
    WHERE id IN (SELECT request_id FROM deliveries WHERE seq = $1) AND state <> 'pending' AND body IS NOT NULL";

/// $1 seq. An answer of Loops may repeat what the request held, and so may the detail made of it. The
/// answer to a merged request that was taken apart belongs to each of its parts.
pub(super) const DROP_EXCERPTS: &str = "
    UPDATE attempts SET excerpt = ''
    WHERE request_id IN (
        SELECT r.id FROM deliveries d JOIN requests r ON r.id = d.request_id
        WHERE d.seq = $1 AND r.state <> 'pending'
        UNION
        SELECT r.merged_into FROM deliveries d JOIN requests r ON r.id = d.request_id
        WHERE d.seq = $1 AND r.merged_into IS NOT NULL)";

/// $1 seq.
pub(super) const DROP_DETAILS: &str =
    "UPDATE deliveries SET detail = NULL WHERE seq = $1 AND detail IS NOT NULL";

/// $1 seq. Warnings name fields, and names of fields are the sender's.
pub(super) const DROP_WARNINGS: &str =
    "UPDATE deliveries SET warnings = NULL WHERE seq = $1 AND warnings IS NOT NULL";

/// $1 seq. As above.
pub(super) const DROP_MESSAGE_WARNINGS: &str =
    "UPDATE messages SET warnings = NULL WHERE seq = $1 AND warnings IS NOT NULL";

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

/// $1 seq.
pub(super) const DELETE_REPLAY: &str = "DELETE FROM replays WHERE seq = $1";

/// The last place that was given.
pub(super) const LAST_SEQ: &str = "SELECT MAX(seq) FROM messages";

/// Whether the message `m` may be replayed: it has contents, no deletion of its person that was accepted
/// with it or after it was delivered, and none behind it is pending, or is yet to erase its contents.
/// Loops would learn of that person again.
macro_rules! is_replayable {
    () => {
        "(m.payload IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM deletions e
            WHERE e.person = m.person AND e.destination = m.destination
              AND e.accepted >= COALESCE((SELECT first_seq FROM replays f WHERE f.seq = m.seq), m.seq)
         ) AND NOT EXISTS (
            SELECT 1 FROM messages e
            WHERE e.kind = 'delete' AND e.person = m.person AND e.destination = m.destination
              AND e.seq >= m.seq
              AND (e.seq > m.seq AND e.state = 0 OR EXISTS (SELECT 1 FROM erasures x WHERE x.seq = e.seq))))"
    };
}

/// Messages that are done, by their place in the order of acceptance: those that were never replayed
/// stand in it, those that were have kept it. Conditions on `m` are added to both,
/// and to each those on its place.
pub(super) const REPLAY_BRANCHES: [(&str, &str); 2] = [
    (
        concat!(
            "SELECT m.seq, m.seq AS accepted, ",
            is_replayable!(),
            " AS is_replayable FROM messages m
     WHERE m.state = 1 AND NOT EXISTS (SELECT 1 FROM replays p WHERE p.seq = m.seq)"
        ),
        "m.seq",
    ),
    (
        concat!(
            " UNION ALL
     SELECT m.seq, p.first_seq AS accepted, ",
            is_replayable!(),
            " AS is_replayable
     FROM replays p JOIN messages m ON m.seq = p.seq WHERE m.state = 1"
        ),
        "p.first_seq",
    ),
];

pub(super) const REPLAY_UNMATCHED: &str = " AND m.is_failed = 0 AND NOT EXISTS (
    SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.is_superseded = 0)";

pub(super) const REPLAY_DELIVERED: &str = " AND m.is_failed = 0 AND EXISTS (
    SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.is_superseded = 0)";

/// $1 seq, $2 class. The message once more at the end of the order, pending; answers its new place.
pub(super) const REPLAY_MESSAGE: &str = concat!(
    "INSERT INTO messages (class, lane, person, message_hash, received_at, kind, source, destination,
                          message_id, payload, warnings)
    SELECT $2, m.lane, m.person, m.message_hash, m.received_at, m.kind, m.source, m.destination,
           m.message_id, m.payload, m.warnings
    FROM messages m WHERE m.seq = $1 AND m.state = 1 AND ",
    is_replayable!(),
    " RETURNING seq"
);

/// $1 old place, $2 new place, $3 the only subscription.
pub(super) const REPLAY_NUMBER: &str = "
    INSERT INTO replays (seq, number, first_seq, only_subscription) VALUES ($2,
        COALESCE((SELECT number FROM replays WHERE seq = $1), 0) + 1,
        COALESCE((SELECT first_seq FROM replays WHERE seq = $1), $1), $3)";

/// $1 seq, $2 whether only what failed, $3 the only subscription.
pub(super) const SUPERSEDE: &str = "
    UPDATE deliveries SET is_superseded = 1
    WHERE seq = $1 AND is_superseded = 0 AND ($2 = 0 OR state = 'failed')
      AND ($3 IS NULL OR subscription = $3)";

/// $1 old place, $2 new place.
pub(super) const MOVE_DELIVERIES: &str = "UPDATE deliveries SET seq = $2 WHERE seq = $1";

/// $1 request id, $2 the deleting action. The deletions of this request, which was delivered.
pub(super) const SETTLE_DELETIONS: &str = "
    INSERT INTO deletions (seq, person, destination, accepted)
    SELECT DISTINCT m.seq, m.person, m.destination, COALESCE(p.first_seq, m.seq)
    FROM deliveries d JOIN messages m ON m.seq = d.seq LEFT JOIN replays p ON p.seq = m.seq
    WHERE d.request_id = $1 AND d.action = $2 AND d.state = 'delivered'
    ON CONFLICT (seq) DO NOTHING";

/// $1 request id, $2 the deleting action. Deletions of this request that are over and were delivered.
pub(super) const SETTLE_ERASURES: &str = "
    INSERT INTO erasures (seq)
    SELECT DISTINCT d.seq FROM deliveries d JOIN messages m ON m.seq = d.seq
    WHERE d.request_id = $1 AND m.kind = 'delete' AND m.state = 1 AND EXISTS (
        SELECT 1 FROM deliveries e WHERE e.seq = m.seq AND e.action = $2 AND e.state = 'delivered')
    ON CONFLICT (seq) DO NOTHING";

/// $1 seq of the deletion, $2 the last place that was gone through.
pub(super) const ERASED_THROUGH: &str = "UPDATE erasures SET erased_through = $2 WHERE seq = $1";

/// $1 seq.
pub(super) const DELETE_ERASURE: &str = "DELETE FROM erasures WHERE seq = $1";

/// $1 seq.
pub(super) const DELETE_DELETION: &str = "DELETE FROM deletions WHERE seq = $1";

/// How many messages are pending, of all destinations.
pub(super) const BACKLOG: &str = "SELECT COUNT(*) FROM messages WHERE state = 0";
