//! Replays messages: finds them, and makes them pending again.
//!
//! A replayed message gets the next number of its destination, as if it were accepted again, and everything that
//! belongs to it moves to that number. Its row in `outcomes` is deleted. A transaction that changes a message that is
//! done must lock that row first, so only one can do so at a time.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use super::connection::{Connection, Connections};
use super::error::Fault;
use super::numbers::{self, Stream};
use super::options::Time;
use super::params::{Array, Param, params};
use super::rows::{get, to_ms};
use super::statement::{Order, Statement, Value, of_persons};
use super::streams::{ADVANCE_STREAMS, LOCK_STREAMS};
use super::transaction::TRIES_MAX;
use super::{awaiting, list, partitions, tally};
use crate::queue::{
    Class, DeliveryState, MessageState, REVIVED, ReplayAsk, ReplayPosition, ReplayState, Selection,
    Seq, Stage,
};
use crate::segment::Digests;
use crate::store::replay::{Found, Selected};
use crate::store::tally::{Counted, Tallies};

/// While this holds the locks, no number is given, and all given numbers are visible.
const LOCK_ALL_STREAMS: &str = "SELECT no, last FROM @streams ORDER BY no FOR UPDATE";
/// $1 the minimum count.
const CLOSE_SECOND: &str = "UPDATE @streams SET last = $1 WHERE last < $1";

// Messages in the order of their numbers: $1 after this number, $2 up to this one, $3 limit, $4 and up the values to
// look for.
pub(super) const DONE: &str =
    "SELECT seq FROM @outcomes WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3";
pub(super) const FAILED: &str =
    "SELECT seq FROM @outcomes WHERE seq > $1 AND seq <= $2 AND is_failed ORDER BY seq LIMIT $3";
pub(super) const UNMATCHED: &str = "
    SELECT seq FROM @outcomes WHERE seq > $1 AND seq <= $2 AND unmatched IS NOT NULL ORDER BY seq LIMIT $3";
/// $4 digests of message ids.
pub(super) const OF_IDS: &str = "
    WITH found AS MATERIALIZED (
        SELECT seq FROM @messages WHERE message_hash = ANY($4) AND seq > $1 AND seq <= $2)
    SELECT seq FROM found ORDER BY seq LIMIT $3";

/// $1 after this number, $2 up to this one, $3 limit. Finds replayed messages by their first number.
const REPLAYED: &str = "
    SELECT seq, first_seq FROM @replays WHERE first_seq > $1 AND first_seq <= $2
    ORDER BY first_seq LIMIT $3";

/// Whether the message `m`, one of `$1`, may be replayed: it must have contents. No deletion of its person that was
/// accepted with or after it may have been delivered, and none that was accepted after it may be pending or have
/// contents left to erase: the replay would tell Loops about that person again.
macro_rules! is_replayable {
    () => {
        "(m.lane IS NOT NULL
          AND (m.seq IN (SELECT c.seq FROM @payloads c WHERE c.seq = ANY($1))
               OR m.seq IN (SELECT c.seq FROM @payloads_kept c WHERE c.seq = ANY($1)))
          AND NOT EXISTS (SELECT FROM @deletions e
              WHERE e.lane = m.lane AND e.destination = m.destination AND e.accepted >= COALESCE(p.first_seq, m.seq))
          AND NOT EXISTS (SELECT FROM @pending e
              WHERE e.is_deletion AND e.destination = m.destination AND e.lane = m.lane AND e.seq > m.seq
                AND COALESCE((SELECT f.first_seq FROM @replays f WHERE f.seq = e.seq), e.seq)
                    > COALESCE(p.first_seq, m.seq))
          AND NOT EXISTS (SELECT FROM @erasures e
              WHERE e.lane = m.lane AND e.destination = m.destination AND e.seq >= m.seq))"
    };
}

/// $1 seqs. Returns those of messages that are done, with their positions in the order of acceptance. Conditions
/// follow.
const SELECTED: &str = concat!(
    "SELECT m.seq, COALESCE(p.first_seq, m.seq), m.payload_bytes, ",
    is_replayable!(),
    " FROM @messages m LEFT JOIN @replays p ON p.seq = m.seq
     WHERE m.seq = ANY($1) AND m.seq IN (SELECT o.seq FROM @outcomes o WHERE o.seq = ANY($1))"
);

