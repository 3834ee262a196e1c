//! The daily limit of new contacts, and the messages that it holds back.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::contacts;
use super::deliveries::{CarriedBy, FREE_POSITION, SET_ASIDE_MESSAGE, insert_delivery};
use super::error::Fault;
use super::group::{Effects, Step};
use super::rows::{from_ms, to_ms};
use crate::queue::{
    ContactCap, Creation, DISCARD_MAX, Held, Hold, HoldReason, HoldsAnswer, HoldsAsk, KnownContact,
    MessageRecord, NewDelivery, NewOutcome, Seq, Stage, day_of,
};
use crate::segment::LaneKey;
use crate::store::new_contacts::{discarded, room};
use crate::store::tally::{Counted, Tallies};

/// ?1 destination, ?2 key. Returns a row if a frozen request may create the contact.
pub(super) const EXPECTED: &str =
    "SELECT 1 FROM creating WHERE destination = ?1 AND contact = ?2 LIMIT 1";
/// ?1 destination. Returns how many contacts frozen requests may create.
pub(super) const COUNT_EXPECTED: &str =
    "SELECT COUNT(DISTINCT contact) FROM creating WHERE destination = ?1";
/// ?1 step, ?2 from, ?3 to, ?4 stage, ?5 destination.
pub(super) const COUNT_CREATED: &str = "
    SELECT COALESCE(SUM(count), 0) FROM tallies
    WHERE step = ?1 AND at >= ?2 AND at < ?3 AND stage = ?4 AND destination = ?5";
/// ?1 destination, ?2 day.
pub(super) const DAY: &str =
    "SELECT released, discarded FROM new_contact_days WHERE destination = ?1 AND day = ?2";
/// ?1 day.
pub(super) const TODAY: &str =
    "SELECT destination, released, discarded FROM new_contact_days WHERE day = ?1";
/// ?1 destination, ?2 day, ?3 released, ?4 discarded.
pub(super) const ADD: &str = "
    INSERT INTO new_contact_days (destination, day, released, discarded) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (destination, day) DO UPDATE SET
        released = released + excluded.released, discarded = discarded + excluded.discarded";
/// ?1 before this day, ?2 limit.
pub(super) const PAST: &str = "
    DELETE FROM new_contact_days WHERE (destination, day) IN (
        SELECT destination, day FROM new_contact_days WHERE day < ?1 LIMIT ?2)";
/// ?1 seq, ?2 destination, ?3 key, ?4 email.
pub(super) const EXPECT: &str = "
    INSERT INTO creating (seq, destination, contact, email) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (seq, contact) DO NOTHING";
/// ?1 seq. A row if a deletion waits behind the message in its lane.
pub(super) const IS_BEFORE_DELETION: &str = "
    SELECT 1 FROM messages m JOIN messages d
        ON d.lane = m.lane AND d.destination = m.destination AND d.kind = 'delete' AND d.seq > m.seq
    WHERE m.seq = ?1 AND d.state = 0 LIMIT 1";
/// ?1 seq, ?2 key, ?3 email, ?4 reason, ?5 since.
pub(super) const HOLD: &str = "
    INSERT INTO held (seq, destination, lane, contact, email, reason, since)
    SELECT seq, destination, lane, ?2, ?3, ?4, ?5 FROM messages WHERE seq = ?1
    ON CONFLICT (seq) DO NOTHING";
/// ?1 seq, ?2 key, ?3 email. The message was planned again, perhaps with another result.
pub(super) const HOLD_AGAIN: &str =
    "UPDATE held SET is_due = 0, contact = ?2, email = ?3 WHERE seq = ?1";
/// ?1 destination.
pub(super) const LANES: &str = "SELECT seq, lane FROM held WHERE destination = ?1 ORDER BY seq";
/// ?1 destination, ?2 limit.
pub(super) const DUE_LANES: &str =
    "SELECT lane FROM held WHERE destination = ?1 AND is_due = 1 ORDER BY seq LIMIT ?2";
/// ?1 destination, ?2 limit.
pub(super) const FIRST_LANES: &str =
    "SELECT lane FROM held WHERE destination = ?1 ORDER BY seq LIMIT ?2";
/// ?1 destination.
pub(super) const COUNT_HELD: &str = "SELECT COUNT(*), MIN(since) FROM held WHERE destination = ?1";
/// ?1 seq. Returns the first held message of its lane, unless that is behind this one.
pub(super) const HELD_OF: &str = "
    SELECT h.reason, h.since, h.seq < m.seq
    FROM messages m JOIN held h ON h.lane = m.lane AND h.destination = m.destination AND h.seq <= m.seq
    WHERE m.seq = ?1 ORDER BY h.seq LIMIT 1";
