//! Opt-outs: who unsubscribed, according to Loops.

use rusqlite::{Connection, params};

use super::error::Fault;
use super::rows::{from_ms, to_ms};
use crate::queue::{ConsentReport, FeedbackRecord, OptIn, OptOut};
use crate::segment::PersonDigest;

/// ?1 destination, ?2 digest.
pub(super) const FIND: &str = "
    SELECT id, person, email, list, at, event FROM opt_outs
    WHERE person = ?2 AND destination = ?1 AND is_lifted = 0
    UNION
    SELECT id, person, email, list, at, event FROM opt_outs
    WHERE email = ?2 AND destination = ?1 AND is_lifted = 0";
/// ?1 destination, ?2 digest, ?3 list, ?4 at, ?5 event, ?6 whether the contact came back.
pub(super) const CHANGE: &str = "
    UPDATE opt_outs SET at = ?4, event = ?5, is_lifted = ?6 WHERE id IN (
        SELECT id FROM opt_outs WHERE person = ?2 AND destination = ?1 AND list = ?3 AND at <= ?4
        UNION ALL
        SELECT id FROM opt_outs WHERE email = ?2 AND destination = ?1 AND list = ?3 AND at <= ?4)";
/// ?1 destination, ?2 digest, ?3 list, ?4 when the contact came back. Any report that is not older than the last one
/// counts as leaving again, since Loops' clock may be behind.
pub(super) const LIFT: &str = "
    UPDATE opt_outs SET is_lifted = 1 WHERE id IN (
        SELECT id FROM opt_outs WHERE person = ?2 AND destination = ?1 AND list = ?3 AND at < ?4
        UNION ALL
        SELECT id FROM opt_outs WHERE email = ?2 AND destination = ?1 AND list = ?3 AND at < ?4)";
/// ?1 destination, ?2 person, ?3 email, ?4 list, ?5 at, ?6 event, ?7 the event that would take it back. Skipped if that
/// event was reported first, though it happened later.
pub(super) const INSERT: &str = "
    INSERT INTO opt_outs (destination, person, email, list, at, event)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6
    WHERE NOT EXISTS (
        SELECT 1 FROM opt_outs WHERE person = ?2 AND destination = ?1 AND list = ?4 AND email IS ?3)
    AND NOT EXISTS (
        SELECT 1 FROM opt_outs
        WHERE ?2 IS NULL AND email = ?3 AND destination = ?1 AND list = ?4 AND person IS NULL)
    AND NOT EXISTS (
        SELECT 1 FROM loops_events
        WHERE person = ?2 AND at > ?5 AND destination = ?1 AND event = ?7 AND ?4 IN ('', origin_id))
    AND NOT EXISTS (
        SELECT 1 FROM loops_events
        WHERE email = ?3 AND at > ?5 AND destination = ?1 AND event = ?7 AND ?4 IN ('', origin_id))";
/// ?1 digest, ?2 destination.
pub(super) const OF_PERSON: &str = "
    DELETE FROM opt_outs WHERE id IN (
        SELECT id FROM opt_outs WHERE person = ?1 AND destination = ?2
        UNION ALL
        SELECT id FROM opt_outs WHERE email = ?1 AND destination = ?2)";

pub(super) fn find(
    snapshot: &Connection,
    destination: &str,
    persons: &[PersonDigest],
) -> Result<Vec<OptOut>, Fault> {
    let mut find = snapshot.prepare_cached(FIND)?;
    let mut found = Vec::new();
    for person in persons {
        let rows = find.query_map(params![destination, person.0], |row| {
            let list: String = row.get(3)?;
            Ok(OptOut {
                user: row.get::<_, Option<i64>>(1)?.map(PersonDigest),
                email: row.get::<_, Option<i64>>(2)?.map(PersonDigest),
                list: Some(list).filter(|list| !list.is_empty()),
                at: from_ms(row.get(4)?),
                event: row.get(5)?,
            })
        })?;
        for row in rows {
            found.push(row?);
        }
    }
    Ok(found)
}

/// Applies an event that was just recorded.
pub(super) fn report(transaction: &Connection, feedback: &FeedbackRecord) -> Result<(), Fault> {
    let Some(report) = ConsentReport::of(feedback) else { return Ok(()) };
    let (user, email) =
        (feedback.user.map(|digest| digest.0), feedback.email.map(|digest| digest.0));
    let FeedbackRecord { destination, at, event, .. } = feedback;
    let (list, at) = (report.list.unwrap_or_default(), to_ms(*at));
    for digest in user.into_iter().chain(email) {
        let change = params![destination, digest, list, at, event, !report.has_left];
        transaction.prepare_cached(CHANGE)?.execute(change)?;
    }
    if report.has_left && (user.is_some() || email.is_some()) {
        let row = params![destination, user, email, list, at, event, report.way_back()];
        transaction.prepare_cached(INSERT)?.execute(row)?;
    }
    Ok(())
}

/// Lifts the opt-outs of a contact, known by any of these digests, after Loops accepted a request that subscribes it.
pub(super) fn lift(
    transaction: &Connection,
    destination: &str,
    persons: impl IntoIterator<Item = PersonDigest>,
    opt_in: &OptIn,
) -> Result<(), Fault> {
    let at = to_ms(opt_in.at);
    let mut lift = transaction.prepare_cached(LIFT)?;
    for person in persons {
        for list in &opt_in.lists {
            lift.execute(params![destination, person.0, list.as_deref().unwrap_or_default(), at])?;
        }
    }
    Ok(())
}
