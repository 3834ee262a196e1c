//! The daily limit of new contacts, and the messages that it holds back.
//!
//! The expected contacts are counted without a lock: the process with the lease writes all steps of a destination, one
//! group after another.

use async_trait::async_trait;
use jiff::Timestamp;

use super::connection::Connection;
use super::contacts;
use super::deliveries::{
    CarriedBy, DeliveryRow, DeliveryRows, FREE_POSITION, NO_LONGER_PENDING, Outcomes,
};
use super::error::Fault;
use super::params::{Array, params};
use super::rows::{from_ms, get, to_ms};
use super::steps::{Effects, Step};
use crate::queue::{
    ContactCap, Creation, DISCARD_MAX, Held, Hold, HoldReason, HoldsAnswer, HoldsAsk, KnownContact,
    MessageRecord, NewDelivery, NewOutcome, Seq, Stage, day_of,
};
use crate::segment::LaneKey;
use crate::store::new_contacts::{discarded, room};
use crate::store::tally::{Counted, Tallies};

/// $1 destination, $2 key. Returns a row if a frozen request may create the contact.
const EXPECTED: &str = "SELECT FROM @creating WHERE destination = $1 AND contact = $2 LIMIT 1";
/// $1 step, $2 from, $3 to, $4 stage, $5 destination, $6 day. Returns how many contacts were created, how many frozen
/// requests may create, and how many were released.
const COUNTS: &str = "
    SELECT (SELECT COALESCE(SUM(count), 0)::bigint FROM @tallies
            WHERE step = $1 AND at >= $2 AND at < $3 AND stage = $4 AND destination = $5),
           (SELECT COUNT(DISTINCT contact) FROM @creating WHERE destination = $5),
           COALESCE((SELECT released FROM @new_contact_days WHERE destination = $5 AND day = $6), 0)";
/// $1 destination, $2 day.
const DISCARDED: &str =
    "SELECT discarded FROM @new_contact_days WHERE destination = $1 AND day = $2";
/// $1 day.
pub(super) const TODAY: &str =
    "SELECT destination, released, discarded FROM @new_contact_days WHERE day = $1";
/// $1 destination, $2 day, $3 released, $4 discarded.
const ADD: &str = "
    INSERT INTO @new_contact_days AS d (destination, day, released, discarded) VALUES ($1, $2, $3, $4)
    ON CONFLICT (destination, day) DO UPDATE SET
        released = d.released + excluded.released, discarded = d.discarded + excluded.discarded";
/// $1 before this day, $2 limit.
pub(super) const PAST: &str = "
    DELETE FROM @new_contact_days WHERE (destination, day) IN (
        SELECT destination, day FROM @new_contact_days WHERE day < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)";
/// $1 seq, $2 destination, $3 key, $4 email.
const EXPECT: &str = "
    INSERT INTO @creating (seq, destination, contact, email) VALUES ($1, $2, $3, $4)
    ON CONFLICT (seq, contact) DO NOTHING";
/// $1 seq. A row if a deletion waits behind the message in its lane.
const IS_BEFORE_DELETION: &str = "
    SELECT FROM @pending m JOIN @pending d
        ON d.destination = m.destination AND d.lane = m.lane AND d.seq > m.seq AND d.is_deletion
    WHERE m.seq = $1 LIMIT 1";
/// $1 seq, $2 key, $3 email, $4 reason, $5 since.
const HOLD: &str = "
    INSERT INTO @held (seq, destination, lane, contact, email, reason, since)
    SELECT seq, destination, lane, $2, $3, $4, $5 FROM @pending WHERE seq = $1
    ON CONFLICT (seq) DO NOTHING";
/// $1 seq, $2 key, $3 email. The message was planned again, perhaps with another result.
const HOLD_AGAIN: &str = "UPDATE @held SET is_due = false, contact = $2, email = $3 WHERE seq = $1";
/// $1 destination.
const LANES: &str = "SELECT seq, lane FROM @held WHERE destination = $1 ORDER BY seq";
/// $1 destination, $2 limit.
const DUE_LANES: &str =
    "SELECT lane FROM @held WHERE destination = $1 AND is_due ORDER BY seq LIMIT $2";
/// $1 destination, $2 limit.
const FIRST_LANES: &str = "SELECT lane FROM @held WHERE destination = $1 ORDER BY seq LIMIT $2";
/// $1 destination.
const COUNT_HELD: &str = "SELECT COUNT(*), MIN(since) FROM @held WHERE destination = $1";
/// $1 seqs. Returns, for each message, the first held message of its lane, unless that is behind it.
const HELD_OF: &str = "
    SELECT DISTINCT ON (p.seq) p.seq, h.reason, h.since, h.seq < p.seq
    FROM @pending p JOIN @held h ON h.lane = p.lane AND h.destination = p.destination AND h.seq <= p.seq
    WHERE p.seq = ANY($1) ORDER BY p.seq, h.seq";
