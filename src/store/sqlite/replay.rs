//! Replays messages. Readers find messages that are done, one stretch of the order at a time, and the writer makes them
//! pending again, a bounded number per transaction.

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};

use super::accept::next_seqs;
use super::awaiting;
use super::error::Fault;
use super::group::{Effects, Step};
use super::list;
use super::purge::{DELETE_MESSAGE, DELETE_REPLAY};
use super::recent::sorted_through;
use super::rows::to_ms;
use crate::queue::{
    Class, DeliveryState, REVIVED, ReplayAsk, ReplayPosition, ReplayState, Selection, Seq, Stage,
    event_name,
};
use crate::segment::{Digests, MessageHash};
use crate::store::replay::{Found, Selected};
use crate::store::tally::Counted;

pub(super) const LAST_SEQ: &str = "SELECT value FROM meta WHERE name = 'last_seq'";

/// Whether the message `m` may be replayed. It must have contents. No deletion of its person that was accepted with or
/// after it may have been delivered, and none that was accepted after it may be pending or have contents left to erase:
/// the replay would tell Loops about that person again.
macro_rules! is_replayable {
    () => {
        "(m.has_contents = 1 AND NOT EXISTS (
            SELECT 1 FROM deletions e
            WHERE e.lane = m.lane AND e.destination = m.destination
              AND e.accepted >= COALESCE((SELECT first_seq FROM replays f WHERE f.seq = m.seq), m.seq)
         ) AND NOT EXISTS (
            SELECT 1 FROM messages e
            WHERE e.kind = 'delete' AND e.lane = m.lane AND e.destination = m.destination
              AND e.seq >= m.seq
              AND (e.state = 0
                   AND COALESCE((SELECT first_seq FROM replays f WHERE f.seq = e.seq), e.seq)
                       > COALESCE((SELECT first_seq FROM replays f WHERE f.seq = m.seq), m.seq)
                   OR EXISTS (SELECT 1 FROM erasures x WHERE x.seq = e.seq))))"
    };
}

/// Messages that are done, by their position in the order of acceptance: the sequence number of a message that was
/// never replayed, and the first number of one that was. Conditions on `m` are added to both branches, and to each
/// branch the conditions on its position.
const BRANCHES: [(&str, &str); 2] = [
    (
        concat!(
            "SELECT m.seq, m.seq AS accepted, m.payload_bytes, ",
            is_replayable!(),
            " AS is_replayable FROM messages m
     WHERE m.state = 1 AND NOT EXISTS (SELECT 1 FROM replays p WHERE p.seq = m.seq)"
        ),
        "m.seq",
    ),
    (
        concat!(
            " UNION ALL
     SELECT m.seq, p.first_seq AS accepted, m.payload_bytes, ",
            is_replayable!(),
            " AS is_replayable
     FROM replays p JOIN messages m ON m.seq = p.seq WHERE m.state = 1"
        ),
        "p.first_seq",
    ),
];

// In these, the plus keeps the planner from the index of messages that ended well.
const IS_UNMATCHED: &str = " AND +m.is_failed = 0 AND NOT EXISTS (
    SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.is_superseded = 0)";
const IS_DELIVERED: &str = " AND +m.is_failed = 0 AND EXISTS (
    SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.is_superseded = 0) AND NOT EXISTS (
    SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.is_superseded = 0 AND d.state = 'shadowed')";
/// Whether a delivery was shadowed, whatever became of the others.
const HAS_SHADOWED: &str = " AND EXISTS (
    SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.is_superseded = 0 AND d.state = 'shadowed')";

