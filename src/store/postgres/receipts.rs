//! Receipts of erasures.

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::connection::Connection;
use super::contacts;
use super::error::Fault;
use super::params::{Array, params};
use super::rows::{duration_ms, from_ms, get, to_ms};
use super::steps::{Effects, Step};
use crate::queue::{
    ErasedRows, FeedbackRecord, NewReceipt, RECEIPT_CLOCKS_DIFFER, Receipt, RequestId, Settlement,
};
use crate::segment::PersonDigest;
use crate::store::receipts::{settled, unsubscribed_beside};

/// The columns that [`receipt`] reads.
macro_rules! columns {
    () => {
        "id, receipt, destination, person, asked_at, problem, status, request_id, deleted_at, confirmed_at, erased_at,
           messages, feedback, contacts, opt_outs"
    };
}

/// $1 destination, $2 source, $3 message hash, $4 person, $5 asked at.
const OPEN: &str = "
    INSERT INTO @receipts (destination, source, message_hash, person, asked_at) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (message_hash, source, destination) DO NOTHING";
/// $1 destination, $2 source, $3 message hash.
const OPENED: &str = "
    SELECT receipt FROM @receipts WHERE message_hash = $3 AND source = $2 AND destination = $1";
/// $1 id.
pub(super) const FIND: &str = concat!("SELECT ", columns!(), " FROM @receipts WHERE receipt = $1");
/// $1 before, $2 destination, $3 is open, $4 limit. There are as many as deletions.
pub(super) const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM @receipts
    WHERE id < $1 AND ($2::text IS NULL OR destination = $2) AND ($3::boolean IS NULL OR (erased_at IS NULL) = $3)
    ORDER BY id DESC LIMIT $4"
);
pub(super) const COUNT_OPEN: &str =
    "SELECT destination, COUNT(*) FROM @receipts WHERE erased_at IS NULL GROUP BY destination";
/// $1 request id, $2 its messages, $3 problem, $4 status, $5 deleted at, $6 how far clocks may differ. Loops may report
/// the deletion before its response is recorded.
const SETTLE: &str = "
    INSERT INTO @receipts AS r (destination, source, message_hash, person, asked_at, problem, status, request_id,
                                deleted_at, confirmed_at)
    SELECT m.destination, m.source, m.message_hash, m.lane, m.received_at, $3::text, $4::smallint, $1::bigint,
        $5::bigint,
        (SELECT MAX(e.at) FROM @loops_events e
         WHERE $5 IS NOT NULL AND (e.person = m.lane OR e.email = m.lane) AND e.at >= m.received_at - $6::bigint
           AND e.destination = m.destination AND e.event = 'contact.deleted')
    FROM @messages m WHERE m.seq = ANY($2) AND m.kind = 'delete' AND m.lane IS NOT NULL
    ON CONFLICT (message_hash, source, destination) DO UPDATE SET
        problem = $3, status = $4, request_id = $1, deleted_at = $5,
        confirmed_at = COALESCE(r.confirmed_at, excluded.confirmed_at)
    WHERE r.erased_at IS NULL";
/// $1 destination, $2 digests, $3 at, $4 how far clocks may differ.
const CONFIRM: &str = "
    UPDATE @receipts SET confirmed_at = $3
    WHERE person = ANY($2) AND destination = $1 AND confirmed_at IS NULL AND deleted_at IS NOT NULL
      AND asked_at <= $3 + $4::bigint";
/// $1 destination, $2 digests, $3 from, $4 to.
const DELETED_BETWEEN: &str = "
    SELECT FROM @receipts
    WHERE person = ANY($2) AND destination = $1 AND deleted_at >= $3 AND deleted_at <= $4 LIMIT 1";
/// $1 destination, $2 digests, $3 since.
const DELETED_AT: &str = "
    SELECT MAX(deleted_at) FROM @receipts
    WHERE person = ANY($2) AND destination = $1 AND deleted_at >= $3";
/// $1 seq of the deletion, $2 messages, $3 feedback, $4 contacts, $5 opt-outs, $6 erased at.
const ERASED: &str = "
    UPDATE @receipts r SET messages = r.messages + $2, feedback = r.feedback + $3, contacts = r.contacts + $4,
        opt_outs = r.opt_outs + $5, erased_at = $6
    FROM @messages m
    WHERE m.seq = $1 AND r.message_hash = m.message_hash AND r.source = m.source AND r.destination = m.destination";
/// $1 person, $2 destination, $3 erased at, $4 seq of the deletion that was erased. That deletion covers everything
/// that these were to erase.
pub(super) const CLOSE_EARLIER: &str = "
    UPDATE @receipts SET erased_at = $3
    WHERE person = $1 AND destination = $2 AND erased_at IS NULL AND deleted_at IS NULL
      AND asked_at < (SELECT received_at FROM @messages WHERE seq = $4)";
/// $1 seqs of messages that were erased, $2 erased at. Deletions among them that Loops refused have nothing left to
/// erase.
pub(super) const CLOSE_ERASED: &str = "
    UPDATE @receipts r SET erased_at = $2
    FROM @messages m
    WHERE m.seq = ANY($1) AND m.kind = 'delete' AND r.message_hash = m.message_hash AND r.source = m.source
      AND r.destination = m.destination AND r.erased_at IS NULL AND r.deleted_at IS NULL";