/// $1 seqs.
const DESTINATIONS: &str = "SELECT DISTINCT destination FROM @messages WHERE seq = ANY($1)";
/// $1 seqs. Returns those of messages that are done, and keeps them done until the end of the transaction.
pub(super) const LOCK_DONE: &str =
    "SELECT seq FROM @outcomes WHERE seq = ANY($1) ORDER BY seq FOR UPDATE";
/// $1 seqs of messages that are done. A separate statement, run after the lock is taken.
const STILL_REPLAYABLE: &str = concat!(
    "SELECT m.seq, m.destination, m.source
     FROM @messages m LEFT JOIN @replays p ON p.seq = m.seq WHERE m.seq = ANY($1) AND ",
    is_replayable!(),
    " ORDER BY COALESCE(p.first_seq, m.seq)"
);
/// $1 old seqs, $2 new seqs. A copied payload is in both tables.
const MOVE_PAYLOADS: &str = "
    INSERT INTO @payloads (seq, trace, payload)
    SELECT DISTINCT ON (u.new) u.new, c.trace, c.payload FROM unnest($1, $2) u (old, new) JOIN (
        SELECT seq, trace, payload FROM @payloads WHERE seq = ANY($1)
        UNION ALL
        SELECT seq, trace, payload FROM @payloads_kept WHERE seq = ANY($1)) c ON c.seq = u.old";
/// $1 old seqs, $2 new seqs.
const MOVE_MESSAGES: &str = "
    INSERT INTO @messages (seq, message_hash, lane, anonymous, email, received_at, payload_bytes, class, kind,
                           source, destination, message_id, event, warnings)
    SELECT u.new, m.message_hash, m.lane, m.anonymous, m.email, m.received_at, m.payload_bytes, $3, m.kind,
           m.source, m.destination, m.message_id, m.event, m.warnings
    FROM @messages m JOIN unnest($1, $2) u (old, new) ON u.old = m.seq WHERE m.seq = ANY($1)";
/// $1 old seqs, $2 new seqs, $3 class.
const MAKE_PENDING: &str = "
    INSERT INTO @pending (seq, lane, received_at, payload_bytes, class, source, destination, is_deletion)
    SELECT u.new, m.lane, m.received_at, m.payload_bytes, $3, m.source, m.destination, m.kind = 'delete'
    FROM @messages m JOIN unnest($1, $2) u (old, new) ON u.old = m.seq WHERE m.seq = ANY($1)";
/// $1 old seqs, $2 new seqs, $3 the only subscription.
const NUMBER: &str = "
    WITH before AS (DELETE FROM @replays WHERE seq = ANY($1) RETURNING seq, number, first_seq)
    INSERT INTO @replays (seq, number, first_seq, only_subscription)
    SELECT u.new, COALESCE(b.number, 0) + 1, COALESCE(b.first_seq, u.old), $3
    FROM unnest($1, $2) u (old, new) LEFT JOIN before b ON b.seq = u.old";
/// $1 old seqs, $2 new seqs, $3 the only state that is superseded, or NULL, $4 the only subscription, $5 the only ones
/// that are made again, or NULL, $6 a note for the details of superseded deliveries. Returns their requests.
const MOVE_DELIVERIES: &str = "
    WITH before AS (
        DELETE FROM @deliveries WHERE seq = ANY($1)
        RETURNING seq, replay, position, is_superseded, request_id, part_id, ended_at, state, subscription, action,
                  reason, detail, warnings, planned,
                  NOT is_superseded AND ($3 IS NULL OR state = $3) AND ($4 IS NULL OR subscription = $4)
                  AND ($5 IS NULL OR subscription = ANY($5)) AS is_repeated)
    INSERT INTO @deliveries (seq, replay, position, is_superseded, request_id, part_id, ended_at, state, subscription,
                             action, reason, detail, warnings, planned)
    SELECT u.new, b.replay, b.position,
           b.is_superseded OR b.is_repeated, b.request_id, b.part_id, b.ended_at, b.state, b.subscription, b.action,
           b.reason, CASE WHEN b.is_repeated THEN b.detail || $6 ELSE b.detail END, b.warnings, b.planned
    FROM before b JOIN unnest($1, $2) u (old, new) ON u.old = b.seq
    RETURNING request_id";