/// $1 destination, $2 since, $3 limit. Locks the messages, so that no other transaction plans them meanwhile.
const TO_DISCARD: &str = "
    SELECT p.seq, p.source FROM @held h JOIN @pending p ON p.seq = h.seq
    WHERE h.destination = $1 AND h.since <= $2 AND NOT p.is_planned
    ORDER BY p.seq LIMIT $3 FOR UPDATE OF p";

/// Decides in the transaction that freezes requests whether their contacts may be created. If so, they count as
/// expected from now on. If not, the message is held, unless it was to be merged with others.
pub(super) async fn admit(
    transaction: &Connection,
    destination: &str,
    (first, now): (Seq, Timestamp),
    is_merge: bool,
    cap: &ContactCap,
    tallies: &Tallies,
) -> Result<Option<Hold>, Fault> {
    let mut new: Vec<&Creation> = Vec::new();
    for creation in &cap.creations {
        let digests = (creation.contact.key, creation.contact.email);
        if !contacts::is_known(transaction, destination, digests, i64::MAX).await? {
            new.push(creation);
        }
    }
    let mut is_over = false;
    for creation in &new {
        let expected =
            transaction.query_opt(EXPECTED, params![destination, creation.contact.key.0]).await?;
        is_over |= expected.is_none();
    }
    // Contacts that are already expected take no more room.
    is_over = is_over && room_left(transaction, destination, cap.per_day, now, tallies).await? == 0;
    let Some(wanted) = new.first().filter(|_| is_over) else {
        for Creation { seq, contact: KnownContact { key, email } } in new {
            let email = email.map(|digest| digest.0);
            transaction.execute(EXPECT, params![seq.0, destination, key.0, email]).await?;
        }
        return Ok(None);
    };
    if is_merge {
        // There may be room for the message alone.
        return Ok(Some(Hold { is_new: false, is_before_deletion: false }));
    }
    if transaction.query_opt(IS_BEFORE_DELETION, params![first.0]).await?.is_some() {
        return Ok(Some(Hold { is_new: false, is_before_deletion: true }));
    }
    let (key, email) = (wanted.contact.key.0, wanted.contact.email.map(|digest| digest.0));
    let (reason, since) = (HoldReason::NewContactCap.as_str(), to_ms(now));
    let is_new = transaction.execute(HOLD, params![first.0, key, email, reason, since]).await? > 0;
    if !is_new {
        transaction.execute(HOLD_AGAIN, params![first.0, key, email]).await?;
    }
    Ok(Some(Hold { is_new, is_before_deletion: false }))
}

/// Returns how many more contacts may be created today.
async fn room_left(
    connection: &Connection,
    destination: &str,
    per_day: u32,
    now: Timestamp,
    tallies: &Tallies,
) -> Result<u64, Fault> {
    let (from, to) = room::hours(now);
    let step = i32::try_from(room::STEP.ms()).unwrap_or(i32::MAX);
    let (stage, day) = (Stage::NewContact.as_str(), to_ms(day_of(now)));
    let row =
        connection.query_one(COUNTS, params![step, from, to, stage, destination, day]).await?;
    let (created, expected, released): (i64, i64, i64) =
        (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    // Counts of this transaction, which are written only at its end.
    let counted = tallies.count(Stage::NewContact, destination);
    Ok(room::left(per_day, released, created.saturating_add(counted), expected))
}

pub(super) async fn held_lanes(
    connection: &Connection,
    destination: &str,
) -> Result<Vec<(Seq, LaneKey)>, Fault> {
    let found = connection.query(LANES, params![destination]).await?;
    found.iter().map(|row| Ok((Seq(get(row, 0)?), LaneKey(get(row, 1)?)))).collect()
}

pub(super) async fn holds(
    snapshot: &Connection,
    destination: &str,
    ask: HoldsAsk,
) -> Result<HoldsAnswer, Fault> {
    let day = to_ms(day_of(ask.now));
    let discarded = snapshot.query_opt(DISCARDED, params![destination, day]).await?;
    let discarded = discarded.map(|row| get::<i64>(&row, 0)).transpose()?.unwrap_or(0);
    let room = match ask.per_day {
        Some(per_day) => {
            room_left(snapshot, destination, per_day, ask.now, &Tallies::default()).await?
        }
        None => u64::MAX,
    };
    let limit = i64::from(ask.limit);
    let mut lanes = Vec::new();
    for (text, limit) in [(DUE_LANES, limit), (FIRST_LANES, limit.min(room::rows(room)))] {
        for row in snapshot.query(text, params![destination, limit]).await? {
            lanes.push(LaneKey(get(&row, 0)?));
        }
    }
    Ok(HoldsAnswer { lanes, discarded: discarded.unsigned_abs() })
}

/// Returns how many messages of a destination are held, and since when the first one is.
pub(super) async fn count_held(
    snapshot: &Connection,
    destination: &str,
) -> Result<(u64, Option<Timestamp>), Fault> {
    let row = snapshot.query_one(COUNT_HELD, params![destination]).await?;
    let since: Option<i64> = get(&row, 1)?;
    Ok((get::<i64>(&row, 0)?.unsigned_abs(), since.map(from_ms)))
}

/// Adds the reasons for holds to pending messages.
pub(super) async fn add_holds<'a>(
    connection: &Connection,
    messages: impl Iterator<Item = &'a mut MessageRecord>,
) -> Result<(), Fault> {
    let mut messages: Vec<&mut MessageRecord> =
        messages.filter(|message| !message.is_done).collect();
    if messages.is_empty() {
        return Ok(());
    }
    let seqs: Array<i64> = messages.iter().map(|message| message.seq.0).collect();
    for row in connection.query(HELD_OF, params![seqs]).await? {
        let seq = Seq(get(&row, 0)?);
        let reason = HoldReason::parse(get(&row, 1)?).unwrap_or(HoldReason::Unknown);
        let held = Held { reason, since: from_ms(get(&row, 2)?), is_behind: get(&row, 3)? };
        if let Some(message) = messages.iter_mut().find(|message| message.seq == seq) {
            message.held = Some(held);
        }
    }
    Ok(())
}