/// ?1 old seq, ?2 new seq, ?3 class. Inserts the message again at the end of the order, as pending.
pub(super) const INSERT: &str = concat!(
    "INSERT INTO messages (seq, class, message_hash, lane, anonymous, email, received_at, event_id, kind,
                          source, destination, message_id, payload_bytes, warnings)
    SELECT ?2, ?3, m.message_hash, m.lane, m.anonymous, m.email, m.received_at, m.event_id, m.kind,
           m.source, m.destination, m.message_id, m.payload_bytes, m.warnings
    FROM messages m WHERE m.seq = ?1 AND m.state = 1 AND ",
    is_replayable!(),
    " RETURNING destination, source"
);
/// ?1 old seq, ?2 new seq.
pub(super) const MOVE_PAYLOAD: &str = "UPDATE payloads SET seq = ?2 WHERE seq = ?1";
/// ?1 old seq, ?2 new seq, ?3 the only subscription.
pub(super) const NUMBER: &str = "
    INSERT INTO replays (seq, number, first_seq, only_subscription) VALUES (?2,
        COALESCE((SELECT number FROM replays WHERE seq = ?1), 0) + 1,
        COALESCE((SELECT first_seq FROM replays WHERE seq = ?1), ?1), ?3)";
/// ?1 seq, ?2 the only state, or NULL, ?3 the only subscription, ?4 list of the only ones that are made again, or NULL,
/// ?5 a note for the details.
pub(super) const SUPERSEDE: &str = "
    UPDATE deliveries SET is_superseded = 1, detail = detail || ?5
    WHERE seq = ?1 AND is_superseded = 0 AND (?2 IS NULL OR state = ?2)
      AND (?3 IS NULL OR subscription = ?3)
      AND (?4 IS NULL OR subscription IN (SELECT value FROM json_each(?4)))";
/// ?1 old seq, ?2 new seq.
pub(super) const MOVE_DELIVERIES: &str = "UPDATE deliveries SET seq = ?2 WHERE seq = ?1";

/// How many positions one call of [`find`] covers if no index finds the selected messages.
const STRETCH: i64 = if cfg!(test) { 500 } else { 2_000 };

/// ?1 after this number, ?2 up to this one, ?3 how many. Returns the last number of that many failed messages.
pub(super) const FAILED_THROUGH: &str = "
    SELECT seq FROM messages WHERE is_failed = 1 AND seq > ?1 AND seq <= ?2
    ORDER BY seq LIMIT 1 OFFSET ?3 - 1";
/// ?1 after this position, ?2 up to this one, ?3 how many. Returns the last position of that many replayed messages.
pub(super) const REPLAYED_THROUGH: &str = "
    SELECT first_seq FROM replays WHERE first_seq > ?1 AND first_seq <= ?2
    ORDER BY first_seq LIMIT 1 OFFSET ?3 - 1";

