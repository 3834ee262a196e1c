//! Questions about many messages: lists, groups of failures, counts, names of events.
//!
//! An index yields candidates, newest first (`candidates`), and one statement checks them against all
//! conditions. The number of candidates in one call is bounded, so a list may stop before its page is full;
//! it then continues from the last candidate.

mod candidates;
pub(super) mod sought;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};
use tracing::warn;

use self::candidates::{Candidates, Range, event_ids};
use self::sought::Sought;
use super::error::Fault;
use super::log;
use super::rows::{self, from_ms, json_list, message_columns, to_ms};
use crate::queue::{
    EventName, FailureGroup, FailureGroups, FailureReason, Filter, MessageRecord, MessageState,
    Page, Seq, Stage, Tally, TallyStep, cause,
};
use crate::store::groups::Groups;

/// How many candidates one call of [`list`] examines at most.
const EXAMINED_MAX: usize = 5_000;

/// How many candidates one call of [`failures`] examines at most. A person waits for the page, so this is small.
const READ_MAX: usize = 4_000;

/// How many candidates of [`failures`] are checked at once.
const READ_AT_ONCE: usize = 1_000;

/// Whether the message `m` itself meets a filter: ?2 persons, ?3 destination, ?4 source, ?5 type, ?6 events, ?7 from,
/// ?8 to, ?9 state, or `held`. NULL means no condition; ?2 and ?6 are lists.
macro_rules! message_meets_filter {
    () => {
        "(?2 IS NULL OR m.lane IN (SELECT value FROM json_each(?2))
            OR m.anonymous IN (SELECT value FROM json_each(?2))
            OR m.email IN (SELECT value FROM json_each(?2)))
        AND (?3 IS NULL OR m.destination = ?3)
        AND (?4 IS NULL OR m.source = ?4)
        AND (?5 IS NULL OR m.kind = ?5)
        AND (?6 IS NULL OR m.event_id IN (SELECT value FROM json_each(?6)))
        AND (?7 IS NULL OR m.received_at >= ?7)
        AND (?8 IS NULL OR m.received_at < ?8)
        AND (?9 IS NULL OR ?9 = 'held' AND EXISTS (SELECT 1 FROM held h WHERE h.seq = m.seq) OR ?9 = CASE
            WHEN m.state = 0 THEN 'pending'
            WHEN m.is_failed = 1 THEN 'failed'
            WHEN EXISTS (
                SELECT 1 FROM deliveries d
                WHERE d.seq = m.seq AND d.is_superseded = 0 AND d.state = 'shadowed')
                THEN 'shadowed'
            WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.is_superseded = 0)
                THEN 'delivered'
            ELSE 'unmatched' END)"
    };
}

/// The same, and whether it has a delivery that does: ?10 reason, ?11 subscription.
macro_rules! meets_filter {
    () => {
        concat!(
            message_meets_filter!(),
            " AND (?10 IS NULL AND ?11 IS NULL OR EXISTS (
            SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.is_superseded = 0
                AND (?10 IS NULL OR d.state = 'failed' AND d.reason = ?10)
                AND (?11 IS NULL OR d.subscription = ?11)))"
        )
    };
}

/// ?1 list of sequence numbers, then the filter.
const CHECKED: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM json_each(?1) s CROSS JOIN messages m ON m.seq = s.value
        LEFT JOIN replays p ON p.seq = m.seq LEFT JOIN event_names n ON n.id = m.event_id
    WHERE ",
    meets_filter!(),
    " ORDER BY m.seq DESC"
);

