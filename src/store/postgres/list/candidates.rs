//! Finds the messages to check against a filter. The index of the filter's most selective condition yields them, newest
//! first.
//!
//! Partitions are read a few days at a time, newest first, so that a page that one day fills does not touch the others.
//! Each round reads twice as many days, at most [`DAYS_AT_ONCE`], so that an unknown person costs only a few
//! statements.
//!
//! Each statement runs in its own transaction, so that the server need not hold the locks of all partitions at once.
//! Messages that are finished, replayed or purged meanwhile may be missing, or shown in their new state.

use std::borrow::Cow;
use std::collections::VecDeque;

use tokio_postgres::Row;

use super::super::connection::Connection;
use super::super::params::Param;
use super::super::partitions::{self, DAYS_AHEAD, DAYS_AT_ONCE, Day};
use super::super::rows::{get, to_ms};
use super::super::statement::{self, Order, Statement, Value};
use super::columns::columns_meet_filter;
use crate::queue::{FailureReason, Filter, MessageState, Seq, event_name};
use crate::store::postgres::error::Fault;
use crate::store::postgres::numbers::{SLACK_MS, first_at};

// In all statements: $1 before, $2 from this sequence number on, $3 limit, $4 the value to look for.

/// The newest messages, and whether each meets the conditions on its own columns, which are inserted in between. The
/// row alone decides them.
const NEWEST: [&str; 2] = [
    "SELECT m.seq, COALESCE(true",
    ", false) FROM @messages m WHERE m.seq < $1 AND m.seq >= $2 ORDER BY m.seq DESC LIMIT $3",
];

/// $4 name of the event.
pub(in crate::store::postgres) const OF_EVENT: &str = "
    SELECT seq FROM @messages WHERE seq < $1 AND seq >= $2 AND event = $4
    ORDER BY seq DESC LIMIT $3";

pub(in crate::store::postgres) const DONE: &str =
    "SELECT seq FROM @outcomes WHERE seq < $1 AND seq >= $2 ORDER BY seq DESC LIMIT $3";

pub(in crate::store::postgres) const FAILED: &str = "
    SELECT seq FROM @outcomes WHERE seq < $1 AND seq >= $2 AND is_failed ORDER BY seq DESC LIMIT $3";

/// Messages with a failed delivery, whether they are done or not.
pub(in crate::store::postgres) const WITH_FAILURE: &str = "
    SELECT DISTINCT seq FROM @deliveries
    WHERE seq < $1 AND seq >= $2 AND state = 'failed' AND NOT is_superseded
    ORDER BY seq DESC LIMIT $3";

/// $4 reason.
pub(in crate::store::postgres) const FAILED_FOR: &str = "
    SELECT DISTINCT seq FROM @deliveries
    WHERE seq < $1 AND seq >= $2 AND state = 'failed' AND NOT is_superseded AND reason = $4
    ORDER BY seq DESC LIMIT $3";

/// $4 subscription.
pub(in crate::store::postgres) const OF_SUBSCRIPTION: &str = "
    SELECT DISTINCT seq FROM @deliveries WHERE seq < $1 AND seq >= $2 AND subscription = $4
    ORDER BY seq DESC LIMIT $3";

pub(in crate::store::postgres) const UNMATCHED: &str = "
    SELECT seq FROM @outcomes WHERE seq < $1 AND seq >= $2 AND unmatched IS NOT NULL
    ORDER BY seq DESC LIMIT $3";

pub(in crate::store::postgres) const PENDING: &str =
    "SELECT seq FROM @pending WHERE seq < $1 AND seq >= $2 ORDER BY seq DESC LIMIT $3";

/// $4 destination. Returns the newest messages of each class.
pub(in crate::store::postgres) const PENDING_OF: &str = "
    (SELECT seq FROM @pending WHERE destination = $4 AND class = 0 AND seq < $1 AND seq >= $2
     ORDER BY seq DESC LIMIT $3)
    UNION ALL
    (SELECT seq FROM @pending WHERE destination = $4 AND class = 1 AND seq < $1 AND seq >= $2
     ORDER BY seq DESC LIMIT $3)
    UNION ALL
    (SELECT seq FROM @pending WHERE destination = $4 AND class = 2 AND seq < $1 AND seq >= $2
     ORDER BY seq DESC LIMIT $3)";

