//! Contacts: what is known of each at Loops.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::connection::Connection;
use super::error::Fault;
use super::params::{Array, params};
use super::rows::{from_ms, get, to_day, to_ms};
use super::{arrivals, conflicts, opt_outs};
use crate::queue::contacts::from_bytes;
use crate::queue::{ConflictKind, Contact, ContactChange, ContactClaim, Learned};
use crate::segment::{LaneKey, PersonDigest};
use crate::store::contacts::{Known, Presence, USERS_COUNTED, Update, before};

/// $1 destination, $2 keys.
const FIND: &str = "
    SELECT contact, email, is_shared, properties, lane, reported_at, known_at, address FROM @contacts
    WHERE contact = ANY($2) AND destination = $1";
/// $1 destination, $2 key. The row is locked, so that later reports from Loops are not overwritten.
const FIND_TO_CONFIRM: &str = "
    SELECT contact, email, is_shared, properties, lane, reported_at, known_at, address FROM @contacts
    WHERE contact = $2 AND destination = $1 FOR UPDATE";
/// $1 destination, $2 key, $3 key and email. As [`FIND_TO_CONFIRM`]. The rows that [`SHARE`] may change are locked, too,
/// always in the same order, so that two such steps cannot deadlock.
pub(super) const FIND_TO_LEARN: &str = "
    WITH related AS MATERIALIZED (
        SELECT contact, email, is_shared, CASE WHEN contact = $2 THEN properties END AS properties, lane, reported_at,
               known_at, address
        FROM @contacts
        WHERE destination = $1 AND (contact = ANY($3) OR email = ANY($3) AND NOT is_shared
                                    OR claimed = ANY($3) AND NOT is_shared)
        ORDER BY contact FOR UPDATE)
    SELECT contact, email, is_shared, properties, lane, reported_at, known_at, address FROM related WHERE contact = $2";
/// $1 destination, $2 keys and emails. Locks all rows that claims may change, in the same order.
pub(super) const LOCK: &str = "
    SELECT FROM @contacts
    WHERE destination = $1 AND (contact = ANY($2) OR email = ANY($2) AND NOT is_shared
                                OR claimed = ANY($2) AND NOT is_shared)
    ORDER BY contact FOR UPDATE";
/// $1 destination, $2 key and email, $3 known before. A row if Loops is known to have the contact. Each part stops at
/// its first row: with one condition for both, the planner would find all contacts with the address first.
pub(super) const KNOWN: &str = "
    (SELECT 1 FROM @contacts WHERE contact = ANY($2) AND destination = $1 AND known_at < $3 LIMIT 1)
    UNION ALL
    (SELECT 1 FROM @contacts WHERE email = ANY($2) AND destination = $1 AND known_at < $3 LIMIT 1)";
/// $1 destination, $2 key, $3 email. Marks the other contacts that Loops may treat as the same one; returns whether
/// there are any. A contact stays shared, so those that are marked are left alone: thousands may have one address.
pub(super) const SHARE: &str = "
    WITH marked AS (
        UPDATE @contacts SET is_shared = true
        WHERE destination = $1 AND contact <> $2 AND NOT is_shared
              AND (contact = $3 OR email = $3 OR email = $2 OR claimed = $3 OR claimed = $2))
    SELECT EXISTS (SELECT FROM @contacts WHERE contact = $3 AND destination = $1 AND contact <> $2)
        OR EXISTS (SELECT FROM @contacts WHERE email = $3 AND destination = $1 AND contact <> $2)
        OR EXISTS (SELECT FROM @contacts WHERE email = $2 AND destination = $1 AND contact <> $2)
        OR EXISTS (SELECT FROM @contacts WHERE claimed = $3 AND destination = $1 AND contact <> $2)
        OR EXISTS (SELECT FROM @contacts WHERE claimed = $2 AND destination = $1 AND contact <> $2)";
/// $1 destination, $2 key, $3 email, $4 lane, $5 is shared, $6 day, $7 properties, $8 when the attempt began, $9
/// address. If Loops reported an unknown contact while this transaction ran, that report stands.
const LEARN: &str = "
    INSERT INTO @contacts AS c (destination, contact, email, lane, is_shared, known_at, changed_day, properties, address)
    VALUES ($1, $2, $3, $4, $5, 0, $6, $7, $9)
    ON CONFLICT (contact, destination) DO UPDATE SET
        email = CASE WHEN c.reported_at >= $8 THEN c.email ELSE $3 END, lane = $4, is_shared = $5, changed_day = $6,
        known_at = CASE WHEN c.reported_at >= $8 AND c.known_at IS NULL THEN NULL ELSE 0 END,
        properties = CASE WHEN c.reported_at >= $8 THEN '' ELSE $7 END,
        address = CASE WHEN c.reported_at >= $8 THEN c.address ELSE $9 END, claimed = NULL";