/// Records that Loops has contacts, in the order of their keys, so that two such steps cannot deadlock.
pub(super) struct MakeKnown {
    pub(super) destination: String,
    pub(super) contacts: Vec<KnownContact>,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Step for MakeKnown {
    type Output = u64;

    async fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<u64, Fault> {
        let (destination, now) = (&self.destination, self.now);
        let mut new = 0;
        for contact in &self.contacts {
            let ids = (contact.key, contact.email);
            let is_known = contacts::is_known(transaction, destination, ids, i64::MAX).await?;
            new += u64::from(!is_known);
            contacts::make_known(transaction, destination, ids, now, now).await?;
        }
        Ok(new)
    }
}

/// Lets a destination create more contacts.
pub(super) struct Release {
    pub(super) destination: String,
    pub(super) count: u32,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Step for Release {
    type Output = ();

    async fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<(), Fault> {
        let (day, count) = (to_ms(day_of(self.now)), i64::from(self.count));
        transaction.execute(ADD, params![self.destination, day, count, 0_i64]).await?;
        Ok(())
    }
}

/// Ends messages that are held.
pub(super) struct Discard {
    pub(super) destination: String,
    pub(super) since: Timestamp,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Step for Discard {
    type Output = u64;

    async fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<u64, Fault> {
        let Self { destination, since, now } = self;
        let delivery = NewDelivery {
            subscription: None,
            action: None,
            warnings: Vec::new(),
            planned: None,
            outcome: NewOutcome::Failed(discarded(*now)),
        };
        let (mut seqs, mut outcomes) = (Array(Vec::new()), Outcomes::default());
        let mut deliveries = DeliveryRows { rows: Vec::new() };
        let (since, limit) = (to_ms(*since), i64::from(DISCARD_MAX));
        for row in transaction.query(TO_DISCARD, params![*destination, since, limit]).await? {
            let (seq, source): (i64, &str) = (get(&row, 0)?, get(&row, 1)?);
            let free = transaction.query_one(FREE_POSITION, params![seq]).await?;
            deliveries.rows.push(DeliveryRow {
                seq: Seq(seq),
                replay: get(&free, 0)?,
                position: get(&free, 1)?,
                delivery: &delivery,
                now: to_ms(*now),
                carried: CarriedBy::default(),
            });
            outcomes.add(Seq(seq), to_ms(*now), true, None);
            effects.tallies.add_delivery(*now, &delivery, destination, source);
            effects.tallies.add(*now, Counted::new(Stage::Failed, destination, source), 1);
            seqs.0.push(seq);
        }
        let count = seqs.0.len();
        if count > 0 {
            deliveries.insert(transaction).await?;
            transaction.execute(NO_LONGER_PENDING, params![seqs]).await?;
            outcomes.insert(transaction).await?;
            let (day, count) = (to_ms(day_of(*now)), count as i64);
            transaction.execute(ADD, params![*destination, day, 0_i64, count]).await?;
        }
        Ok(count as u64)
    }
}
