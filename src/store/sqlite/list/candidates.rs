//! Finds the messages to check against a filter. The index of the filter's most selective condition yields them, newest
//! first.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};

use super::sought::Sought;
use crate::queue::{Class, FailureReason, Filter, MessageState, Seq, TallyStep};
use crate::store::sqlite::error::Fault;
use crate::store::sqlite::log;
use crate::store::sqlite::recent::sorted_through;
use crate::store::sqlite::rows::{json_list, to_ms};

// In all streams: ?1 before, ?2 from this sequence number on, ?3 limit, ?4 and up: the value of the stream.

pub(super) const NEWEST: &str =
    "SELECT seq FROM messages WHERE seq < ?1 AND seq >= ?2 ORDER BY seq DESC LIMIT ?3";

/// ?4 person.
pub(super) const OF_PERSON: &str = "
    SELECT seq FROM persons WHERE seq < ?1 AND seq >= ?2 AND person = ?4
    ORDER BY seq DESC LIMIT ?3";

/// ?4 list of persons, ?5 up to which message they are known. For messages that are not in `persons` yet.
pub(super) const OF_PERSONS_UNSORTED: &str = concat!(
    "SELECT seq FROM messages WHERE seq < ?1 AND seq >= MAX(?2, ?5 + 1, ",
    sorted_through!(),
    " + 1)
      AND (lane IN (SELECT value FROM json_each(?4)) OR anonymous IN (SELECT value FROM json_each(?4))
           OR email IN (SELECT value FROM json_each(?4)))
    ORDER BY seq DESC LIMIT ?3"
);

/// ?4 id of the event's name.
pub(super) const OF_EVENT: &str = "
    SELECT seq FROM messages WHERE seq < ?1 AND seq >= ?2 AND event_id = ?4
    ORDER BY seq DESC LIMIT ?3";

/// Messages that ended without a failure.
pub(super) const ENDED_WELL: &str = "
    SELECT seq FROM messages WHERE seq < ?1 AND seq >= ?2 AND state = 1 AND is_failed = 0
    ORDER BY seq DESC LIMIT ?3";

pub(super) const FAILED: &str = "
    SELECT seq FROM messages WHERE seq < ?1 AND seq >= ?2 AND is_failed = 1
    ORDER BY seq DESC LIMIT ?3";

/// Messages with a failed delivery, whether they are done or not.
pub(super) const WITH_FAILURE: &str = "
    SELECT DISTINCT seq FROM deliveries INDEXED BY deliveries_failed
    WHERE seq < ?1 AND seq >= ?2 AND state = 'failed' AND is_superseded = 0
    ORDER BY seq DESC LIMIT ?3";

/// ?4 reason.
pub(super) const FAILED_FOR: &str = "
    SELECT DISTINCT seq FROM deliveries
    WHERE seq < ?1 AND seq >= ?2 AND state = 'failed' AND is_superseded = 0 AND reason = ?4
    ORDER BY seq DESC LIMIT ?3";

/// ?4 subscription.
pub(super) const OF_SUBSCRIPTION: &str = "
    SELECT DISTINCT seq FROM deliveries WHERE seq < ?1 AND seq >= ?2 AND subscription = ?4
    ORDER BY seq DESC LIMIT ?3";

/// ?4 reason.
pub(super) const UNMATCHED_FOR: &str = "
    SELECT seq FROM messages WHERE seq < ?1 AND seq >= ?2 AND unmatched = ?4
    ORDER BY seq DESC LIMIT ?3";

/// ?4 destination, ?5 class.
pub(super) const PENDING_OF: &str = "
    SELECT seq FROM messages
    WHERE seq < ?1 AND seq >= ?2 AND state = 0 AND destination = ?4 AND class = ?5
    ORDER BY seq DESC LIMIT ?3";

pub(super) const HELD: &str =
    "SELECT seq FROM held WHERE seq < ?1 AND seq >= ?2 ORDER BY seq DESC LIMIT ?3";

/// ?4 destination.
pub(super) const HELD_OF: &str = "
    SELECT seq FROM held WHERE seq < ?1 AND seq >= ?2 AND destination = ?4
    ORDER BY seq DESC LIMIT ?3";

pub(super) const REPLAYED: &str =
    "SELECT seq FROM replays WHERE seq < ?1 AND seq >= ?2 ORDER BY seq DESC LIMIT ?3";

/// All reasons in the index, including those of other releases. Steps from one reason to the next.
pub(super) const UNMATCHED_REASONS: &str = "
    WITH RECURSIVE found (reason) AS (
        SELECT MIN(unmatched) FROM messages WHERE unmatched IS NOT NULL
        UNION ALL
        SELECT (SELECT MIN(unmatched) FROM messages WHERE unmatched > found.reason)
        FROM found WHERE found.reason IS NOT NULL)
    SELECT reason FROM found WHERE reason IS NOT NULL";