pub(in crate::store::postgres) const HELD: &str =
    "SELECT seq FROM @held WHERE seq < $1 AND seq >= $2 ORDER BY seq DESC LIMIT $3";

/// $4 destination.
pub(in crate::store::postgres) const HELD_OF: &str = "
    SELECT seq FROM @held WHERE seq < $1 AND seq >= $2 AND destination = $4
    ORDER BY seq DESC LIMIT $3";

pub(in crate::store::postgres) const REPLAYED: &str =
    "SELECT seq FROM @replays WHERE seq < $1 AND seq >= $2 ORDER BY seq DESC LIMIT $3";

/// Persons with fewer messages than this in a span are looked up without an order, which is faster to plan.
const FEW: i64 = if cfg!(test) { 3 } else { 500 };

/// A message that may meet a filter. Ordered by sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) seq: i64,
    /// Whether it meets the filter; `None` if that still has to be checked.
    pub(super) meets: Option<bool>,
}

/// A superset of the messages that meet the filter, newest first.
pub(super) struct Candidates<'a> {
    connection: &'a Connection,
    source: Source,
    /// The spans that are not read completely yet, newest first.
    spans: VecDeque<Span>,
    /// The span of replayed messages behind all other spans: they keep the time when they were received, but not their
    /// number. `None` unless the filter has an end.
    replayed: Option<Span>,
    /// How many spans to read at once.
    at_once: usize,
    /// All candidates from this number up have been returned.
    before: i64,
}

/// A statement that yields candidates.
struct Source {
    text: Cow<'static, str>,
    of: Vec<Value>,
    /// Whether it reads partitions, and so runs by day.
    is_by_day: bool,
    /// The persons whose messages it finds, if it looks for persons.
    persons: Option<Value>,
    /// Whether each row says if it meets the filter.
    checks: bool,
}

/// A half-open range of sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first: i64,
    end: i64,
}

impl<'a> Candidates<'a> {
    /// Returns candidates for messages that meet a filter.
    pub(super) async fn of_messages(
        connection: &'a Connection,
        filter: &Filter,
        before: Option<Seq>,
    ) -> Result<Self, Fault> {
        let source = if !filter.persons.is_empty() {
            of_persons(filter)
        } else if filter.is_held {
            match &filter.destination {
                Some(destination) => Source::whole_of(HELD_OF, Value::text(destination)),
                None => Source::whole(HELD),
            }
        } else if let Some(event) = &filter.event {
            Source::by_day(OF_EVENT, vec![Value::text(event_name(event))])
        } else if let Some(reason) = filter.reason {
            failed_for(reason)
        } else if filter.state != Some(MessageState::Failed)
            && let Some(name) = &filter.subscription
        {
            Source::by_day(OF_SUBSCRIPTION, vec![Value::text(name)])
        } else {
            match (filter.state, &filter.destination) {
                (Some(MessageState::Failed), _) => Source::by_day(FAILED, vec![]),
                (Some(MessageState::Unmatched), _) => Source::by_day(UNMATCHED, vec![]),
                (Some(MessageState::Pending), Some(destination)) => {
                    Source::whole_of(PENDING_OF, Value::text(destination))
                }
                (Some(MessageState::Pending), None) => Source::whole(PENDING),
                // With a long queue, the newest messages are all pending.
                (Some(MessageState::Delivered | MessageState::Shadowed), _) => {
                    Source::by_day(DONE, vec![])
                }
                // All other conditions are on columns of the message.
                (None, _) => {
                    let (text, of) = newest(filter);
                    Source { text: text.into(), checks: true, ..Source::by_day("", of) }
                }
            }
        };
        let before = before.map_or(i64::MAX, |seq| seq.0);
        Self::of(connection, source, filter, before).await
    }

