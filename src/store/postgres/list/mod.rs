//! Questions about many messages: lists, groups of failures, counts, names of events.
//!
//! An index yields candidates, newest first (`candidates`), and one statement checks them against all conditions. The
//! number of candidates in one call is bounded, so a list may stop before its page is full; it then continues from the
//! last candidate.

pub(super) mod candidates;
mod columns;

use jiff::Timestamp;
use tokio_postgres::Row;
use tracing::warn;

use self::candidates::{Candidate, Candidates};
use self::columns::columns_meet_filter;
use super::connection::Connection;
use super::error::Fault;
use super::params::{params, text};
use super::rows::{from_ms, get, to_ms};
use super::statement::{Statement, Value};
use super::{partitions, records};
use crate::queue::{
    DeliveryState, EventName, FailureGroup, FailureGroups, FailureReason, Filter, MessageRecord,
    Page, Seq, Stage, Tally, TallyStep, cause,
};
use crate::store::groups::Groups;

/// How many candidates one call of [`list`] examines at most.
const EXAMINED_MAX: usize = 5_000;

/// How many candidates one call of [`failures`] examines at most. A person waits for the page, so this is small.
const READ_MAX: usize = 2_000;

/// How many candidates of [`failures`] are checked at once.
const READ_AT_ONCE: usize = 1_000;

/// $1 seqs. The conditions of the filter follow.
const CHECKED: &str = "SELECT m.seq FROM @messages m WHERE m.seq = ANY($1)";