/// $1 old seqs, $2 new seqs, $3 ids. The messages that the requests carry have moved.
const MOVE_REQUESTS: &str = "
    UPDATE @requests r SET seqs = (
        SELECT array_agg(COALESCE(u.new, s.seq))
        FROM unnest(r.seqs) s (seq) LEFT JOIN unnest($1, $2) u (old, new) ON u.old = s.seq)
    WHERE r.id = ANY($3)";
/// $1 old seqs.
const DELETE_OLD: [&str; 4] = [
    "DELETE FROM @payloads WHERE seq = ANY($1)",
    "DELETE FROM @payloads_kept WHERE seq = ANY($1)",
    "DELETE FROM @outcomes WHERE seq = ANY($1)",
    "DELETE FROM @messages WHERE seq = ANY($1)",
];

/// How many positions one call of [`find`] covers.
const STRETCH: usize = if cfg!(test) { 500 } else { 2_000 };

/// Returns the end of a replay that begins now: at or after every number given so far, and before every later one, for
/// all destinations.
pub(super) async fn end_of_order(connections: &Connections) -> Result<Seq, Fault> {
    let transaction = connections.transaction().await?;
    let mut last = 0;
    for row in transaction.query(LOCK_ALL_STREAMS, params![]).await? {
        last = Stream { no: get(&row, 0)?, last: get(&row, 1)? }.number().max(last);
    }
    let until = numbers::last_of_second(last);
    let counted = numbers::counted_through(until);
    transaction.execute(CLOSE_SECOND, params![counted]).await?;
    transaction.commit().await?;
    Ok(Seq(until))
}

pub(super) async fn find(
    connection: &Connection,
    ask: &ReplayAsk,
    position: ReplayPosition,
    digests: &Digests,
) -> Result<Found, Fault> {
    let ReplayPosition { after, until } = position;
    let selection = &ask.selection;
    let stretch = i64::try_from(STRETCH).unwrap_or(i64::MAX);
    let ordered = in_order(connection, selection, digests, after.0, until.0).await?;
    let params = params![after.0, until.0, stretch];
    let mut replayed: Vec<(i64, i64)> = Vec::new();
    for row in connection.query(REPLAYED, params).await? {
        replayed.push((get(&row, 0)?, get(&row, 1)?));
    }
    // Both parts are complete only up to the earlier of their ends.
    let ends = [ordered.get(STRETCH - 1), replayed.get(STRETCH - 1).map(|(_, accepted)| accepted)];
    let seen = ends.into_iter().flatten().copied().min().unwrap_or(until.0);
    let numbers = ordered.into_iter().filter(|seq| *seq <= seen);
    let numbers = numbers.chain(replayed.iter().filter(|(_, at)| *at <= seen).map(|(seq, _)| *seq));
    let numbers: BTreeSet<i64> = numbers.collect();
    let mut messages = select(connection, selection, numbers).await?;
    // A replayed message is also found by its number, but its position is a different one. A number behind the end was
    // given since the replay began: by another replay, or by this one, if a commit succeeded but its response was lost.
    messages.retain(|message| {
        (after.0 < message.accepted.0 && message.accepted.0 <= seen) && message.seq <= until
    });
    messages.sort_unstable_by_key(|message| message.accepted);
    let next = (seen < until.0).then_some(ReplayPosition { after: Seq(seen), until });
    Ok(Found { messages, until, next })
}

