//! Receipts of erasures.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::contacts;
use super::error::Fault;
use super::group::{Effects, Step};
use super::rows::{duration_ms, from_ms, to_ms};
use crate::action::ActionKind;
use crate::queue::{
    ErasedRows, FeedbackRecord, KnownContact, NewReceipt, RECEIPT_CLOCKS_DIFFER, Receipt,
    ReceiptFilter, RequestId, Settlement,
};
use crate::segment::{Digests, PersonDigest};
use crate::store::receipts::{settled, unsubscribed_beside};

/// The columns that [`receipt`] reads.
macro_rules! columns {
    () => {
        "id, receipt, destination, person, asked_at, problem, status, request_id, deleted_at, confirmed_at, erased_at,
           messages, feedback, contacts, opt_outs"
    };
}

/// ?1 destination, ?2 source, ?3 message hash, ?4 person, ?5 asked at.
pub(super) const OPEN: &str = "
    INSERT INTO receipts (receipt, destination, source, message_hash, person, asked_at)
    VALUES (lower(hex(randomblob(16))), ?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (message_hash, source, destination) DO NOTHING";
/// ?1 destination, ?2 source, ?3 message hash.
pub(super) const OPENED: &str = "
    SELECT receipt FROM receipts WHERE message_hash = ?3 AND source = ?2 AND destination = ?1";
/// ?1 id.
pub(super) const FIND: &str = concat!("SELECT ", columns!(), " FROM receipts WHERE receipt = ?1");
/// ?1 before, ?2 destination, ?3 is open, ?4 limit. There are as many as deletions.
pub(super) const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM receipts
    WHERE id < ?1 AND (?2 IS NULL OR destination = ?2) AND (?3 IS NULL OR (erased_at IS NULL) = ?3)
    ORDER BY id DESC LIMIT ?4"
);
pub(super) const COUNT_OPEN: &str =
    "SELECT destination, COUNT(*) FROM receipts WHERE erased_at IS NULL GROUP BY destination";
/// ?1 request id, ?2 the deleting action, ?3 problem, ?4 status, ?5 deleted at, ?6 how far clocks may differ. Loops may
/// report the deletion before its response is recorded.
pub(super) const SETTLE: &str = "
    INSERT INTO receipts (receipt, destination, source, message_hash, person, asked_at, problem, status, request_id,
                          deleted_at, confirmed_at)
    SELECT lower(hex(randomblob(16))), m.destination, m.source, m.message_hash, m.lane, m.received_at, ?3, ?4, ?1, ?5,
        (SELECT MAX(e.at) FROM loops_events e
         WHERE ?5 IS NOT NULL AND e.id IN (
            SELECT id FROM loops_events
            WHERE person = m.lane AND at >= m.received_at - ?6 AND destination = m.destination
              AND event = 'contact.deleted'
            UNION ALL
            SELECT id FROM loops_events
            WHERE email = m.lane AND at >= m.received_at - ?6 AND destination = m.destination
              AND event = 'contact.deleted'))
    FROM deliveries d JOIN messages m ON m.seq = d.seq
    WHERE d.request_id = ?1 AND d.action = ?2 AND m.kind = 'delete' AND m.lane IS NOT NULL
    ON CONFLICT (message_hash, source, destination) DO UPDATE SET
        problem = ?3, status = ?4, request_id = ?1, deleted_at = ?5,
        confirmed_at = COALESCE(confirmed_at, excluded.confirmed_at)
    WHERE erased_at IS NULL";
/// ?1 destination, ?2 digest, ?3 at, ?4 how far clocks may differ.
pub(super) const CONFIRM: &str = "
    UPDATE receipts SET confirmed_at = ?3
    WHERE person = ?2 AND destination = ?1 AND confirmed_at IS NULL AND deleted_at IS NOT NULL AND asked_at <= ?3 + ?4";
/// ?1 destination, ?2 digest, ?3 from, ?4 to.
pub(super) const DELETED_BETWEEN: &str = "
    SELECT 1 FROM receipts
    WHERE person = ?2 AND destination = ?1 AND deleted_at >= ?3 AND deleted_at <= ?4";
/// ?1 destination, ?2 digest, ?3 since.
pub(super) const DELETED_AT: &str = "
    SELECT MAX(deleted_at) FROM receipts WHERE person = ?2 AND destination = ?1 AND deleted_at >= ?3";