/// ?1 destination, ?2 since, ?3 limit.
pub(super) const TO_DISCARD: &str = "
    SELECT h.seq, m.source FROM held h JOIN messages m ON m.seq = h.seq
    WHERE h.destination = ?1 AND h.since <= ?2 AND m.state = 0 AND m.is_planned = 0
    ORDER BY h.seq LIMIT ?3";

/// Decides in the transaction that freezes requests whether their contacts may be created. If so, they count as
/// expected from now on. If not, the message is held, unless it was to be merged with others.
pub(super) fn admit(
    transaction: &Connection,
    destination: &str,
    (first, now): (Seq, Timestamp),
    is_merge: bool,
    cap: &ContactCap,
    tallies: &Tallies,
) -> Result<Option<Hold>, Fault> {
    let mut new: Vec<&Creation> = Vec::new();
    for creation in &cap.creations {
        if !contacts::is_known(transaction, destination, &creation.contact)? {
            new.push(creation);
        }
    }
    let mut is_over = false;
    for creation in &new {
        let mut expected = transaction.prepare_cached(EXPECTED)?;
        is_over |= !expected.exists(params![destination, creation.contact.key.0])?;
    }
    // Contacts that are already expected take no more room.
    is_over = is_over && room_left(transaction, destination, cap.per_day, now, tallies)? == 0;
    let Some(wanted) = new.first().filter(|_| is_over) else {
        for Creation { seq, contact: KnownContact { key, email } } in new {
            let row = params![seq.0, destination, key.0, email.map(|digest| digest.0)];
            transaction.prepare_cached(EXPECT)?.execute(row)?;
        }
        return Ok(None);
    };
    if is_merge {
        // There may be room for the message alone.
        return Ok(Some(Hold { is_new: false, is_before_deletion: false }));
    }
    if transaction.prepare_cached(IS_BEFORE_DELETION)?.exists([first.0])? {
        return Ok(Some(Hold { is_new: false, is_before_deletion: true }));
    }
    let (key, email) = (wanted.contact.key.0, wanted.contact.email.map(|digest| digest.0));
    let reason = HoldReason::NewContactCap.as_str();
    let row = params![first.0, key, email, reason, to_ms(now)];
    let is_new = transaction.prepare_cached(HOLD)?.execute(row)? > 0;
    if !is_new {
        transaction.prepare_cached(HOLD_AGAIN)?.execute(params![first.0, key, email])?;
    }
    Ok(Some(Hold { is_new, is_before_deletion: false }))
}

/// Returns how many more contacts may be created today.
fn room_left(
    connection: &Connection,
    destination: &str,
    per_day: u32,
    now: Timestamp,
    tallies: &Tallies,
) -> Result<u64, Fault> {
    let (from, to) = room::hours(now);
    let stage = Stage::NewContact.as_str();
    let created = params![room::STEP.ms(), from, to, stage, destination];
    let created: i64 =
        connection.prepare_cached(COUNT_CREATED)?.query_row(created, |row| row.get(0))?;
    let expected: i64 =
        connection.prepare_cached(COUNT_EXPECTED)?.query_row([destination], |row| row.get(0))?;
    // Counts of this transaction, which are written only at its end.
    let counted = tallies.count(Stage::NewContact, destination);
    let (released, _) = day(connection, destination, now)?;
    Ok(room::left(per_day, released, created.saturating_add(counted), expected))
}

/// Returns how many contacts were released, and how many messages were discarded, today.
fn day(connection: &Connection, destination: &str, now: Timestamp) -> Result<(i64, i64), Fault> {
    let today = params![destination, to_ms(day_of(now))];
    let found = connection
        .prepare_cached(DAY)?
        .query_row(today, |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found.unwrap_or_default())
}

pub(super) fn held_lanes(
    snapshot: &Connection,
    destination: &str,
) -> Result<Vec<(Seq, LaneKey)>, Fault> {
    let mut statement = snapshot.prepare_cached(LANES)?;
    let found =
        statement.query_map([destination], |row| Ok((Seq(row.get(0)?), LaneKey(row.get(1)?))))?;
    Ok(found.collect::<Result<_, _>>()?)
}