/// Returns numbers of messages, in order, among which are all selected messages that were never replayed.
async fn in_order(
    connection: &Connection,
    selection: &Selection,
    digests: &Digests,
    after: i64,
    until: i64,
) -> Result<Vec<i64>, Fault> {
    let (text, of) = if !selection.message_ids.is_empty() {
        let ids = selection.message_ids.iter();
        let hashes = ids.map(|id| digests.message_id(id).0).collect();
        (Cow::Borrowed(OF_IDS), vec![Value::Numbers(hashes)])
    } else if !selection.filter.persons.is_empty() {
        let persons = &selection.filter.persons;
        let text = of_persons(Order::OldestFirst, persons.len());
        (Cow::Owned(text), persons.iter().map(|person| Value::Number(person.0)).collect())
    } else {
        let text = match selection.state {
            ReplayState::Failed => FAILED,
            ReplayState::Unmatched => UNMATCHED,
            ReplayState::Delivered | ReplayState::Shadowed | ReplayState::All => DONE,
        };
        (Cow::Borrowed(text), Vec::new())
    };
    let mut days = partitions::days(connection).await?;
    days.retain(|day| day.has_records && day.end() > after && day.first() <= until);
    let mut found: Vec<i64> = Vec::new();
    for (first, end) in partitions::parts(&days) {
        let left = STRETCH - found.len();
        let bounds = [after.max(first - 1), until.min(end - 1)].map(Value::Number);
        let limit = Value::Number(i64::try_from(left).unwrap_or(i64::MAX));
        let params: Vec<Param<'_>> =
            bounds.iter().chain([&limit]).chain(&of).map(Value::as_param).collect();
        let rows = connection.query(&text, &params).await?;
        let mut part: Vec<i64> = rows.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        part.sort_unstable();
        part.dedup();
        part.truncate(left);
        found.extend(part);
        if found.len() >= STRETCH {
            break;
        }
    }
    Ok(found)
}

/// Returns the messages that are selected.
async fn select(
    connection: &Connection,
    selection: &Selection,
    seqs: BTreeSet<i64>,
) -> Result<Vec<Selected>, Fault> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let (seqs, of_part) = (Vec::from_iter(seqs), |seqs: &[i64]| selected(selection, seqs));
    let mut messages = Vec::new();
    for row in partitions::query_by_day(connection, &seqs, of_part).await? {
        messages.push(Selected {
            seq: Seq(get(&row, 0)?),
            accepted: Seq(get(&row, 1)?),
            payload_bytes: u64::from(get::<i32>(&row, 2)?.unsigned_abs()),
            is_replayable: get(&row, 3)?,
        });
    }
    Ok(messages)
}

pub(super) fn selected(selection: &Selection, seqs: &[i64]) -> Statement {
    let mut statement = Statement::of(SELECTED, seqs);
    match selection.state {
        ReplayState::Failed => statement.is_in_state(MessageState::Failed),
        ReplayState::Unmatched => statement.is_in_state(MessageState::Unmatched),
        ReplayState::Delivered => statement.is_in_state(MessageState::Delivered),
        ReplayState::Shadowed => statement.has_shadowed(),
        ReplayState::All => {}
    }
    if !selection.message_ids.is_empty() {
        let ids = selection.message_ids.iter().map(|id| super::params::text(id).into_owned());
        let ids = statement.add(Value::Texts(ids.collect()));
        statement.text += &format!(" AND m.message_id = ANY({ids})");
    }
    list::meets_filter(&mut statement, &selection.filter, selection.state.only());
    statement
}

/// Makes messages pending again. A message that is no longer done, or has lost its contents in the meantime, stays
/// unchanged.
pub(super) struct Requeue<'a> {
    pub(super) seqs: Array<i64>,
    /// Only deliveries in this state are made again; the others stand. `None` means all.
    pub(super) only: Option<DeliveryState>,
    pub(super) subscription: Option<&'a str>,
    /// The only subscriptions whose deliveries are made again; `None` means all.
    pub(super) again: Option<Vec<String>>,
    /// Whether the replay is automatic, because the contacts have appeared.
    pub(super) is_revival: bool,
    pub(super) now: Timestamp,
    pub(super) time: Time,
}