/// ?1 seq of the deletion, ?2 messages, ?3 feedback, ?4 contacts, ?5 opt-outs, ?6 erased at.
pub(super) const ERASED: &str = "
    UPDATE receipts SET messages = messages + ?2, feedback = feedback + ?3, contacts = contacts + ?4,
        opt_outs = opt_outs + ?5, erased_at = ?6
    WHERE id = (
        SELECT r.id FROM messages m JOIN receipts r
            ON r.message_hash = m.message_hash AND r.source = m.source AND r.destination = m.destination
        WHERE m.seq = ?1)";
/// ?1 person, ?2 destination, ?3 erased at, ?4 seq of the deletion that was erased. That deletion covers everything
/// that these were to erase.
pub(super) const CLOSE_EARLIER: &str = "
    UPDATE receipts SET erased_at = ?3
    WHERE person = ?1 AND destination = ?2 AND erased_at IS NULL AND deleted_at IS NULL
      AND asked_at < (SELECT received_at FROM messages WHERE seq = ?4)";
/// ?1 seq of a message that was erased, ?2 erased at. If the message is a deletion that Loops refused, nothing is left
/// for it to erase.
pub(super) const CLOSE_ERASED: &str = "
    UPDATE receipts SET erased_at = ?2
    WHERE erased_at IS NULL AND deleted_at IS NULL AND id = (
        SELECT r.id FROM messages m JOIN receipts r
            ON r.message_hash = m.message_hash AND r.source = m.source AND r.destination = m.destination
        WHERE m.seq = ?1 AND m.kind = 'delete')";