    /// Returns candidates for messages that meet a filter and have a failed delivery.
    pub(super) async fn of_failures(
        connection: &'a Connection,
        filter: &Filter,
    ) -> Result<Self, Fault> {
        let source = if !filter.persons.is_empty() {
            of_persons(filter)
        } else if let Some(reason) = filter.reason {
            failed_for(reason)
        } else {
            Source::by_day(WITH_FAILURE, vec![])
        };
        Self::of(connection, source, filter, i64::MAX).await
    }

    async fn of(
        connection: &'a Connection,
        source: Source,
        filter: &Filter,
        before: i64,
    ) -> Result<Self, Fault> {
        let days = partitions::days(connection).await?;
        let mut spans = spans(&days, filter);
        // A person has few messages, so the end is not worth looking up.
        let has_end = filter.to.is_some() && filter.persons.is_empty();
        let replayed = has_end.then(|| {
            let first = spans.front().map_or(0, |newest| newest.end);
            Span { first, end: i64::MAX }
        });
        if !source.is_by_day
            && let (Some(newest), Some(oldest)) = (spans.front(), spans.back())
        {
            spans = VecDeque::from([Span { first: oldest.first, end: newest.end }]);
        }
        // Usually, no message has a number of the coming days, so read them together with today.
        let at_once = DAYS_AHEAD as usize + 1;
        Ok(Self { connection, source, spans, replayed, at_once, before })
    }

    /// Returns the next candidates. Fewer than the limit means that no more follow.
    pub(super) async fn take(&mut self, limit: usize) -> Result<Vec<Candidate>, Fault> {
        let mut found: Vec<Candidate> = Vec::new();
        while let Some(span) = self.replayed.filter(|_| found.len() < limit) {
            let left = limit - found.len();
            let replayed = Source::whole(REPLAYED);
            let part = self.newest(&replayed, span, left).await?;
            if part.len() < left {
                self.replayed = None;
            }
            self.add(&mut found, part);
        }
        while found.len() < limit && !self.spans.is_empty() {
            let count = self.at_once.min(self.spans.len());
            let (Some(newest), Some(oldest)) = (self.spans.front(), self.spans.get(count - 1))
            else {
                break;
            };
            let span = Span { first: oldest.first, end: newest.end };
            let left = limit - found.len();
            let part = self.newest(&self.source, span, left).await?;
            if part.len() < left {
                self.spans.drain(..count);
                self.at_once = (self.at_once * 2).min(DAYS_AT_ONCE);
            }
            self.add(&mut found, part);
        }
        Ok(found)
    }

    fn add(&mut self, found: &mut Vec<Candidate>, part: Vec<Candidate>) {
        if let Some(last) = part.last() {
            self.before = last.seq;
        }
        found.extend(part);
    }

    /// Returns all messages of a span, unordered, if the source looks for persons and there are few messages.
    async fn few(
        &self,
        source: &Source,
        before: i64,
        first: i64,
    ) -> Result<Option<Vec<Candidate>>, Fault> {
        let Some(persons) = &source.persons else { return Ok(None) };
        let bounds = [before, first, FEW].map(Value::Number);
        let params: Vec<Param<'_>> = bounds.iter().chain([persons]).map(Value::as_param).collect();
        let rows = self.connection.query(statement::ABOUT_ANY, &params).await?;
        if i64::try_from(rows.len()).unwrap_or(i64::MAX) >= FEW {
            return Ok(None);
        }
        rows.iter().map(|row| source.candidate(row)).collect::<Result<_, _>>().map(Some)
    }

    /// Returns the newest messages of a span, each once.
    async fn newest(
        &self,
        source: &Source,
        span: Span,
        limit: usize,
    ) -> Result<Vec<Candidate>, Fault> {
        let (before, first) = (self.before.min(span.end), span.first);
        if before <= first {
            return Ok(Vec::new());
        }
        let mut found = match self.few(source, before, first).await? {
            Some(found) => found,
            None => {
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let bounds = [before, first, limit].map(Value::Number);
                let params: Vec<Param<'_>> =
                    bounds.iter().chain(&source.of).map(Value::as_param).collect();
                let rows = self.connection.query(&source.text, &params).await?;
                rows.iter().map(|row| source.candidate(row)).collect::<Result<Vec<_>, _>>()?
            }
        };
        found.sort_unstable_by_key(|candidate| std::cmp::Reverse(*candidate));
        found.dedup();
        found.truncate(limit);
        Ok(found)
    }
}