/// ?1 list of sequence numbers, then the filter. All failed deliveries that count, and whether each meets the
/// filter.
const FAILURES: &str = concat!(
    "SELECT m.seq, m.message_id, m.destination, d.subscription, d.reason, d.detail,
           COALESCE(d.ended_at, m.received_at),
           ((?10 IS NULL OR d.reason = ?10) AND (?11 IS NULL OR d.subscription = ?11) AND ",
    message_meets_filter!(),
    ") IS TRUE
    FROM json_each(?1) s CROSS JOIN messages m ON m.seq = s.value
        CROSS JOIN deliveries d ON d.seq = m.seq
    WHERE d.state = 'failed' AND d.is_superseded = 0
    ORDER BY m.seq DESC, d.replay, d.position"
);

/// ?1 step, ?2 from, ?3 to.
const TALLIES: &str = "
    SELECT at, stage, destination, source, subscription, reason, count FROM tallies
    WHERE step = ?1 AND at >= ?2 AND at < ?3
    ORDER BY at, stage, destination, source, subscription, reason";

/// The event names of all sources.
const EVENT_NAMES: &str = "
    SELECT source, name, first_seen_at, last_seen_at FROM event_names
    ORDER BY last_seen_at DESC, source, name";

/// ?1 source.
const EVENT_NAMES_OF_SOURCE: &str = "
    SELECT source, name, first_seen_at, last_seen_at FROM event_names WHERE source = ?1
    ORDER BY last_seen_at DESC, name";

/// Returns the range of sequence numbers of messages received in the filter's time: the first, and the one after the
/// last. A replayed message had its first number in this range.
pub(super) fn range(snapshot: &Connection, filter: &Filter) -> Result<(i64, i64), Fault> {
    let range = Range::of(snapshot, filter)?;
    Ok((range.first, range.end))
}

/// Returns the latest messages that meet a filter.
pub(super) fn list(
    snapshot: &Connection,
    sought: &Sought,
    before: Option<Seq>,
    limit: u32,
) -> Result<Page, Fault> {
    list_bounded(snapshot, sought, before, limit, EXAMINED_MAX)
}

fn list_bounded(
    snapshot: &Connection,
    sought: &Sought,
    before: Option<Seq>,
    limit: u32,
    examined_max: usize,
) -> Result<Page, Fault> {
    let filter = &sought.filter;
    let events = event_ids(snapshot, filter)?;
    let conditions = conditions(filter, events.as_deref());
    let mut candidates = Candidates::of_messages(snapshot, sought, events.as_deref(), before)?;
    let limit = (limit as usize).max(1);
    // One more than the page shows whether anything follows. Each round that does not fill the page quadruples the
    // number.
    let (mut at_once, mut left) = (limit + 1, examined_max);
    let mut messages = Vec::new();
    let next = loop {
        let asked = at_once.min(left);
        let batch = candidates.take(asked)?;
        check(snapshot, &batch, &conditions, &mut messages)?;
        if messages.len() > limit {
            messages.truncate(limit);
            break messages.last().map(|last| last.seq);
        }
        left -= batch.len();
        match batch.last() {
            Some(last) if batch.len() == asked && left == 0 => {
                break (!candidates.take(1)?.is_empty()).then_some(Seq(*last));
            }
            Some(_) if batch.len() == asked => at_once *= 4,
            _ => break None,
        }
    };
    log::add_deliveries(snapshot, &mut messages)?;
    Ok(Page { messages, next })
}

/// Returns the messages with these sequence numbers, newest first.
pub(super) fn messages(snapshot: &Connection, seqs: &[i64]) -> Result<Vec<MessageRecord>, Fault> {
    let mut messages = Vec::with_capacity(seqs.len());
    check(snapshot, seqs, &conditions(&Filter::default(), None), &mut messages)?;
    log::add_deliveries(snapshot, &mut messages)?;
    Ok(messages)
}

/// Returns the filter as statement parameters, from ?2 on.
fn conditions(filter: &Filter, events: Option<&[i64]>) -> [Value; 10] {
    let persons = (!filter.persons.is_empty())
        .then(|| json_list(filter.persons.iter().map(|person| person.0)));
    let word = |word: Option<&str>| word.map(str::to_owned).into();
    [
        persons.into(),
        filter.destination.clone().into(),
        filter.source.clone().into(),
        word(filter.kind.map(|kind| kind.as_str())),
        events.map(|events| json_list(events.iter().copied())).into(),
        filter.from.map(to_ms).into(),
        filter.to.map(to_ms).into(),
        word(if filter.is_held { Some("held") } else { filter.state.map(MessageState::as_str) }),
        word(filter.reason.map(FailureReason::as_str)),
        filter.subscription.clone().into(),
    ]
}

/// Adds the candidates that meet the conditions.
fn check(
    snapshot: &Connection,
    batch: &[i64],
    conditions: &[Value],
    messages: &mut Vec<MessageRecord>,
) -> Result<(), Fault> {
    let batch = Value::from(json_list(batch.iter().copied()));
    let mut statement = snapshot.prepare_cached(CHECKED)?;
    let mut found = statement.query(params_from_iter([&batch].into_iter().chain(conditions)))?;
    while let Some(row) = found.next()? {
        match rows::message(row) {
            Ok(message) => messages.push(message),
            // An unreadable message must not hide the others.
            Err(fault) if fault.is_broken() => {
                let seq: i64 = row.get(0)?;
                warn!(seq, error = %fault, "a message cannot be read and is left out of a list");
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Returns the latest failures, grouped by cause.
pub(super) fn failures(snapshot: &Connection, sought: &Sought) -> Result<FailureGroups, Fault> {
    failures_bounded(snapshot, sought, READ_MAX)
}

fn failures_bounded(
    snapshot: &Connection,
    sought: &Sought,
    read_max: usize,
) -> Result<FailureGroups, Fault> {
    let filter = &sought.filter;
    let events = event_ids(snapshot, filter)?;
    let conditions = conditions(filter, events.as_deref());
    let mut candidates = Candidates::of_failures(snapshot, sought)?;
    let mut statement = snapshot.prepare_cached(FAILURES)?;
    let mut groups = Groups::default();
    let (mut read, mut left) = (0, read_max);
    let is_complete = loop {
        let asked = READ_AT_ONCE.min(left);
        let batch = candidates.take(asked)?;
        let list = Value::from(json_list(batch.iter().copied()));
        let mut found =
            statement.query(params_from_iter([&list].into_iter().chain(&conditions)))?;
        while let Some(row) = found.next()? {
            read += 1;
            if row.get(7)? {
                groups.add(failure(row)?);
            }
        }
        left -= batch.len();
        if batch.len() < asked {
            break true;
        }
        if left == 0 {
            break candidates.take(1)?.is_empty();
        }
    };
    Ok(FailureGroups { groups: groups.into_sorted(), read, is_complete })
}

/// Reads a row of [`FAILURES`] as a group of one.
fn failure(row: &Row<'_>) -> Result<FailureGroup, rusqlite::Error> {
    let subscription: String = row.get(3)?;
    let reason: Option<String> = row.get(4)?;
    let detail: Option<String> = row.get(5)?;
    let at = from_ms(row.get(6)?);
    Ok(FailureGroup {
        destination: row.get(2)?,
        subscription: Some(subscription).filter(|name| !name.is_empty()),
        reason: reason.as_deref().and_then(FailureReason::parse).unwrap_or(FailureReason::Unknown),
        cause: cause(detail.as_deref().unwrap_or_default()),
        deliveries: 1,
        first_at: at,
        last_at: at,
        example: row.get(1)?,
        example_seq: Seq(row.get(0)?),
    })
}

/// Returns counts by interval. Stages that this release does not know are left out.
pub(super) fn tallies(
    snapshot: &Connection,
    step: TallyStep,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<Tally>, Fault> {
    let mut statement = snapshot.prepare_cached(TALLIES)?;
    let mut found = statement.query([step.ms(), to_ms(from), to_ms(to)])?;
    let mut tallies = Vec::new();
    while let Some(row) = found.next()? {
        let stage: String = row.get(1)?;
        let Some(stage) = Stage::parse(&stage) else { continue };
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        tallies.push(Tally {
            at: from_ms(row.get(0)?),
            stage,
            destination: row.get(2)?,
            source: row.get(3)?,
            subscription: filled(row.get(4)?),
            reason: filled(row.get(5)?),
            count: u64::try_from(row.get::<_, i64>(6)?).unwrap_or(0),
        });
    }
    Ok(tallies)
}

/// Returns the names of events, last seen first.
pub(super) fn event_names(
    snapshot: &Connection,
    source: Option<&str>,
) -> Result<Vec<EventName>, Fault> {
    let text = if source.is_some() { EVENT_NAMES_OF_SOURCE } else { EVENT_NAMES };
    let mut statement = snapshot.prepare_cached(text)?;
    let names = statement.query_map(params_from_iter(source), |row| {
        Ok(EventName {
            source: row.get(0)?,
            name: row.get(1)?,
            first_seen_at: from_ms(row.get(2)?),
            last_seen_at: from_ms(row.get(3)?),
        })
    })?;
    Ok(names.collect::<Result<_, _>>()?)
}