/// $1 destination. A row if any contact is known.
pub(super) const KNOWS_ANY: &str =
    "SELECT FROM @contacts WHERE destination = $1 AND known_at IS NOT NULL LIMIT 1";
/// $1 destination, $2 key, $3 lane, $4 day.
const CONFIRM: &str = "
    INSERT INTO @contacts AS c (destination, contact, lane, known_at, changed_day, properties)
    VALUES ($1, $2, $3, 0, $4, '')
    ON CONFLICT (contact, destination) DO UPDATE SET known_at = 0, changed_day = $4, properties = ''";
/// $1 destination, $2 key. Unless it was deleted.
const CREATED: &str = "
    UPDATE @contacts SET known_at = 0
    WHERE destination = $1 AND contact = $2 AND known_at IS NOT NULL";
/// $1 destination, $2 key.
const FORGET: &str = "UPDATE @contacts SET properties = '' WHERE contact = $2 AND destination = $1";
/// $1 destination, $2 seq.
pub(super) const FORGET_OF_LANE: &str = "
    UPDATE @contacts c SET properties = '' FROM @messages m
    WHERE m.seq = $2 AND c.destination = $1 AND (c.contact = m.lane OR (c.lane = m.lane AND c.lane <> c.contact))";
/// $1 destination, $2 key, $3 lane, $4 is shared, $5 day, $6 email.
const CLAIM: &str = "
    INSERT INTO @contacts AS c (destination, contact, lane, is_shared, changed_day, properties, claimed)
    VALUES ($1, $2, $3, $4, $5, '', $6)
    ON CONFLICT (contact, destination) DO UPDATE SET
        is_shared = c.is_shared OR $4 OR COALESCE(c.lane <> $3, false), lane = $3, changed_day = $5,
        claimed = COALESCE($6, c.claimed)";
/// $1 destination, $2 lane.
pub(super) const OF_PERSON: &str = "
    DELETE FROM @contacts
    WHERE destination = $1 AND (contact = $2 OR email = $2 OR claimed = $2 OR (lane = $2 AND lane <> contact))";
/// $1 destination, $2 digest, $3 reported at, $4 whether it was deleted. For contacts that are known by this address.
const REPORTED_BY_EMAIL: &str = "
    UPDATE @contacts SET properties = '', reported_at = $3, email = CASE WHEN $4 THEN NULL ELSE email END,
        known_at = CASE WHEN $4 THEN NULL ELSE known_at END,
        address = CASE WHEN $4 THEN NULL ELSE address END
    WHERE email = $2 AND destination = $1";
/// $1 destination, $2 key, $3 reported at. For the contact whose key is the address of a deleted contact.
const DELETED_BY_ITS_EMAIL: &str = "
    UPDATE @contacts SET properties = '', reported_at = $3, known_at = NULL, address = NULL
    WHERE destination = $1
        AND contact = (SELECT email FROM @contacts WHERE destination = $1 AND contact = $2)";
/// $1 destination, $2 digest, $3 reported at, $4 whether it was deleted, $5 day. Adds a row even for an unknown
/// contact, since a request for it may be under way.
const REPORTED: &str = "
    INSERT INTO @contacts AS c (destination, contact, reported_at, changed_day, properties)
    VALUES ($1, $2, $3, $5, '')
    ON CONFLICT (contact, destination) DO UPDATE SET
        properties = '', reported_at = $3, email = CASE WHEN $4 THEN NULL ELSE c.email END,
        known_at = CASE WHEN $4 THEN NULL ELSE c.known_at END,
        address = CASE WHEN $4 THEN NULL ELSE c.address END";
/// $1 destination, $2 key, $3 email, $4 known at, $5 day, $6 when that was so. A contact that was known before keeps
/// its time, and one deleted since then stays unknown.
const MAKE_KNOWN: &str = "
    INSERT INTO @contacts AS c (destination, contact, email, known_at, changed_day, properties)
    VALUES ($1, $2, $3, $4, $5, '')
    ON CONFLICT (contact, destination) DO UPDATE SET
        known_at = COALESCE(c.known_at, $4), email = COALESCE(c.email, $3),
        changed_day = GREATEST(c.changed_day, $5)
    WHERE c.known_at IS NOT NULL OR c.reported_at IS NULL OR c.reported_at < $6";