/// ?1 name, ?2 source or NULL. Steps from one source to the next.
pub(super) const EVENT_IDS: &str = "
    WITH RECURSIVE found (source) AS (
        SELECT MIN(source) FROM event_names
        UNION ALL
        SELECT (SELECT MIN(source) FROM event_names WHERE source > found.source)
        FROM found WHERE found.source IS NOT NULL)
    SELECT n.id FROM found CROSS JOIN event_names n ON n.source = found.source AND n.name = ?1
    WHERE ?2 IS NULL OR found.source = ?2";

/// ?1 first minute, ?2 last minute.
pub(super) const RANGE: &str =
    "SELECT MIN(first_seq), MAX(last_seq) FROM minutes WHERE minute BETWEEN ?1 AND ?2";

pub(super) const OLDEST_MINUTE: &str =
    "SELECT minute, first_seq FROM minutes ORDER BY minute LIMIT 1";

/// A superset of the messages that meet the filter, newest first.
pub(super) struct Candidates<'a> {
    snapshot: &'a Connection,
    streams: Vec<Stream>,
    /// The persons' newest messages that the writer knows and that are not in `persons` yet, newest first.
    known: Vec<i64>,
    range: Range,
    /// All candidates from this number up have been returned.
    before: i64,
}

/// A statement that yields some of the candidates, newest first.
struct Stream {
    text: &'static str,
    of: Vec<Value>,
}

/// The sequence numbers of messages received in a given time. A replayed message may lie beyond the end, since it keeps
/// its time but not its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: i64,
    /// Exclusive.
    pub(super) end: i64,
}

impl<'a> Candidates<'a> {
    /// Returns candidates for messages that meet a filter and whose event has one of the given ids.
    pub(super) fn of_messages(
        snapshot: &'a Connection,
        sought: &Sought,
        events: Option<&[i64]>,
        before: Option<Seq>,
    ) -> Result<Self, Fault> {
        let filter = &sought.filter;
        let streams = if !filter.persons.is_empty() {
            of_persons(sought)
        } else if filter.is_held {
            vec![held(filter)]
        } else if let Some(events) = events {
            events.iter().map(|id| Stream::of(OF_EVENT, [(*id).into()])).collect()
        } else if let Some(reason) = filter.reason {
            vec![failed_for(reason)]
        } else if filter.state == Some(MessageState::Failed) {
            vec![Stream::of(FAILED, [])]
        } else if let Some(name) = &filter.subscription {
            vec![Stream::of(OF_SUBSCRIPTION, [name.clone().into()])]
        } else {
            match filter.state {
                Some(MessageState::Unmatched) => unmatched(snapshot)?,
                Some(MessageState::Pending) => pending(snapshot, filter)?,
                // With a long queue, the newest messages are all pending.
                Some(MessageState::Delivered | MessageState::Shadowed) => {
                    vec![Stream::of(ENDED_WELL, [])]
                }
                Some(MessageState::Failed) | None => vec![Stream::of(NEWEST, [])],
            }
        };
        let before = before.map_or(i64::MAX, |seq| seq.0);
        Self::of(snapshot, sought, streams, before)
    }

    /// Returns candidates for messages that meet a filter and have a failed delivery.
    pub(super) fn of_failures(snapshot: &'a Connection, sought: &Sought) -> Result<Self, Fault> {
        let filter = &sought.filter;
        let streams = if !filter.persons.is_empty() {
            of_persons(sought)
        } else if let Some(reason) = filter.reason {
            vec![failed_for(reason)]
        } else {
            vec![Stream::of(WITH_FAILURE, [])]
        };
        Self::of(snapshot, sought, streams, i64::MAX)
    }

    fn of(
        snapshot: &'a Connection,
        sought: &Sought,
        streams: Vec<Stream>,
        before: i64,
    ) -> Result<Self, Fault> {
        let range = Range::of(snapshot, &sought.filter)?;
        let mut known = sought.known.seqs.clone();
        known.sort_unstable_by_key(|seq| std::cmp::Reverse(*seq));
        // A message that belongs to two of the persons is known twice.
        known.dedup();
        Ok(Self { snapshot, streams, known, range, before })
    }

    /// Returns the next candidates. Fewer than the limit means that no more follow.
    pub(super) fn take(&mut self, limit: usize) -> Result<Vec<i64>, Fault> {
        let Range { first, end } = self.range;
        let mut found = Vec::new();
        if self.before > end {
            found = self.newest(&[Stream::of(REPLAYED, [])], &[], end.max(first), limit)?;
            if found.len() < limit {
                self.before = end;
            }
        }
        if found.len() < limit {
            let left = limit - found.len();
            found.extend(self.newest(&self.streams, &self.known, first, left)?);
        }
        if let Some(last) = found.last() {
            self.before = self.before.min(*last);
        }
        Ok(found)
    }