impl Requeue<'_> {
    /// Returns how many became pending.
    pub(super) async fn run(&self, connections: &Connections) -> Result<u64, Fault> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut days = BTreeSet::new();
            let fault = match self.try_to_run(connections, &mut days).await {
                Ok(replayed) => return Ok(replayed),
                Err(fault) => fault,
            };
            if tries >= TRIES_MAX {
                return Err(fault);
            }
            if fault.is_missing_partition() {
                let connection = connections.get().await?;
                partitions::make(&connection, Vec::from_iter(days)).await?;
                connection.give_back();
            } else if !fault.is_conflict() && !matches!(fault, Fault::Broken(_)) {
                return Err(fault);
            }
        }
    }

    async fn try_to_run(
        &self,
        connections: &Connections,
        days: &mut BTreeSet<i32>,
    ) -> Result<u64, Fault> {
        let transaction = connections.transaction().await?;
        let found = transaction.query(DESTINATIONS, params![self.seqs]).await?;
        let destinations: Array<String> =
            found.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        let mut streams: HashMap<String, Stream> = HashMap::new();
        let mut now_ms = to_ms(self.now);
        for row in transaction.query(LOCK_STREAMS, params![destinations]).await? {
            streams.insert(get(&row, 0)?, Stream { no: get(&row, 1)?, last: get(&row, 2)? });
            if self.time == Time::OfDatabase {
                now_ms = get(&row, 3)?;
            }
        }
        let locked = transaction.query(LOCK_DONE, params![self.seqs]).await?;
        let locked: Array<i64> = locked.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        transaction.execute(awaiting::END, params![self.seqs, self.subscription]).await?;
        let (mut old, mut new) = (Array(Vec::new()), Array(Vec::new()));
        let mut tallies = Tallies::default();
        for row in transaction.query(STILL_REPLAYABLE, params![locked]).await? {
            let (destination, source): (&str, &str) = (get(&row, 1)?, get(&row, 2)?);
            let stream = streams.get_mut(destination);
            let number = stream.ok_or(Fault::Broken("a stream is gone"))?.next(now_ms);
            days.insert(numbers::day(number));
            old.0.push(get(&row, 0)?);
            new.0.push(number);
            tallies.add(self.now, Counted::new(Stage::Replayed, destination, source), 1);
        }
        if old.0.is_empty() {
            transaction.commit().await?;
            return Ok(0);
        }
        self.relocate(&transaction, &old, &new).await?;
        let names: Array<&str> = streams.keys().map(String::as_str).collect();
        let last: Array<i64> = streams.values().map(|stream| stream.last).collect();
        transaction.execute(ADVANCE_STREAMS, params![names, last]).await?;
        tally::write(&transaction, tallies).await?;
        crate::crash::point("commit.before");
        transaction.commit().await?;
        crate::crash::point("commit.after");
        Ok(old.0.len() as u64)
    }

    /// Moves everything that belongs to messages to their new numbers.
    async fn relocate(
        &self,
        transaction: &Connection,
        old: &Array<i64>,
        new: &Array<i64>,
    ) -> Result<(), Fault> {
        // Bulk, whatever its class was: a replay must not delay messages that a person waits for.
        let class = if self.is_revival { Class::Event } else { Class::Bulk };
        let class = i16::try_from(class.code()).unwrap_or(i16::MAX);
        let count = old.0.len() as u64;
        // The purge may detach the partition of a message between two statements. It then waits for this transaction
        // before it detaches the day's next table, so only one table can be gone, and the order of the tables in
        // `Purge::drop_day` leaves the deliveries of a message that was moved.
        let payloads = params![*old, *new];
        let messages = params![*old, *new, class];
        for (text, params) in
            [(MOVE_PAYLOADS, payloads as &[_]), (MOVE_MESSAGES, messages), (MAKE_PENDING, messages)]
        {
            if transaction.execute(text, params).await? != count {
                return Err(Fault::Broken("a message vanished within the transaction"));
            }
        }
        transaction.execute(NUMBER, params![*old, *new, self.subscription]).await?;
        let note = if self.is_revival { REVIVED } else { "" };
        let only = self.only.map(DeliveryState::as_str);
        let params = params![*old, *new, only, self.subscription, self.again, note];
        let moved = transaction.query(MOVE_DELIVERIES, params).await?;
        let mut requests = Array(Vec::new());
        for row in &moved {
            requests.0.extend(get::<Option<i64>>(row, 0)?);
        }
        if !requests.0.is_empty() {
            transaction.execute(MOVE_REQUESTS, params![*old, *new, requests]).await?;
        }
        transaction.execute(awaiting::MOVE, params![*old, *new]).await?;
        for text in DELETE_OLD {
            transaction.execute(text, params![*old]).await?;
        }
        Ok(())
    }
}