pub(super) fn find(
    snapshot: &Connection,
    ask: &ReplayAsk,
    digests: &Digests,
) -> Result<Found, Fault> {
    let position = match ask.position {
        Some(position) => position,
        None => {
            let last = snapshot.prepare_cached(LAST_SEQ)?.query_row([], |row| row.get(0))?;
            ReplayPosition { after: Seq::default(), until: Seq(last) }
        }
    };
    let until = position.until.0;
    let Selection { message_ids, filter, .. } = &ask.selection;
    // A replayed message still has its first position, which matches the time when it was received.
    let (first, end) = list::range(snapshot, filter)?;
    let (after, end) = (position.after.0.max(first - 1), until.min(end - 1));
    let message_ids: Vec<_> = message_ids.iter().map(|id| digests.message_id(id)).collect();
    let last = if is_indexed(&ask.selection) {
        end
    } else if ask.selection.state == ReplayState::Failed {
        let through = |text| -> Result<i64, Fault> {
            let mut statement = snapshot.prepare_cached(text)?;
            let found = statement.query_row([after, end, STRETCH], |row| row.get(0)).optional()?;
            Ok(found.unwrap_or(end))
        };
        through(FAILED_THROUGH)?.min(through(REPLAYED_THROUGH)?)
    } else {
        end.min(after.saturating_add(STRETCH))
    };
    let (text, values) = statement(&ask.selection, &message_ids, after, last, until);
    let messages: Vec<Selected> = snapshot
        .prepare(&text)?
        .query_map(params_from_iter(values), |row| {
            Ok(Selected {
                seq: Seq(row.get(0)?),
                accepted: Seq(row.get(1)?),
                payload_bytes: row.get::<_, i64>(2)?.unsigned_abs(),
                is_replayable: row.get(3)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    let is_cut = messages.len() as i64 == STRETCH;
    let seen = match messages.last() {
        Some(message) if is_cut => message.accepted,
        _ => Seq(last),
    };
    let until = position.until;
    let next = (seen.0 < end).then_some(ReplayPosition { after: seen, until });
    Ok(Found { messages, until, next })
}

/// Whether an index finds the selected messages, however far apart they are: by person or by message id.
fn is_indexed(selection: &Selection) -> bool {
    !selection.filter.persons.is_empty() || !selection.message_ids.is_empty()
}

/// The parameters of a statement.
#[derive(Default)]
struct Parameters(Vec<Value>);

impl Parameters {
    /// Adds a value; returns its name in the statement.
    fn add(&mut self, value: impl Into<Value>) -> String {
        self.0.push(value.into());
        format!("?{}", self.0.len())
    }

    /// Adds values; returns a list of their names.
    fn add_all(&mut self, values: impl IntoIterator<Item = impl Into<Value>>) -> String {
        let names: Vec<String> = values.into_iter().map(|value| self.add(value)).collect();
        names.join(", ")
    }
}

/// Finds the selected messages between two positions in the order of acceptance, of a replay that ends at `until`.
/// `message_ids` are the digests of the selection's message ids. Whatever the selection, the text has only names of
/// columns and parameters.
pub(super) fn statement(
    selection: &Selection,
    message_ids: &[MessageHash],
    after: i64,
    last: i64,
    until: i64,
) -> (String, Vec<Value>) {
    let mut parameters = Parameters::default();
    let (after, last) = (parameters.add(after), parameters.add(last));
    let conditions = conditions(selection, message_ids, &after, &mut parameters);
    let mut text = String::new();
    for (branch, position) in BRANCHES {
        text += branch;
        text += match selection.state {
            // A stretch has few failed messages: the index of all failed messages finds them.
            ReplayState::Failed if position == "m.seq" && !is_indexed(selection) => {
                " AND m.is_failed = 1"
            }
            // The plus keeps the planner from that index.
            ReplayState::Failed => " AND +m.is_failed = 1",
            ReplayState::Unmatched => IS_UNMATCHED,
            ReplayState::Delivered => IS_DELIVERED,
            ReplayState::Shadowed => HAS_SHADOWED,
            ReplayState::All => "",
        };
        text += &conditions;
        // Added in each branch, where the planner sees the matching index.
        text += &format!(" AND {position} > {after} AND {position} <= {last}");
    }
    // Excludes messages replayed since this replay began. The plus keeps the planner from reading by number.
    let until = parameters.add(until);
    text += &format!(" AND +m.seq <= {until}");
    text += &format!(" ORDER BY accepted LIMIT {STRETCH}");
    (text, parameters.0)
}

/// Returns the conditions of a selection on the message `m`, except its state.
fn conditions(
    selection: &Selection,
    message_ids: &[MessageHash],
    after: &str,
    parameters: &mut Parameters,
) -> String {
    const SORTED_THROUGH: &str = sorted_through!();
    let mut text = String::new();
    let filter = &selection.filter;
    if !filter.persons.is_empty() {
        let persons = parameters.add_all(filter.persons.iter().map(|person| person.0));
        // The sequence number of a replayed message is greater than its position, so `after` bounds both.
        text += &format!(
            " AND m.seq IN (
                SELECT seq FROM persons WHERE person IN ({persons}) AND seq > {after}
                UNION ALL
                SELECT seq FROM messages WHERE seq > MAX({after}, {SORTED_THROUGH})
                  AND (lane IN ({persons}) OR anonymous IN ({persons}) OR email IN ({persons})))"
        );
    }
    if !selection.message_ids.is_empty() {
        let hashes = parameters.add_all(message_ids.iter().map(|hash| hash.0));
        let ids = parameters.add_all(selection.message_ids.iter().cloned());
        text += &format!(
            " AND m.seq IN (
                SELECT seq FROM message_ids WHERE message_hash IN ({hashes}) AND seq > {after}
                UNION ALL
                SELECT seq FROM messages WHERE seq > MAX({after}, {SORTED_THROUGH})
                  AND message_hash IN ({hashes}))
              AND m.message_id IN ({ids})"
        );
    }
    let mut compare = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            text += &format!(" AND {condition} {}", parameters.add(value));
        }
    };
    compare("m.destination =", filter.destination.clone().map(Value::from));
    compare("m.source =", filter.source.clone().map(Value::from));
    compare("m.kind =", filter.kind.map(|kind| kind.as_str().to_owned().into()));
    compare("m.received_at >=", filter.from.map(|from| to_ms(from).into()));
    compare("m.received_at <", filter.to.map(|to| to_ms(to).into()));
    if let Some(event) = &filter.event {
        let event = parameters.add(event_name(event).to_owned());
        // The plus keeps the planner from the index of all messages of the event, which each stretch would read.
        text += &format!(
            " AND +m.event_id IN (SELECT id FROM event_names n WHERE n.source = m.source AND n.name = {event})"
        );
    }
    if filter.reason.is_some() || filter.subscription.is_some() {
        text +=
            " AND EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.is_superseded = 0";
        if let Some(only) = selection.state.only() {
            text += &format!(" AND d.state = '{}'", only.as_str());
        }
        if let Some(reason) = filter.reason {
            text += &format!(" AND d.reason = {}", parameters.add(reason.as_str().to_owned()));
        }
        if let Some(subscription) = &filter.subscription {
            text += &format!(" AND d.subscription = {}", parameters.add(subscription.clone()));
        }
        text += ")";
    }
    text
}

