//! Opt-outs: who unsubscribed, according to Loops.

use super::connection::Connection;
use super::error::Fault;
use super::params::{Array, params, text};
use super::rows::{from_ms, get, to_ms};
use crate::queue::{ConsentReport, FeedbackRecord, OptIn, OptOut};
use crate::segment::PersonDigest;

/// $1 destination, $2 digests.
const FIND: &str = "
    SELECT person, email, list, at, event FROM @opt_outs
    WHERE (person = ANY($2) OR email = ANY($2)) AND destination = $1 AND NOT is_lifted";
/// $1 destination, $2 digests, $3 list, $4 at, $5 event, $6 whether the contact came back.
const CHANGE: &str = "
    UPDATE @opt_outs SET at = $4, event = $5, is_lifted = $6
    WHERE (person = ANY($2) OR email = ANY($2)) AND destination = $1 AND list = $3 AND at <= $4";
/// $1 destination, $2 digests, $3 lists, $4 when the contact came back. Any report that is not older than the last one
/// counts as leaving again, since Loops' clock may be behind.
const LIFT: &str = "
    UPDATE @opt_outs SET is_lifted = true
    WHERE (person = ANY($2) OR email = ANY($2)) AND destination = $1 AND list = ANY($3) AND at < $4";
/// $1 destination, $2 person, $3 email, $4 list, $5 at, $6 event, $7 the event that would take it back. Skipped if that
/// event was reported first, though it happened later.
const INSERT: &str = "
    INSERT INTO @opt_outs (destination, person, email, list, at, event)
    SELECT $1::text, $2::bigint, $3::bigint, $4::text, $5::bigint, $6::text
    WHERE NOT EXISTS (
        SELECT FROM @opt_outs
        WHERE (person = $2 OR ($2::bigint IS NULL AND person IS NULL AND email = $3))
          AND destination = $1 AND list = $4 AND email IS NOT DISTINCT FROM $3)
    AND NOT EXISTS (
        SELECT FROM @loops_events
        WHERE (person = $2 OR email = $3) AND at > $5 AND destination = $1 AND event = $7
          AND $4::text IN ('', origin_id))";
/// $1 digest, $2 destination.
pub(super) const OF_PERSON: &str =
    "DELETE FROM @opt_outs WHERE (person = $1 OR email = $1) AND destination = $2";

pub(super) async fn find(
    connection: &Connection,
    destination: &str,
    persons: &[PersonDigest],
) -> Result<Vec<OptOut>, Fault> {
    let persons: Array<i64> = persons.iter().map(|person| person.0).collect();
    let found = connection.query(FIND, params![destination, persons]).await?;
    let read = |row: &tokio_postgres::Row| {
        let list: String = get(row, 2)?;
        Ok(OptOut {
            user: get::<Option<i64>>(row, 0)?.map(PersonDigest),
            email: get::<Option<i64>>(row, 1)?.map(PersonDigest),
            list: Some(list).filter(|list| !list.is_empty()),
            at: from_ms(get(row, 3)?),
            event: get(row, 4)?,
        })
    };
    found.iter().map(read).collect()
}

/// Applies an event that was just recorded.
pub(super) async fn report(
    transaction: &Connection,
    feedback: &FeedbackRecord,
) -> Result<(), Fault> {
    let Some(report) = ConsentReport::of(feedback) else { return Ok(()) };
    let (user, email) =
        (feedback.user.map(|digest| digest.0), feedback.email.map(|digest| digest.0));
    let (destination, event) = (feedback.destination.as_str(), text(&feedback.event));
    let (list, at) = (text(report.list.unwrap_or_default()), to_ms(feedback.at));
    let digests: Array<i64> = user.into_iter().chain(email).collect();
    if digests.0.is_empty() {
        return Ok(());
    }
    let is_lifted = !report.has_left;
    let change = params![destination, digests, list, at, event, is_lifted];
    transaction.execute(CHANGE, change).await?;
    if report.has_left {
        let way_back = report.way_back();
        let row = params![destination, user, email, list, at, event, way_back];
        transaction.execute(INSERT, row).await?;
    }
    Ok(())
}

/// Lifts the opt-outs of a contact, known by any of these digests, after Loops accepted a request that subscribes it.
pub(super) async fn lift(
    transaction: &Connection,
    destination: &str,
    persons: impl IntoIterator<Item = PersonDigest>,
    opt_in: &OptIn,
) -> Result<(), Fault> {
    let persons: Array<i64> = persons.into_iter().map(|person| person.0).collect();
    let list = |list: &Option<String>| text(list.as_deref().unwrap_or_default()).into_owned();
    let lists: Array<String> = opt_in.lists.iter().map(list).collect();
    let at = to_ms(opt_in.at);
    transaction.execute(LIFT, params![destination, persons, lists, at]).await?;
    Ok(())
}