/// $1 before this day, $2 limit.
pub(super) const PAST: &str = "
    DELETE FROM @contacts WHERE (contact, destination) IN (
        SELECT contact, destination FROM @contacts WHERE changed_day < $1 ORDER BY changed_day LIMIT $2
        FOR UPDATE SKIP LOCKED)";

fn known(row: &Row) -> Result<Known, Fault> {
    let contact = Contact {
        key: PersonDigest(get(row, 0)?),
        email: get::<Option<i64>>(row, 1)?.map(PersonDigest),
        is_shared: get(row, 2)?,
        address: get(row, 7)?,
        properties: from_bytes(get(row, 3)?),
    };
    Ok(Known {
        contact,
        lane: get::<Option<i64>>(row, 4)?.map(LaneKey),
        reported_at: get::<Option<i64>>(row, 5)?.map(from_ms),
        known_at: get(row, 6)?,
    })
}

pub(super) async fn contacts(
    connection: &Connection,
    destination: &str,
    keys: &[PersonDigest],
) -> Result<Vec<Contact>, Fault> {
    let keys: Array<i64> = keys.iter().map(|key| key.0).collect();
    let found = connection.query(FIND, params![destination, keys]).await?;
    found.iter().map(|row| Ok(known(row)?.contact)).collect()
}

/// Applies the outcome of a request; returns whether the request created the contact.
pub(super) async fn apply(
    transaction: &Connection,
    destination: &str,
    change: &ContactChange,
    now: Timestamp,
) -> Result<bool, Fault> {
    match change {
        ContactChange::Learn(learned) => {
            return learn(transaction, destination, learned, now).await;
        }
        ContactChange::Confirm(learned) => {
            return confirm(transaction, destination, learned, now).await;
        }
        ContactChange::Forget(key) => {
            transaction.execute(FORGET, params![destination, key.0]).await?;
        }
        // An attempt that began earlier may still report, but no longer correctly.
        ContactChange::Delete(key) => report(transaction, destination, [*key], now, true).await?,
    }
    Ok(false)
}

/// Records the contacts that requests are about to change.
pub(super) async fn claim(
    transaction: &Connection,
    destination: &str,
    claims: &[ContactClaim],
    now: Timestamp,
) -> Result<(), Fault> {
    if claims.is_empty() {
        return Ok(());
    }
    let digests = claims.iter().flat_map(|claim| [Some(claim.key), claim.email]).flatten();
    let digests: Array<i64> = digests.map(|digest| digest.0).collect();
    transaction.execute(LOCK, params![destination, digests]).await?;
    for ContactClaim { key, email, lane } in claims {
        let email = email.map(|digest| digest.0);
        let is_shared = share(transaction, destination, key.0, email).await?;
        let day = to_day(now);
        let row = params![destination, key.0, lane.0, is_shared, day, email];
        transaction.execute(CLAIM, row).await?;
    }
    Ok(())
}

/// Marks the other contacts that Loops may treat as the same one; returns whether there are any.
async fn share(
    transaction: &Connection,
    destination: &str,
    key: i64,
    email: Option<i64>,
) -> Result<bool, Fault> {
    get(&transaction.query_one(SHARE, params![destination, key, email]).await?, 0)
}

async fn learn(
    transaction: &Connection,
    destination: &str,
    learned: &Learned,
    now: Timestamp,
) -> Result<bool, Fault> {
    let key = learned.key.0;
    // The digests by which Loops may treat other contacts as the same one.
    let related = [Some(learned.key), learned.email].into_iter().flatten();
    let related: Array<i64> = related.map(|digest| digest.0).collect();
    let found = transaction.query_opt(FIND_TO_LEARN, params![destination, key, related]).await?;
    let found = found.as_ref().map(known).transpose()?;
    let is_new = has_created(transaction, destination, found.as_ref(), learned).await?;
    if let Some(opt_in) = &learned.opt_in {
        let known = found.as_ref().and_then(|known| known.contact.email);
        let persons = [Some(learned.key), learned.email, known].into_iter().flatten();
        opt_outs::lift(transaction, destination, persons, opt_in).await?;
    }
    let Some(update) = Update::of(found, learned) else {
        transaction.execute(CREATED, params![destination, key]).await?;
        arrive(transaction, destination, learned, is_new).await?;
        return Ok(is_new);
    };
    let Update { own_email, email, address, has_moved, mut is_shared, properties } = update;
    let has_others = share(transaction, destination, key, email).await?;
    is_shared |= has_others;
    let (lane, day, started_at) = (learned.lane.0, to_day(now), to_ms(learned.started_at));
    let row =
        params![destination, key, own_email, lane, is_shared, day, properties, started_at, address];
    transaction.execute(LEARN, row).await?;
    arrive(transaction, destination, learned, is_new).await?;
    let request = learned.request.0;
    if has_moved {
        let kind = ConflictKind::Addresses.as_str();
        let row = params![day, destination, kind, key, request];
        transaction.execute(conflicts::ANOTHER_ADDRESS, row).await?;
    }
    if let (true, Some(email)) = (has_others, learned.email) {
        let kind = ConflictKind::UserIds.as_str();
        let row = params![day, destination, kind, email.0, request, USERS_COUNTED];
        transaction.execute(conflicts::SEVERAL_USERS, row).await?;
    }
    Ok(is_new)
}