pub(super) fn holds(
    snapshot: &Connection,
    destination: &str,
    ask: HoldsAsk,
) -> Result<HoldsAnswer, Fault> {
    let (_, discarded) = day(snapshot, destination, ask.now)?;
    let room = match ask.per_day {
        Some(per_day) => room_left(snapshot, destination, per_day, ask.now, &Tallies::default())?,
        None => u64::MAX,
    };
    let limit = i64::from(ask.limit);
    let mut lanes = Vec::new();
    for (text, limit) in [(DUE_LANES, limit), (FIRST_LANES, limit.min(room::rows(room)))] {
        let mut statement = snapshot.prepare_cached(text)?;
        let found =
            statement.query_map(params![destination, limit], |row| row.get(0).map(LaneKey))?;
        for lane in found {
            lanes.push(lane?);
        }
    }
    Ok(HoldsAnswer { lanes, discarded: discarded.unsigned_abs() })
}

/// Returns how many messages of a destination are held, and since when the first one is.
pub(super) fn count_held(
    snapshot: &Connection,
    destination: &str,
) -> Result<(u64, Option<Timestamp>), Fault> {
    let (count, since): (i64, Option<i64>) = snapshot
        .prepare_cached(COUNT_HELD)?
        .query_row([destination], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((count.unsigned_abs(), since.map(from_ms)))
}

/// Adds the reasons for holds to pending messages.
pub(super) fn add_holds(
    snapshot: &Connection,
    messages: &mut [MessageRecord],
) -> Result<(), Fault> {
    let mut statement = snapshot.prepare_cached(HELD_OF)?;
    for message in messages.iter_mut().filter(|message| !message.is_done) {
        let found = statement.query_row([message.seq.0], |row| {
            let reason: String = row.get(0)?;
            Ok(Held {
                reason: HoldReason::parse(&reason).unwrap_or(HoldReason::Unknown),
                since: from_ms(row.get(1)?),
                is_behind: row.get(2)?,
            })
        });
        message.held = found.optional()?;
    }
    Ok(())
}

/// Records that Loops has contacts.
pub(super) struct MakeKnown {
    pub(super) destination: String,
    pub(super) contacts: Vec<KnownContact>,
    pub(super) now: Timestamp,
}

impl Step for MakeKnown {
    type Output = u64;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<u64, Fault> {
        let mut new = 0;
        for contact in &self.contacts {
            new += u64::from(!contacts::is_known(transaction, &self.destination, contact)?);
            let ids = (contact.key, contact.email);
            contacts::make_known(transaction, &self.destination, ids, self.now, self.now)?;
        }
        effects.has_written = true;
        Ok(new)
    }
}

/// Lets a destination create more contacts.
pub(super) struct Release {
    pub(super) destination: String,
    pub(super) count: u32,
    pub(super) now: Timestamp,
}

impl Step for Release {
    type Output = ();

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault> {
        let row = params![self.destination, to_ms(day_of(self.now)), self.count, 0];
        transaction.prepare_cached(ADD)?.execute(row)?;
        effects.has_written = true;
        Ok(())
    }
}

/// Ends messages that are held.
pub(super) struct Discard {
    pub(super) destination: String,
    pub(super) since: Timestamp,
    pub(super) now: Timestamp,
}

impl Step for Discard {
    type Output = u64;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<u64, Fault> {
        let Self { destination, since, now } = self;
        let mut statement = transaction.prepare_cached(TO_DISCARD)?;
        let rows = params![destination, to_ms(*since), DISCARD_MAX];
        let found = statement.query_map(rows, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let found: Vec<(i64, String)> = found.collect::<Result<_, _>>()?;
        let failure = discarded(*now);
        for (seq, source) in &found {
            let position =
                transaction.prepare_cached(FREE_POSITION)?.query_row([seq], |row| row.get(0))?;
            let delivery = NewDelivery {
                subscription: None,
                action: None,
                warnings: Vec::new(),
                planned: None,
                outcome: NewOutcome::Failed(failure.clone()),
            };
            let by = CarriedBy::default();
            insert_delivery(transaction, Seq(*seq), position, &delivery, to_ms(*now), by)?;
            transaction.prepare_cached(SET_ASIDE_MESSAGE)?.execute(params![seq, to_ms(*now)])?;
            effects.tallies.add_delivery(*now, &delivery, destination, source);
            effects.tallies.add(*now, Counted::new(Stage::Failed, destination, source), 1);
        }
        if !found.is_empty() {
            let row = params![destination, to_ms(day_of(*now)), 0, found.len() as i64];
            transaction.prepare_cached(ADD)?.execute(row)?;
            effects.has_written = true;
        }
        Ok(found.len() as u64)
    }
}
