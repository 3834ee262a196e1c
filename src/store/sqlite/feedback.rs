//! Feedback: what Loops reported, and the webhooks to be forwarded.

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::error::Fault;
use super::group::{Effects, Step};
use super::rows::{count, from_ms, to_ms};
use super::{contacts, opt_outs, receipts};
use crate::queue::{FeedbackRecord, Forward, NewFeedback, Recorded, SignedWebhook};
use crate::segment::PersonDigest;
use crate::store::contacts::{change, created};
use crate::store::feedback::{due_again, has_room, join, latest_due, origin};

/// The columns that [`record`] reads.
macro_rules! columns {
    () => {
        "id, destination, webhook_id, received_at, at, event, person, email, contact_id, origin, origin_id,
           origin_name, email_id"
    };
}

/// ?1 to ?12 the columns of a record, ?13 to ?17 the webhook to be forwarded.
pub(super) const INSERT: &str = "
    INSERT INTO loops_events (destination, webhook_id, received_at, at, event, person, email, contact_id, origin,
                              origin_id, origin_name, email_id, forward_at, forward_bytes, forward_timestamp,
                              forward_signature, forward_body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
    ON CONFLICT (destination, webhook_id) DO NOTHING";
/// ?1 destination. Returns the number and the bytes of webhooks that wait to be forwarded.
pub(super) const WAITING: &str = "
    SELECT COUNT(*), COALESCE(SUM(forward_bytes), 0) FROM loops_events
    WHERE destination = ?1 AND forward_at IS NOT NULL";
/// ?1 digest, ?2 limit.
pub(super) const BY_PERSON: &str = concat!(
    "SELECT * FROM (SELECT ",
    columns!(),
    " FROM loops_events WHERE person = ?1 ORDER BY at DESC, id DESC LIMIT ?2)
    UNION ALL
    SELECT * FROM (SELECT ",
    columns!(),
    " FROM loops_events WHERE email = ?1 ORDER BY at DESC, id DESC LIMIT ?2)"
);
/// ?1 destination, ?2 limit.
pub(super) const BY_DESTINATION: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM loops_events WHERE destination = ?1 ORDER BY received_at DESC, id DESC LIMIT ?2"
);
/// ?1 destination.
pub(super) const LAST_HEARD: &str =
    "SELECT MAX(received_at) FROM loops_events WHERE destination = ?1";
/// ?1 destination, ?2 due by, ?3 or due after this (written while the clock was ahead), ?4 limit.
pub(super) const DUE: &str = "
    SELECT id, webhook_id, received_at, forward_tries + 1, forward_timestamp, forward_signature, forward_body
    FROM loops_events
    WHERE destination = ?1 AND forward_at IS NOT NULL AND (forward_at <= ?2 OR forward_at > ?3)
    ORDER BY forward_at LIMIT ?4";
/// ?1 id, ?2 tries, ?3 due again.
pub(super) const TAKE: &str =
    "UPDATE loops_events SET forward_tries = ?2, forward_at = ?3 WHERE id = ?1";
/// ?1 destination, ?2 webhook id.
pub(super) const END_FORWARD: &str = "
    UPDATE loops_events SET forward_at = NULL, forward_bytes = NULL, forward_timestamp = NULL,
                            forward_signature = NULL, forward_body = NULL
    WHERE destination = ?1 AND webhook_id = ?2 AND forward_at IS NOT NULL";

/// ?1 received before or at, ?2 limit. Webhooks that are too old to be forwarded.
pub(super) const PAST_FORWARDS: &str = "
    UPDATE loops_events SET forward_at = NULL, forward_bytes = NULL, forward_timestamp = NULL,
                            forward_signature = NULL, forward_body = NULL
    WHERE id IN (
        SELECT id FROM loops_events WHERE forward_at IS NOT NULL AND received_at <= ?1 LIMIT ?2)";
/// ?1 received before or at, ?2 limit.
pub(super) const PAST: &str = "
    DELETE FROM loops_events WHERE id IN (
        SELECT id FROM loops_events WHERE received_at <= ?1 ORDER BY received_at LIMIT ?2)";
/// ?1 digest, ?2 destination, ?3 limit.
pub(super) const OF_PERSON: &str = "
    DELETE FROM loops_events WHERE id IN (
        SELECT id FROM loops_events WHERE person = ?1 AND destination = ?2
        UNION ALL
        SELECT id FROM loops_events WHERE email = ?1 AND destination = ?2
        LIMIT ?3)";

/// Records an event.
pub(super) struct Record(pub(super) NewFeedback);

impl Step for Record {
    type Output = Recorded;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<Recorded, Fault> {
        let NewFeedback { record: of, forward } = &self.0;
        let mut forward = forward.as_ref();
        let mut recorded = Recorded::New;
        if let Some(webhook) = forward {
            let (waiting, bytes) = transaction
                .prepare_cached(WAITING)?
                .query_row([&of.destination], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if !has_room(waiting, bytes, webhook) {
                (forward, recorded) = (None, Recorded::NotForwarded);
            }
        }
        let origin = of.origin.as_ref();
        let inserted = transaction.prepare_cached(INSERT)?.execute(params![
            of.destination,
            of.webhook_id,
            to_ms(of.received_at),
            to_ms(of.at),
            of.event,
            of.user.map(|digest| digest.0),
            of.email.map(|digest| digest.0),
            of.contact_id,
            origin.map(|origin| origin.kind.as_str()),
            origin.map(|origin| &origin.id),
            origin.map(|origin| &origin.name),
            of.email_id,
            forward.map(|_| to_ms(of.received_at)),
            forward.map(|webhook| webhook.body.len() as i64),
            forward.map(|webhook| &webhook.timestamp),
            forward.map(|webhook| &webhook.signature),
            forward.map(|webhook| &webhook.body[..]),
        ])?;
        if inserted > 0 {
            if of.event == "contact.deleted" {
                receipts::confirm(transaction, of)?;
            }
            // Loops also reports that a contact unsubscribed when it is deleted.
            if of.event != "contact.unsubscribed" || !receipts::is_beside_deletion(transaction, of)?
            {
                opt_outs::report(transaction, of)?;
            }
        }
        if inserted > 0
            && let Some(is_deleted) = change(of)
        {
            let digests = of.user.into_iter().chain(of.email);
            contacts::report(transaction, &of.destination, digests, of.received_at, is_deleted)?;
        }
        if inserted > 0
            && let Some(contact) = created(of)
        {
            contacts::make_known(transaction, &of.destination, contact, of.at, of.received_at)?;
        }
        effects.has_written |= inserted > 0;
        Ok(if inserted > 0 { recorded } else { Recorded::Duplicate })
    }
}

/// Takes webhooks for forwarding.
#[derive(Clone)]
pub(super) struct TakeForwards {
    pub(super) destination: String,
    pub(super) now: Timestamp,
    pub(super) limit: u32,
}

impl TakeForwards {
    /// Finds the due webhooks, with their row ids, in the state that they have once taken.
    pub(super) fn find(&self, connection: &Connection) -> Result<Vec<(i64, Forward)>, Fault> {
        let mut due = connection.prepare_cached(DUE)?;
        let (now, latest) = (to_ms(self.now), latest_due(self.now));
        let mut rows = due.query(params![self.destination, now, latest, self.limit])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let forward = Forward {
                webhook_id: row.get(1)?,
                received_at: from_ms(row.get(2)?),
                tries: count(row.get(3)?),
                webhook: SignedWebhook {
                    timestamp: row.get(4)?,
                    signature: row.get(5)?,
                    body: Bytes::from(row.get::<_, Vec<u8>>(6)?),
                },
            };
            found.push((row.get(0)?, forward));
        }
        Ok(found)
    }
}

impl Step for TakeForwards {
    type Output = Vec<Forward>;

    fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<Vec<Forward>, Fault> {
        let taken = self.find(transaction)?;
        let mut take = transaction.prepare_cached(TAKE)?;
        for (id, forward) in &taken {
            take.execute(params![id, forward.tries, due_again(self.now, forward.tries)])?;
        }
        Ok(taken.into_iter().map(|(_, forward)| forward).collect())
    }
}

/// Ends the forwarding of a webhook.
pub(super) struct EndForward {
    pub(super) destination: String,
    pub(super) webhook_id: String,
}

impl Step for EndForward {
    type Output = ();

    fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<(), Fault> {
        let mut end = transaction.prepare_cached(END_FORWARD)?;
        end.execute([&self.destination, &self.webhook_id])?;
        Ok(())
    }
}

/// Reads a row; returns the record and its row id.
pub(super) fn record(row: &Row<'_>) -> Result<(i64, FeedbackRecord), rusqlite::Error> {
    let kind: Option<String> = row.get(9)?;
    let record = FeedbackRecord {
        destination: row.get(1)?,
        webhook_id: row.get(2)?,
        received_at: from_ms(row.get(3)?),
        at: from_ms(row.get(4)?),
        event: row.get(5)?,
        user: row.get::<_, Option<i64>>(6)?.map(PersonDigest),
        email: row.get::<_, Option<i64>>(7)?.map(PersonDigest),
        contact_id: row.get(8)?,
        origin: origin(kind.as_deref(), row.get(10)?, row.get(11)?),
        email_id: row.get(12)?,
    };
    Ok((row.get(0)?, record))
}

pub(super) fn by_person(
    snapshot: &Connection,
    persons: &[PersonDigest],
    limit: u32,
) -> Result<Vec<FeedbackRecord>, Fault> {
    let mut statement = snapshot.prepare_cached(BY_PERSON)?;
    let mut found = Vec::new();
    for person in persons {
        for row in statement.query_map(params![person.0, limit], record)? {
            found.push(row?);
        }
    }
    Ok(join(found, limit))
}

pub(super) fn by_destination(
    snapshot: &Connection,
    destination: &str,
    limit: u32,
) -> Result<Vec<FeedbackRecord>, Fault> {
    let mut statement = snapshot.prepare_cached(BY_DESTINATION)?;
    let found = statement.query_map(params![destination, limit], record)?;
    found.map(|row| Ok(row?.1)).collect()
}

pub(super) fn last_heard(
    snapshot: &Connection,
    destination: &str,
) -> Result<Option<Timestamp>, Fault> {
    let mut statement = snapshot.prepare_cached(LAST_HEARD)?;
    let at: Option<Option<i64>> =
        statement.query_row([destination], |row| row.get(0)).optional()?;
    Ok(at.flatten().map(from_ms))
}