async fn confirm(
    transaction: &Connection,
    destination: &str,
    learned: &Learned,
    now: Timestamp,
) -> Result<bool, Fault> {
    let key = learned.key.0;
    let found = transaction.query_opt(FIND_TO_CONFIRM, params![destination, key]).await?;
    let found = found.as_ref().map(known).transpose()?;
    if Presence::of(found.as_ref(), learned) == Presence::Deleted {
        return Ok(false);
    }
    let is_new = has_created(transaction, destination, found.as_ref(), learned).await?;
    let (lane, day) = (learned.lane.0, to_day(now));
    transaction.execute(CONFIRM, params![destination, key, lane, day]).await?;
    arrive(transaction, destination, learned, is_new).await?;
    Ok(is_new)
}

/// Records the arrival of a contact that was not known before.
async fn arrive(
    transaction: &Connection,
    destination: &str,
    learned: &Learned,
    is_new: bool,
) -> Result<(), Fault> {
    if is_new {
        let (key, email) = (learned.key.0, learned.email.map(|digest| digest.0));
        arrivals::arrived(transaction, destination, key, email).await?;
    }
    Ok(())
}

/// Whether a request that Loops accepted created its contact.
async fn has_created(
    transaction: &Connection,
    destination: &str,
    found: Option<&Known>,
    learned: &Learned,
) -> Result<bool, Fault> {
    if !learned.may_create || Presence::of(found, learned) != Presence::Unknown {
        return Ok(false);
    }
    let contact = (learned.key, learned.email);
    Ok(!is_known(transaction, destination, contact, before(learned)).await?)
}

/// Whether Loops was known to have a contact before a time.
pub(super) async fn is_known(
    transaction: &Connection,
    destination: &str,
    (key, email): (PersonDigest, Option<PersonDigest>),
    before: i64,
) -> Result<bool, Fault> {
    let digests = [Some(key), email].into_iter().flatten();
    let digests: Array<i64> = digests.map(|digest| digest.0).collect();
    Ok(transaction.query_opt(KNOWN, params![destination, digests, before]).await?.is_some())
}

/// Records that Loops had a contact at a time.
pub(super) async fn make_known(
    transaction: &Connection,
    destination: &str,
    (key, email): (PersonDigest, Option<PersonDigest>),
    had_at: Timestamp,
    now: Timestamp,
) -> Result<(), Fault> {
    let email = email.map(|digest| digest.0);
    let (now, day, had_at) = (to_ms(now), to_day(now), to_ms(had_at));
    let row = params![destination, key.0, email, now, day, had_at];
    transaction.execute(MAKE_KNOWN, row).await?;
    arrivals::arrived(transaction, destination, key.0, email).await
}

/// Records a change by someone else, as reported by Loops.
pub(super) async fn report(
    transaction: &Connection,
    destination: &str,
    digests: impl IntoIterator<Item = PersonDigest>,
    at: Timestamp,
    is_deleted: bool,
) -> Result<(), Fault> {
    let (day, at) = (to_day(at), to_ms(at));
    for digest in digests {
        let row = params![destination, digest.0, at, is_deleted];
        transaction.execute(REPORTED_BY_EMAIL, row).await?;
        if is_deleted {
            let row = params![destination, digest.0, at];
            transaction.execute(DELETED_BY_ITS_EMAIL, row).await?;
        }
        let row = params![destination, digest.0, at, is_deleted, day];
        transaction.execute(REPORTED, row).await?;
    }
    Ok(())
}