    /// Returns the newest candidates of all streams and of the known messages, each once.
    fn newest(
        &self,
        streams: &[Stream],
        known: &[i64],
        first: i64,
        limit: usize,
    ) -> Result<Vec<i64>, Fault> {
        let limit_sql = i64::try_from(limit).unwrap_or(i64::MAX);
        let bounds = [self.before, first, limit_sql].map(Value::from);
        let known = &known[known.partition_point(|seq| *seq >= self.before)..];
        let known = known.iter().copied().take_while(|seq| *seq >= first);
        let mut found: Vec<i64> = known.take(limit).collect();
        for Stream { text, of } in streams {
            let mut statement = self.snapshot.prepare_cached(text)?;
            let seqs = statement
                .query_map(params_from_iter(bounds.iter().chain(of)), |row| row.get::<_, i64>(0))?;
            for seq in seqs {
                found.push(seq?);
            }
        }
        found.sort_unstable_by_key(|seq| std::cmp::Reverse(*seq));
        found.dedup();
        found.truncate(limit);
        Ok(found)
    }
}

impl Stream {
    fn of<const N: usize>(text: &'static str, of: [Value; N]) -> Self {
        Self { text, of: of.into() }
    }
}

fn of_persons(sought: &Sought) -> Vec<Stream> {
    let persons = sought.filter.persons.iter().map(|person| person.0);
    let list = json_list(persons.clone());
    let sorted = persons.map(|person| Stream::of(OF_PERSON, [person.into()]));
    let unsorted = Stream::of(OF_PERSONS_UNSORTED, [list.into(), sought.known.through.into()]);
    sorted.chain([unsorted]).collect()
}

fn failed_for(reason: FailureReason) -> Stream {
    Stream::of(FAILED_FOR, [reason.as_str().to_owned().into()])
}

fn unmatched(snapshot: &Connection) -> Result<Vec<Stream>, Fault> {
    let mut statement = snapshot.prepare_cached(UNMATCHED_REASONS)?;
    let reasons = statement.query_map([], |row| row.get::<_, String>(0))?;
    let streams = reasons.map(|reason| Ok(Stream::of(UNMATCHED_FOR, [reason?.into()])));
    streams.collect()
}

fn held(filter: &Filter) -> Stream {
    match &filter.destination {
        Some(destination) => Stream::of(HELD_OF, [destination.clone().into()]),
        None => Stream::of(HELD, []),
    }
}

fn pending(snapshot: &Connection, filter: &Filter) -> Result<Vec<Stream>, Fault> {
    let destinations = match &filter.destination {
        Some(destination) => vec![destination.clone()],
        None => log::destinations(snapshot)?,
    };
    let of = |destination: &String| {
        let destination = destination.clone();
        Class::ALL
            .map(|class| Stream::of(PENDING_OF, [destination.clone().into(), class.code().into()]))
    };
    Ok(destinations.iter().flat_map(of).collect())
}

/// Returns the ids of the filter's event, if it names one.
pub(super) fn event_ids(snapshot: &Connection, filter: &Filter) -> Result<Option<Vec<i64>>, Fault> {
    let Some(event) = &filter.event else { return Ok(None) };
    let mut statement = snapshot.prepare_cached(EVENT_IDS)?;
    let ids =
        statement.query_map((crate::queue::event_name(event), &filter.source), |row| row.get(0))?;
    Ok(Some(ids.collect::<Result<_, _>>()?))
}

impl Range {
    const ALL: Range = Range { first: 0, end: i64::MAX };

    pub(super) fn of(snapshot: &Connection, filter: &Filter) -> Result<Self, Fault> {
        if filter.from.is_none() && filter.to.is_none() {
            return Ok(Self::ALL);
        }
        let minute = |ms: i64| ms.div_euclid(TallyStep::Minute.ms());
        let from = filter.from.map_or(i64::MIN, |from| minute(to_ms(from)));
        let to = filter.to.map_or(i64::MAX, |to| minute(to_ms(to) - 1));
        let (first, last): (Option<i64>, Option<i64>) = snapshot
            .prepare_cached(RANGE)?
            .query_row([from, to], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let oldest: Option<(i64, i64)> = snapshot
            .prepare_cached(OLDEST_MINUTE)?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        // The oldest minutes have been deleted, though a few of their messages may still exist.
        let (first, end) = match oldest {
            Some((oldest, _)) if oldest < from => {
                (first.unwrap_or(i64::MAX), last.map_or(0, |last| last.saturating_add(1)))
            }
            Some((_, oldest)) => (0, last.map_or(oldest, |last| last.saturating_add(1))),
            None => (0, i64::MAX),
        };
        // A person has few messages, so the end is not worth looking up.
        let has_end = filter.to.is_some() && filter.persons.is_empty();
        Ok(Self { first, end: if has_end { end } else { i64::MAX } })
    }
}