/// $1 asked at or before, $2 limit.
pub(super) const PAST: &str = "
    DELETE FROM @receipts WHERE id IN (
        SELECT id FROM @receipts WHERE asked_at <= $1 ORDER BY asked_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

/// Adds Loops' response to the receipt of a deletion.
pub(super) async fn settle(
    transaction: &Connection,
    seqs: &Array<i64>,
    settlement: &Settlement,
) -> Result<(), Fault> {
    let Some((problem, status, deleted_at)) = settled(settlement) else { return Ok(()) };
    let status = status.map(|status| i16::try_from(status).unwrap_or(i16::MAX));
    let (request, deleted_at) = (settlement.request.0, deleted_at.map(to_ms));
    let differ = duration_ms(RECEIPT_CLOCKS_DIFFER);
    let row = params![request, *seqs, problem, status, deleted_at, differ];
    transaction.execute(SETTLE, row).await?;
    Ok(())
}

fn digests(feedback: &FeedbackRecord) -> Array<i64> {
    feedback.user.into_iter().chain(feedback.email).map(|digest| digest.0).collect()
}

/// Records that Loops reported a deletion.
pub(super) async fn confirm(
    transaction: &Connection,
    feedback: &FeedbackRecord,
) -> Result<(), Fault> {
    let (at, differ) = (to_ms(feedback.at), duration_ms(RECEIPT_CLOCKS_DIFFER));
    let digests = digests(feedback);
    transaction.execute(CONFIRM, params![feedback.destination, digests, at, differ]).await?;
    Ok(())
}

/// Whether Loops may have reported an event only because this program deleted the person.
pub(super) async fn is_beside_deletion(
    transaction: &Connection,
    feedback: &FeedbackRecord,
) -> Result<bool, Fault> {
    let at = to_ms(feedback.at);
    let contact =
        feedback.user.or(feedback.email).map(|key| (key, feedback.user.and(feedback.email)));
    let is_back = match contact {
        Some(contact) => {
            contacts::is_known(transaction, &feedback.destination, contact, i64::MAX).await?
        }
        None => false,
    };
    let from = at.saturating_sub(duration_ms(unsubscribed_beside(is_back)));
    let to = at.saturating_add(duration_ms(RECEIPT_CLOCKS_DIFFER));
    let digests = digests(feedback);
    let row = params![feedback.destination, digests, from, to];
    Ok(transaction.query_opt(DELETED_BETWEEN, row).await?.is_some())
}

/// Adds the erased rows to the receipt of a deletion; `erased_at` is set once everything is erased.
pub(super) async fn erased(
    transaction: &Connection,
    deletion: i64,
    rows: ErasedRows,
    erased_at: Option<Timestamp>,
) -> Result<(), Fault> {
    let ErasedRows { messages, feedback, contacts, opt_outs } = rows;
    let [messages, feedback, contacts, opt_outs] =
        [messages, feedback, contacts, opt_outs].map(u64::cast_signed);
    let erased_at = erased_at.map(to_ms);
    let row = params![deletion, messages, feedback, contacts, opt_outs, erased_at];
    transaction.execute(ERASED, row).await?;
    Ok(())
}

/// Returns when one of these persons was last deleted, if that was at or after a time.
pub(super) async fn deleted_at(
    connection: &Connection,
    destination: &str,
    persons: &[PersonDigest],
    since: Timestamp,
) -> Result<Option<Timestamp>, Fault> {
    let persons: Array<i64> = persons.iter().map(|person| person.0).collect();
    let since = to_ms(since);
    let row = connection.query_one(DELETED_AT, params![destination, persons, since]).await?;
    Ok(get::<Option<i64>>(&row, 0)?.map(from_ms))
}

pub(super) fn receipt(row: &Row) -> Result<Receipt, Fault> {
    let time = |index| Ok::<_, Fault>(get::<Option<i64>>(row, index)?.map(from_ms));
    let rows = |index| Ok::<_, Fault>(get::<i64>(row, index)?.unsigned_abs());
    Ok(Receipt {
        number: get(row, 0)?,
        id: get(row, 1)?,
        destination: get(row, 2)?,
        person: PersonDigest(get(row, 3)?),
        asked_at: from_ms(get(row, 4)?),
        problem: get(row, 5)?,
        status: get::<Option<i16>>(row, 6)?.map(|status| status.unsigned_abs()),
        request: get::<Option<i64>>(row, 7)?.map(RequestId),
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

#[async_trait]
impl Step for Open {
    type Output = String;

    async fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<String, Fault> {
        let NewReceipt { message_hash, source, destination, person, asked_at } = &self.0;
        let (source, destination) = (source.as_str(), destination.as_str());
        let (hash, person, asked_at) = (message_hash.0, person.0, to_ms(*asked_at));
        let row = params![destination, source, hash, person, asked_at];
        transaction.execute(OPEN, row).await?;
        get(&transaction.query_one(OPENED, params![destination, source, hash]).await?, 0)
    }
}