/// Makes messages pending again; returns how many. A message that is no longer done, or has lost its contents in the
/// meantime, stays unchanged.
pub(super) struct Requeue {
    pub(super) seqs: Vec<Seq>,
    /// Only deliveries in this state are made again; the others stand. `None` means all.
    pub(super) only: Option<DeliveryState>,
    pub(super) subscription: Option<String>,
    /// The only subscriptions whose deliveries are made again, as JSON; `None` means all.
    pub(super) again: Option<String>,
    /// Whether the replay is automatic, because the contacts have appeared.
    pub(super) is_revival: bool,
    pub(super) now: Timestamp,
}

impl Step for Requeue {
    type Output = u64;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<u64, Fault> {
        // The number of a message that stays unchanged is not used.
        let first = next_seqs(transaction, self.seqs.len())?;
        let mut replayed = 0;
        for (new, Seq(old)) in (first..).zip(&self.seqs) {
            replayed += u64::from(self.requeue(transaction, *old, new, effects)?);
        }
        effects.has_arrived |= replayed > 0;
        Ok(replayed)
    }
}

impl Requeue {
    /// Whether the message became pending again.
    fn requeue(
        &self,
        transaction: &Connection,
        old: i64,
        new: i64,
        effects: &mut Effects,
    ) -> Result<bool, Fault> {
        transaction.prepare_cached(awaiting::END)?.execute(params![old, self.subscription])?;
        // Bulk, whatever its class was: a replay must not delay messages that a person waits for.
        let class = if self.is_revival { Class::Event } else { Class::Bulk };
        let inserted = transaction
            .prepare_cached(INSERT)?
            .query_row(params![old, new, class.code()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((destination, source)): Option<(String, String)> = inserted else {
            return Ok(false);
        };
        let execute = |text, parameters: &[&dyn rusqlite::ToSql]| -> Result<(), Fault> {
            transaction.prepare_cached(text)?.execute(parameters)?;
            Ok(())
        };
        // The payload goes first: it would be deleted with the old row.
        execute(MOVE_PAYLOAD, params![old, new])?;
        execute(NUMBER, params![old, new, self.subscription])?;
        let note = if self.is_revival { REVIVED } else { "" };
        let only = self.only.map(DeliveryState::as_str);
        let of = params![old, only, self.subscription, self.again, note];
        execute(SUPERSEDE, of)?;
        execute(MOVE_DELIVERIES, params![old, new])?;
        execute(awaiting::MOVE, params![old, new])?;
        execute(DELETE_REPLAY, params![old])?;
        execute(DELETE_MESSAGE, params![old])?;
        effects.tallies.add(self.now, Counted::new(Stage::Replayed, &destination, &source), 1);
        Ok(true)
    }
}