/// $1 seqs. All failed deliveries that count, and whether each meets the conditions of the filter, which follow.
const FAILURES: [&str; 2] = [
    "SELECT m.seq, m.message_id, m.destination, d.subscription, d.reason, d.detail,
            COALESCE(d.ended_at, m.received_at), COALESCE(true",
    ", false)
     FROM @messages m JOIN @deliveries d ON d.seq = m.seq
     WHERE m.seq = ANY($1) AND d.seq = ANY($1) AND d.state = 'failed' AND NOT d.is_superseded
     ORDER BY m.seq DESC, d.replay, d.position",
];

/// $1 step, $2 from, $3 to.
const TALLIES: &str = r#"
    SELECT at, stage, destination, source, subscription, reason, count FROM @tallies
    WHERE step = $1 AND at >= $2 AND at < $3
    ORDER BY at, stage COLLATE "C", destination COLLATE "C", source COLLATE "C", subscription COLLATE "C",
        reason COLLATE "C""#;

/// $1 source, or NULL for all.
const EVENT_NAMES: &str = r#"
    SELECT source, name, first_seen_at, last_seen_at FROM @event_names WHERE $1 IS NULL OR source = $1
    ORDER BY last_seen_at DESC, source COLLATE "C", name COLLATE "C""#;

/// Returns the latest messages that meet a filter.
pub(super) async fn list(
    connection: &Connection,
    filter: &Filter,
    before: Option<Seq>,
    limit: u32,
) -> Result<Page, Fault> {
    list_bounded(connection, filter, before, limit, EXAMINED_MAX).await
}

pub(super) async fn list_bounded(
    connection: &Connection,
    filter: &Filter,
    before: Option<Seq>,
    limit: u32,
    examined_max: usize,
) -> Result<Page, Fault> {
    let mut candidates = Candidates::of_messages(connection, filter, before).await?;
    let limit = (limit as usize).max(1);
    // One more than the page shows whether anything follows. Each round that does not fill the page quadruples the
    // number.
    let (mut at_once, mut left) = (limit + 1, examined_max);
    let mut seqs: Vec<i64> = Vec::new();
    let next = loop {
        let asked = at_once.min(left);
        let batch = candidates.take(asked).await?;
        seqs.extend(check(connection, filter, &batch).await?);
        if seqs.len() > limit {
            seqs.truncate(limit);
            break seqs.last().map(|last| Seq(*last));
        }
        left -= batch.len();
        match batch.last() {
            Some(last) if batch.len() == asked && left == 0 => {
                break (!candidates.take(1).await?.is_empty()).then_some(Seq(last.seq));
            }
            Some(_) if batch.len() == asked => at_once *= 4,
            _ => break None,
        }
    };
    Ok(Page { messages: messages(connection, seqs).await?, next })
}

/// Returns the messages with these sequence numbers, newest first.
pub(super) async fn messages(
    connection: &Connection,
    seqs: Vec<i64>,
) -> Result<Vec<MessageRecord>, Fault> {
    let mut messages = Vec::with_capacity(seqs.len());
    for (Seq(seq), record) in records::records(connection, seqs).await? {
        match record {
            Ok(record) => messages.push(record),
            // An unreadable message must not hide the others.
            Err(fault) if fault.is_broken() => {
                warn!(seq, error = %fault, "a message cannot be read and is left out of a list");
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(messages)
}

/// Returns the candidates that meet the conditions, newest first.
async fn check(
    connection: &Connection,
    filter: &Filter,
    batch: &[Candidate],
) -> Result<Vec<i64>, Fault> {
    let seqs = |meets: Option<bool>| {
        let of = batch.iter().filter(move |candidate| candidate.meets == meets);
        of.map(|candidate| candidate.seq)
    };
    let mut found: Vec<i64> = seqs(Some(true)).collect();
    let unchecked: Vec<i64> = seqs(None).collect();
    if !unchecked.is_empty() {
        let rows =
            partitions::query_by_day(connection, &unchecked, |seqs| checked(filter, seqs)).await?;
        for row in &rows {
            found.push(get(row, 0)?);
        }
        found.sort_unstable_by_key(|seq| std::cmp::Reverse(*seq));
    }
    Ok(found)
}

pub(super) fn checked(filter: &Filter, seqs: &[i64]) -> Statement {
    let mut statement = Statement::of(CHECKED, seqs);
    meets_filter(&mut statement, filter, None);
    statement.text += " ORDER BY m.seq DESC";
    statement
}

/// Adds the condition that the message `m` meets a filter. With `state`, the delivery that the filter asks for must be
/// in that state.
pub(super) fn meets_filter(
    statement: &mut Statement,
    filter: &Filter,
    state: Option<DeliveryState>,
) {
    message_meets_filter(statement, filter);
    statement.has_delivery(filter.subscription.as_deref(), filter.reason, state);
}

/// Adds the condition that the message `m` itself meets a filter, whatever its deliveries.
fn message_meets_filter(statement: &mut Statement, filter: &Filter) {
    statement.is_about(&filter.persons);
    columns_meet_filter(statement, filter);
    if let Some(state) = filter.state {
        statement.is_in_state(state);
    }
    if filter.is_held {
        statement.is_held();
    }
}

/// Returns the latest failures, grouped by cause.
pub(super) async fn failures(
    connection: &Connection,
    filter: &Filter,
) -> Result<FailureGroups, Fault> {
    failures_bounded(connection, filter, READ_MAX).await
}

pub(super) async fn failures_bounded(
    connection: &Connection,
    filter: &Filter,
    read_max: usize,
) -> Result<FailureGroups, Fault> {
    let mut candidates = Candidates::of_failures(connection, filter).await?;
    let mut groups = Groups::default();
    let (mut read, mut left) = (0, read_max);
    let is_complete = loop {
        let asked = READ_AT_ONCE.min(left);
        let batch = candidates.take(asked).await?;
        if !batch.is_empty() {
            let seqs: Vec<i64> = batch.iter().map(|candidate| candidate.seq).collect();
            let of_part = |seqs: &[i64]| failures_of(filter, seqs);
            for row in partitions::query_by_day(connection, &seqs, of_part).await? {
                read += 1;
                if get(&row, 7)? {
                    groups.add(failure(&row)?);
                }
            }
        }
        left -= batch.len();
        if batch.len() < asked {
            break true;
        }
        if left == 0 {
            break candidates.take(1).await?.is_empty();
        }
    };
    Ok(FailureGroups { groups: groups.into_sorted(), read, is_complete })
}

pub(super) fn failures_of(filter: &Filter, seqs: &[i64]) -> Statement {
    let mut statement = Statement::of(FAILURES[0], seqs);
    let reason = filter.reason.map(|reason| Value::text(reason.as_str()));
    statement.compare("d.reason =", reason);
    statement.compare("d.subscription =", filter.subscription.as_deref().map(Value::text));
    message_meets_filter(&mut statement, filter);
    statement.text += FAILURES[1];
    statement
}

/// Reads a row of [`FAILURES`] as a group of one.
fn failure(row: &Row) -> Result<FailureGroup, Fault> {
    let subscription: String = get(row, 3)?;
    let reason: Option<&str> = get(row, 4)?;
    let detail: Option<&str> = get(row, 5)?;
    let at = from_ms(get(row, 6)?);
    Ok(FailureGroup {
        destination: get(row, 2)?,
        subscription: Some(subscription).filter(|name| !name.is_empty()),
        reason: reason.and_then(FailureReason::parse).unwrap_or(FailureReason::Unknown),
        cause: cause(detail.unwrap_or_default()),
        deliveries: 1,
        first_at: at,
        last_at: at,
        example: get(row, 1)?,
        example_seq: Seq(get(row, 0)?),
    })
}

/// Returns counts by interval. Stages that this release does not know are left out.
pub(super) async fn tallies(
    connection: &Connection,
    step: TallyStep,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<Tally>, Fault> {
    let step = i32::try_from(step.ms()).unwrap_or(i32::MAX);
    let (from, to) = (to_ms(from), to_ms(to));
    let mut tallies = Vec::new();
    for row in connection.query(TALLIES, params![step, from, to]).await? {
        let Some(stage) = Stage::parse(get(&row, 1)?) else { continue };
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        tallies.push(Tally {
            at: from_ms(get(&row, 0)?),
            stage,
            destination: get(&row, 2)?,
            source: get(&row, 3)?,
            subscription: filled(get(&row, 4)?),
            reason: filled(get(&row, 5)?),
            count: u64::try_from(get::<i64>(&row, 6)?).unwrap_or(0),
        });
    }
    Ok(tallies)
}

/// Returns the names of events, last seen first.
pub(super) async fn event_names(
    connection: &Connection,
    source: Option<&str>,
) -> Result<Vec<EventName>, Fault> {
    let source = source.map(text);
    let rows = connection.query(EVENT_NAMES, params![source]).await?;
    let name = |row: &Row| {
        Ok(EventName {
            source: get(row, 0)?,
            name: get(row, 1)?,
            first_seen_at: from_ms(get(row, 2)?),
            last_seen_at: from_ms(get(row, 3)?),
        })
    };
    rows.iter().map(name).collect()
}