impl Source {
    fn by_day(text: &'static str, of: Vec<Value>) -> Self {
        Self { text: text.into(), of, is_by_day: true, persons: None, checks: false }
    }

    fn candidate(&self, row: &Row) -> Result<Candidate, Fault> {
        let meets = if self.checks { Some(get(row, 1)?) } else { None };
        Ok(Candidate { seq: get(row, 0)?, meets })
    }

    fn whole(text: &'static str) -> Self {
        Self { is_by_day: false, ..Self::by_day(text, Vec::new()) }
    }

    fn whole_of(text: &'static str, of: Value) -> Self {
        Self { is_by_day: false, ..Self::by_day(text, vec![of]) }
    }
}

fn of_persons(filter: &Filter) -> Source {
    let of = filter.persons.iter().map(|person| Value::Number(person.0)).collect();
    Source {
        text: statement::of_persons(Order::NewestFirst, filter.persons.len()).into(),
        of,
        is_by_day: true,
        persons: Some(Value::persons(&filter.persons)),
        checks: false,
    }
}

/// Returns the text of [`NEWEST`] for a filter, and its parameters after the first three.
pub(in crate::store::postgres) fn newest(filter: &Filter) -> (String, Vec<Value>) {
    let mut statement = Statement::with(NEWEST[0], vec![Value::Number(0); 3]);
    columns_meet_filter(&mut statement, filter);
    statement.text += NEWEST[1];
    let of = statement.values.split_off(3);
    (statement.text, of)
}

fn failed_for(reason: FailureReason) -> Source {
    Source::by_day(FAILED_FOR, vec![Value::text(reason.as_str())])
}

/// Returns the number ranges of messages received in the filter's time, by day, newest first.
fn spans(days: &[Day], filter: &Filter) -> VecDeque<Span> {
    let to = filter.to.filter(|_| filter.persons.is_empty());
    let of_day = |day: &Day| {
        let slack_ms = day.slack_ms.max(SLACK_MS);
        let (mut first, mut end) = (day.first(), day.end());
        if let Some(from) = filter.from {
            first = first.max(first_at(to_ms(from).saturating_sub(slack_ms)));
        }
        if let Some(to) = to {
            // The end of the second.
            end = end.min(first_at(to_ms(to).saturating_add(slack_ms).saturating_add(1_000)));
        }
        (first < end).then_some(Span { first, end })
    };
    days.iter().rev().filter(|day| day.has_records).filter_map(of_day).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::suite::at;
    use crate::store::postgres::numbers::{day_at, first_of_day};

    #[test]
    fn a_time_is_a_few_spans_of_numbers() {
        let today = day_at(to_ms(at(0)));
        // The clock of a process was an hour off on the day before.
        let day = |day, slack_ms| Day {
            day,
            has_payloads: true,
            has_records: true,
            kept_through: 0,
            stripped_through: 0,
            slack_ms,
        };
        let days = [day(today - 1, 3_600_000), day(today, 0), day(today + 1, 0)];
        let whole = |day| Span { first: first_of_day(day), end: first_of_day(day + 1) };
        let of = |from: Option<i64>, to: Option<i64>| {
            let filter = Filter { from: from.map(at), to: to.map(at), ..Filter::default() };
            Vec::from(spans(&days, &filter))
        };
        assert_eq!(of(None, None), [whole(today + 1), whole(today), whole(today - 1)]);
        let near = |ms: i64| first_at(to_ms(at(ms)));
        let from_now = Span { first: near(-60_000), ..whole(today) };
        assert_eq!(of(Some(0), None), [whole(today + 1), from_now]);
        let to_now = Span { end: near(61_000), ..whole(today) };
        assert_eq!(of(None, Some(0)), [to_now, whole(today - 1)]);
        // The midnight before.
        let midnight = -80_000_000;
        let late = Span { first: near(midnight - 3_600_000), ..whole(today - 1) };
        assert_eq!(of(Some(midnight), Some(0)), [to_now, late]);
    }
}