/// ?1 id, ?2 destination, ?3 message hash, ?4 person, ?5 asked at, ?6 status, ?7 deleted at, ?8 confirmed at, ?9 erased at,
/// ?10 messages, ?11 feedback, ?12 contacts, ?13 opt-outs. Its request and its deletion were not restored.
const KEEP: &str = "
    INSERT INTO receipts (receipt, destination, source, message_hash, person, asked_at, status, deleted_at,
                          confirmed_at, erased_at, messages, feedback, contacts, opt_outs)
    VALUES (?1, ?2, '', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
    ON CONFLICT (receipt) DO UPDATE SET
        problem = NULL, status = ?6, request_id = NULL, deleted_at = ?7, confirmed_at = ?8, erased_at = ?9,
        messages = ?10, feedback = ?11, contacts = ?12, opt_outs = ?13";
/// ?1 asked at or before, ?2 limit.
pub(super) const PAST: &str = "
    DELETE FROM receipts WHERE id IN (
        SELECT id FROM receipts WHERE asked_at <= ?1 ORDER BY asked_at LIMIT ?2)";

/// Adds Loops' response to the receipt of a deletion.
pub(super) fn settle(transaction: &Connection, settlement: &Settlement) -> Result<(), Fault> {
    let Some((problem, status, deleted_at)) = settled(settlement) else { return Ok(()) };
    let (action, differ) = (ActionKind::DeleteContact.as_str(), duration_ms(RECEIPT_CLOCKS_DIFFER));
    let row = params![settlement.request.0, action, problem, status, deleted_at.map(to_ms), differ];
    transaction.prepare_cached(SETTLE)?.execute(row)?;
    Ok(())
}

/// Records that Loops reported a deletion.
pub(super) fn confirm(transaction: &Connection, feedback: &FeedbackRecord) -> Result<(), Fault> {
    let (at, differ) = (to_ms(feedback.at), duration_ms(RECEIPT_CLOCKS_DIFFER));
    for digest in feedback.user.into_iter().chain(feedback.email) {
        let row = params![feedback.destination, digest.0, at, differ];
        transaction.prepare_cached(CONFIRM)?.execute(row)?;
    }
    Ok(())
}

/// Whether Loops may have reported an event only because this program deleted the person.
pub(super) fn is_beside_deletion(
    transaction: &Connection,
    feedback: &FeedbackRecord,
) -> Result<bool, Fault> {
    let at = to_ms(feedback.at);
    let contact = feedback.user.or(feedback.email);
    let contact = contact.map(|key| KnownContact { key, email: feedback.user.and(feedback.email) });
    let is_back = match contact {
        Some(contact) => contacts::is_known(transaction, &feedback.destination, &contact)?,
        None => false,
    };
    let from = at.saturating_sub(duration_ms(unsubscribed_beside(is_back)));
    let to = at.saturating_add(duration_ms(RECEIPT_CLOCKS_DIFFER));
    let mut deleted = transaction.prepare_cached(DELETED_BETWEEN)?;
    for digest in feedback.user.into_iter().chain(feedback.email) {
        if deleted.exists(params![feedback.destination, digest.0, from, to])? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Adds the erased rows to the receipt of a deletion; `erased_at` is set once everything is erased.
pub(super) fn erased(
    transaction: &Connection,
    deletion: i64,
    rows: ErasedRows,
    erased_at: Option<Timestamp>,
) -> Result<(), Fault> {
    let row = params![
        deletion,
        rows.messages.cast_signed(),
        rows.feedback.cast_signed(),
        rows.contacts.cast_signed(),
        rows.opt_outs.cast_signed(),
        erased_at.map(to_ms)
    ];
    transaction.prepare_cached(ERASED)?.execute(row)?;
    Ok(())
}

/// Keeps a receipt of a person who was erased after the backup was made.
pub(super) fn keep(
    transaction: &Connection,
    receipt: &Receipt,
    digests: &Digests,
    now: Timestamp,
) -> Result<(), Fault> {
    let ErasedRows { messages, feedback, contacts, opt_outs } = receipt.erased;
    transaction.prepare_cached(KEEP)?.execute(params![
        receipt.id,
        receipt.destination,
        // Such a receipt is looked up by its id only, so any unique digest will do.
        digests.message_id(&receipt.id).0,
        receipt.person.0,
        to_ms(receipt.asked_at),
        receipt.status,
        receipt.deleted_at.map(to_ms),
        receipt.confirmed_at.map(to_ms),
        to_ms(receipt.erased_at.unwrap_or(now)),
        messages.cast_signed(),
        feedback.cast_signed(),
        contacts.cast_signed(),
        opt_outs.cast_signed(),
    ])?;
    Ok(())
}

/// Returns when one of these persons was last deleted, if that was at or after a time.
pub(super) fn deleted_at(
    snapshot: &Connection,
    destination: &str,
    persons: &[PersonDigest],
    since: Timestamp,
) -> Result<Option<Timestamp>, Fault> {
    let mut statement = snapshot.prepare_cached(DELETED_AT)?;
    let mut last = None;
    for person in persons {
        let row = params![destination, person.0, to_ms(since)];
        last = last.max(statement.query_row(row, |row| row.get::<_, Option<i64>>(0))?);
    }
    Ok(last.map(from_ms))
}

pub(super) fn receipt(row: &Row<'_>) -> rusqlite::Result<Receipt> {
    let time = |index| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(index)?.map(from_ms));
    let rows = |index| Ok::<_, rusqlite::Error>(row.get::<_, i64>(index)?.unsigned_abs());
    Ok(Receipt {
        number: row.get(0)?,
        id: row.get(1)?,
        destination: row.get(2)?,
        person: PersonDigest(row.get(3)?),
        asked_at: from_ms(row.get(4)?),
        problem: row.get(5)?,
        status: row.get(6)?,
        request: row.get::<_, Option<i64>>(7)?.map(RequestId),
        deleted_at: time(8)?,
        confirmed_at: time(9)?,
        erased_at: time(10)?,
        erased: ErasedRows {
            messages: rows(11)?,
            feedback: rows(12)?,
            contacts: rows(13)?,
            opt_outs: rows(14)?,
        },
    })
}

/// Opens a receipt and returns its id.
pub(super) struct Open(pub(super) NewReceipt);

impl Step for Open {
    type Output = String;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<String, Fault> {
        let NewReceipt { message_hash, source, destination, person, asked_at } = &self.0;
        let row = params![destination, source, message_hash.0, person.0, to_ms(*asked_at)];
        transaction.prepare_cached(OPEN)?.execute(row)?;
        effects.has_written = true;
        let mut opened = transaction.prepare_cached(OPENED)?;
        Ok(opened.query_row(params![destination, source, message_hash.0], |row| row.get(0))?)
    }
}

pub(super) fn list(
    snapshot: &Connection,
    filter: &ReceiptFilter,
    limit: u32,
) -> Result<Vec<Receipt>, Fault> {
    let ReceiptFilter { destination, is_open, before } = filter;
    let mut list = snapshot.prepare_cached(LIST)?;
    let row = params![before.unwrap_or(i64::MAX), destination, is_open, limit];
    let found = list.query_map(row, receipt)?;
    Ok(found.collect::<Result<_, _>>()?)
}

pub(super) fn count_open(snapshot: &Connection) -> Result<Vec<(String, u64)>, Fault> {
    let mut count = snapshot.prepare_cached(COUNT_OPEN)?;
    let found =
        count.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
    Ok(found.collect::<Result<_, _>>()?)
}
