//! Erases the contents of people whose deletion was delivered. A reader finds the messages, and the writer erases them,
//! a bounded number per transaction.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::conflicts;
use super::error::Fault;
use super::feedback;
use super::group::{Effects, Step};
use super::opt_outs;
use super::purge::{CONTENTS, DELETE_ERASURE, execute};
use super::receipts;
use super::recent::sorted_through;
use super::rows::to_ms;
use super::{awaiting, contacts};
use crate::queue::ErasedRows;

/// ?1 after this deletion. Returns the next deletion whose erasure is open, and the progress of the erasure.
pub(super) const NEXT: &str = "
    SELECT e.seq, e.erased_through, m.lane, m.destination, d.accepted
    FROM erasures e JOIN messages m ON m.seq = e.seq LEFT JOIN deletions d ON d.seq = e.seq
    WHERE e.seq > ?1 ORDER BY e.seq LIMIT 1";
/// ?1 lane, ?2 after, ?3 through, ?4 limit. Also finds messages with another lane or destination;
/// `IS_ERASABLE` filters them out.
pub(super) const OF_LANE: &str = concat!(
    "SELECT seq FROM persons WHERE person = ?1 AND seq > ?2 AND seq <= ?3
    UNION
    SELECT seq FROM messages
    WHERE seq > MAX(?2, ",
    sorted_through!(),
    ") AND seq <= ?3 AND lane = ?1
    ORDER BY seq LIMIT ?4"
);
/// ?1 the deletion.
pub(super) const IS_OPEN: &str = "SELECT 1 FROM erasures WHERE seq = ?1";
/// ?1 seq, ?2 lane, ?3 destination.
pub(super) const IS_ERASABLE: &str = "
    SELECT 1 FROM messages WHERE seq = ?1 AND lane = ?2 AND destination = ?3 AND state = 1";
/// ?1 seq. Warnings name fields, and senders choose the names of fields. Digests of requests could be compared.
pub(super) const DROP_WARNINGS: &str = "
    UPDATE deliveries SET warnings = NULL, planned = NULL
    WHERE seq = ?1 AND (warnings IS NOT NULL OR planned IS NOT NULL)";
/// ?1 seq.
pub(super) const DELETE_PERSONS: &str = "
    DELETE FROM persons WHERE seq = ?1 AND person IN (
        SELECT lane FROM messages WHERE seq = ?1
        UNION ALL SELECT anonymous FROM messages WHERE seq = ?1
        UNION ALL SELECT email FROM messages WHERE seq = ?1)";
/// ?1 seq.
pub(super) const DROP_DIGESTS: &str = "
    UPDATE messages SET warnings = NULL, lane = NULL, anonymous = NULL, email = NULL WHERE seq = ?1";
/// ?1 the deletion, ?2 through.
pub(super) const ERASED_THROUGH: &str =
    "UPDATE erasures SET erased_through = ?2 WHERE seq = ?1 AND erased_through < ?2";
/// ?1 lane, ?2 destination, ?3 accepted. This deletion covers everything that earlier ones cover.
pub(super) const DELETE_DELETIONS: &str =
    "DELETE FROM deletions WHERE lane = ?1 AND destination = ?2 AND accepted <= ?3";

/// How many messages one transaction erases. Small, since senders share the writer.
const MESSAGES_MAX: i64 = 200;

/// What an erasure removes besides the contents. The digests go last, since they show which rows of `persons` belong to
/// the message.
const TRACES: [&str; 3] = [DROP_WARNINGS, DELETE_PERSONS, DROP_DIGESTS];

/// A deletion whose erasure is open.
pub(super) struct Deletion {
    pub(super) seq: i64,
    erased_through: i64,
    /// `None` if the deletion itself was erased by a later one.
    lane: Option<i64>,
    destination: String,
    /// The deletion's sequence number when it was accepted, if it is still known.
    accepted: Option<i64>,
}

/// One part of a deletion's erasure.
pub(super) struct Erase {
    deletion: Deletion,
    /// The messages that may have to be erased.
    seqs: Vec<i64>,
    rest: Rest,
    now: Timestamp,
}

/// What remains of the erasure after this part.
enum Rest {
    /// Messages after this one.
    Behind(i64),
    /// Nothing. The deletion itself was in this last part: its digest was needed until then.
    Nothing,
}

/// Finds the first deletion after a sequence number with something left to erase.
pub(super) fn next_deletion(snapshot: &Connection, behind: i64) -> Result<Option<Deletion>, Fault> {
    let mut next = snapshot.prepare_cached(NEXT)?;
    let next = next.query_row([behind], |row| {
        Ok(Deletion {
            seq: row.get(0)?,
            erased_through: row.get(1)?,
            lane: row.get(2)?,
            destination: row.get(3)?,
            accepted: row.get(4)?,
        })
    });
    Ok(next.optional()?)
}

impl Erase {
    /// Finds what to erase next for a deletion. Reads only messages of the person, however many others there are.
    pub(super) fn of(
        snapshot: &Connection,
        deletion: Deletion,
        now: Timestamp,
    ) -> Result<Self, Fault> {
        let Deletion { seq, erased_through, lane, .. } = deletion;
        let seqs: Vec<i64> = snapshot
            .prepare_cached(OF_LANE)?
            .query_map(params![lane, erased_through, seq, MESSAGES_MAX], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let rest = match seqs.last() {
            Some(last) if seqs.len() as i64 == MESSAGES_MAX && *last < seq => Rest::Behind(*last),
            _ => Rest::Nothing,
        };
        Ok(Self { deletion, seqs, rest, now })
    }
}

/// Another process may have been faster, so rows that have changed since they were found are left alone.
impl Step for Erase {
    type Output = u64;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<u64, Fault> {
        let Deletion { seq: deletion, lane, destination, accepted, .. } = &self.deletion;
        if !transaction.prepare_cached(IS_OPEN)?.exists([deletion])? {
            return Ok(0);
        }
        let mut is_erasable = transaction.prepare_cached(IS_ERASABLE)?;
        // Feedback goes first, while the deletion still has its digest.
        let heard = params![lane, destination, MESSAGES_MAX];
        let mut erased = ErasedRows {
            feedback: execute(transaction, feedback::OF_PERSON, heard)?,
            ..ErasedRows::default()
        };
        let mut rows = erased.feedback;
        if rows >= MESSAGES_MAX.unsigned_abs() {
            receipts::erased(transaction, *deletion, erased, None)?;
            effects.has_erased = true;
            effects.has_written = true;
            return Ok(rows);
        }
        // Conflicts go before contacts, which show which addresses are the person's.
        rows += execute(transaction, conflicts::OF_PERSON, params![destination, lane])?;
        erased.contacts = execute(transaction, contacts::OF_PERSON, params![destination, lane])?;
        erased.opt_outs = execute(transaction, opt_outs::OF_PERSON, params![lane, destination])?;
        rows += erased.contacts + erased.opt_outs;
        rows += execute(transaction, awaiting::OF_PERSON, params![lane, destination])?;
        for seq in &self.seqs {
            if is_erasable.exists(params![seq, lane, destination])? {
                erased.messages += 1;
                rows += erase_message(transaction, *seq)?;
                execute(transaction, receipts::CLOSE_ERASED, params![seq, to_ms(self.now)])?;
            }
        }
        match &self.rest {
            Rest::Behind(last) => {
                rows += execute(transaction, ERASED_THROUGH, [deletion, last])?;
                receipts::erased(transaction, *deletion, erased, None)?;
            }
            Rest::Nothing => {
                receipts::erased(transaction, *deletion, erased, Some(self.now))?;
                let covered = params![lane, destination, to_ms(self.now), deletion];
                execute(transaction, receipts::CLOSE_EARLIER, covered)?;
                // Every message that these deletions kept from being replayed has lost its contents.
                let governed = params![lane, destination, accepted];
                rows += execute(transaction, DELETE_DELETIONS, governed)?;
                rows += execute(transaction, DELETE_ERASURE, [deletion])?;
            }
        }
        effects.has_erased |= rows > 0;
        effects.has_written |= rows > 0;
        Ok(rows)
    }
}

/// Erases the contents of a message that is done, and its link to the person; returns how many rows changed.
pub(super) fn erase_message(transaction: &Connection, seq: i64) -> Result<u64, Fault> {
    let mut rows = 0;
    for text in CONTENTS.into_iter().chain(TRACES) {
        rows += execute(transaction, text, [seq])?;
    }
    Ok(rows)
}

/// Erases everything kept of a person besides messages. The amount is not bounded, so call this only where nobody
/// waits.
pub(super) fn erase_beside(
    transaction: &Connection,
    person: i64,
    destination: &str,
) -> Result<(), Fault> {
    while execute(transaction, feedback::OF_PERSON, params![person, destination, MESSAGES_MAX])? > 0
    {
    }
    execute(transaction, contacts::OF_PERSON, params![destination, person])?;
    execute(transaction, opt_outs::OF_PERSON, params![person, destination])?;
    execute(transaction, awaiting::OF_PERSON, params![person, destination])?;
    Ok(())
}
