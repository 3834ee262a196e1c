//! Contacts: what is known of each at Loops.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::arrivals;
use super::conflicts;
use super::error::Fault;
use super::opt_outs;
use super::rows::{from_ms, to_ms};
use crate::queue::contacts::from_bytes;
use crate::queue::{ConflictKind, Contact, ContactChange, ContactClaim, KnownContact, Learned};
use crate::segment::{LaneKey, PersonDigest};
use crate::store::contacts::{Known, Presence, USERS_COUNTED, Update, before, day};

/// ?1 destination, ?2 key.
pub(super) const FIND: &str = "
    SELECT contact, email, is_shared, properties, lane, reported_at, known_at, address FROM contacts
    WHERE destination = ?1 AND contact = ?2";
/// ?1 destination, ?2 key, ?3 email, ?4 known before. A row if Loops is known to have the contact.
pub(super) const KNOWN: &str = "
    SELECT 1 FROM contacts WHERE destination = ?1 AND contact IN (?2, ?3) AND known_at < ?4
    UNION ALL
    SELECT 1 FROM contacts WHERE email IN (?2, ?3) AND destination = ?1 AND known_at < ?4
    LIMIT 1";
/// ?1 destination, ?2 key, ?3 email. A row if Loops may treat another contact as the same one.
pub(super) const OTHERS: &str = "
    SELECT 1 FROM contacts WHERE destination = ?1 AND contact = ?3 AND contact <> ?2
    UNION ALL
    SELECT 1 FROM contacts WHERE email IN (?2, ?3) AND destination = ?1 AND contact <> ?2
    UNION ALL
    SELECT 1 FROM contacts WHERE claimed IN (?2, ?3) AND destination = ?1 AND contact <> ?2
    LIMIT 1";
/// ?1 destination, ?2 key, ?3 email. Marks those contacts. A contact stays shared, so those that are marked are left
/// alone: thousands may have one address.
pub(super) const SHARE: &str = "
    UPDATE contacts SET is_shared = 1 WHERE id IN (
        SELECT id FROM contacts WHERE destination = ?1 AND contact = ?3 AND contact <> ?2 AND is_shared = 0
        UNION ALL
        SELECT id FROM contacts WHERE email IN (?2, ?3) AND destination = ?1 AND is_shared = 0 AND contact <> ?2
        UNION ALL
        SELECT id FROM contacts WHERE claimed IN (?2, ?3) AND destination = ?1 AND is_shared = 0 AND contact <> ?2)";
/// ?1 destination, ?2 key, ?3 email, ?4 lane, ?5 is shared, ?6 day, ?7 properties, ?8 address.
pub(super) const LEARN: &str = "
    INSERT INTO contacts (destination, contact, email, lane, is_shared, known_at, changed_day, properties,
                          address)
    VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8)
    ON CONFLICT (destination, contact) DO UPDATE SET
        email = ?3, lane = ?4, is_shared = ?5, known_at = 0, changed_day = ?6, properties = ?7,
        address = ?8, claimed = NULL";
/// ?1 destination. A row if any contact is known.
pub(super) const KNOWS_ANY: &str =
    "SELECT 1 FROM contacts WHERE destination = ?1 AND known_at IS NOT NULL LIMIT 1";
/// ?1 destination, ?2 key, ?3 lane, ?4 day.
pub(super) const CONFIRM: &str = "
    INSERT INTO contacts (destination, contact, lane, known_at, changed_day, properties)
    VALUES (?1, ?2, ?3, 0, ?4, x'')
    ON CONFLICT (destination, contact) DO UPDATE SET known_at = 0, changed_day = ?4, properties = x''";
/// ?1 destination, ?2 key. Unless it was deleted.
pub(super) const CREATED: &str = "
    UPDATE contacts SET known_at = 0
    WHERE destination = ?1 AND contact = ?2 AND known_at IS NOT NULL";
/// ?1 destination, ?2 key.
pub(super) const FORGET: &str =
    "UPDATE contacts SET properties = x'' WHERE destination = ?1 AND contact = ?2";
/// ?1 destination, ?2 seq of a message of the lane.
pub(super) const FORGET_OF_LANE: &str = "
    UPDATE contacts SET properties = x'' WHERE id IN (
        SELECT c.id FROM messages m JOIN contacts c ON c.contact = m.lane AND c.destination = ?1
        WHERE m.seq = ?2
        UNION ALL
        SELECT c.id FROM messages m JOIN contacts c ON c.lane = m.lane AND c.destination = ?1
        WHERE m.seq = ?2 AND c.lane <> c.contact)";
/// ?1 destination, ?2 key, ?3 lane, ?4 is shared, ?5 day, ?6 email. Whether a known contact is shared is left to
/// [`SHARE_OWN`]: setting that column writes each index that has it, even if the value stays the same.
pub(super) const CLAIM: &str = "
    INSERT INTO contacts (destination, contact, lane, is_shared, changed_day, properties, claimed)
    VALUES (?1, ?2, ?3, ?4, ?5, x'', ?6)
    ON CONFLICT (destination, contact) DO UPDATE SET
        lane = ?3, changed_day = ?5, claimed = COALESCE(?6, claimed)";
/// ?1 destination, ?2 key, ?3 lane, ?4 whether it is shared whatever its lane was.
pub(super) const SHARE_OWN: &str = "
    UPDATE contacts SET is_shared = 1
    WHERE destination = ?1 AND contact = ?2 AND is_shared = 0 AND (?4 OR lane <> ?3)";
/// ?1 destination, ?2 lane.
pub(super) const OF_PERSON: &str = "
    DELETE FROM contacts WHERE id IN (
        SELECT id FROM contacts WHERE destination = ?1 AND contact = ?2
        UNION ALL
        SELECT id FROM contacts WHERE email = ?2 AND destination = ?1
        UNION ALL
        SELECT id FROM contacts WHERE claimed = ?2 AND destination = ?1
        UNION ALL
        SELECT id FROM contacts WHERE lane = ?2 AND destination = ?1 AND lane <> contact)";
/// ?1 destination, ?2 digest, ?3 reported at, ?4 whether it was deleted. For contacts that are known by this address.
pub(super) const REPORTED_BY_EMAIL: &str = "
    UPDATE contacts SET properties = x'', reported_at = ?3, email = CASE WHEN ?4 THEN NULL ELSE email END,
        known_at = CASE WHEN ?4 THEN NULL ELSE known_at END,
        address = CASE WHEN ?4 THEN NULL ELSE address END
    WHERE email = ?2 AND destination = ?1";
/// ?1 destination, ?2 key, ?3 reported at. For the contact whose key is the address of a deleted contact.
pub(super) const DELETED_BY_ITS_EMAIL: &str = "
    UPDATE contacts SET properties = x'', reported_at = ?3, known_at = NULL, address = NULL
    WHERE destination = ?1
        AND contact = (SELECT email FROM contacts WHERE destination = ?1 AND contact = ?2)";
/// ?1 destination, ?2 digest, ?3 reported at, ?4 whether it was deleted, ?5 day. Adds a row even for an unknown
/// contact, since a request for it may be under way.
pub(super) const REPORTED: &str = "
    INSERT INTO contacts (destination, contact, reported_at, changed_day, properties)
    VALUES (?1, ?2, ?3, ?5, x'')
    ON CONFLICT (destination, contact) DO UPDATE SET
        properties = x'', reported_at = ?3, email = CASE WHEN ?4 THEN NULL ELSE email END,
        known_at = CASE WHEN ?4 THEN NULL ELSE known_at END,
        address = CASE WHEN ?4 THEN NULL ELSE address END";
/// ?1 destination, ?2 key, ?3 email, ?4 known at, ?5 day, ?6 when that was so. A contact that was known before keeps
/// its time, and one deleted since then stays unknown.
pub(super) const MAKE_KNOWN: &str = "
    INSERT INTO contacts (destination, contact, email, known_at, changed_day, properties)
    VALUES (?1, ?2, ?3, ?4, ?5, x'')
    ON CONFLICT (destination, contact) DO UPDATE SET
        known_at = COALESCE(known_at, ?4), email = COALESCE(email, ?3), changed_day = MAX(changed_day, ?5)
    WHERE known_at IS NOT NULL OR reported_at IS NULL OR reported_at < ?6";
/// ?1 before this day, ?2 limit.
pub(super) const PAST: &str = "
    DELETE FROM contacts WHERE id IN (
        SELECT id FROM contacts WHERE changed_day < ?1 ORDER BY changed_day LIMIT ?2)";

fn known(row: &Row<'_>) -> rusqlite::Result<Known> {
    let contact = Contact {
        key: PersonDigest(row.get(0)?),
        email: row.get::<_, Option<i64>>(1)?.map(PersonDigest),
        is_shared: row.get(2)?,
        address: row.get(7)?,
        properties: from_bytes(&row.get::<_, Vec<u8>>(3)?),
    };
    Ok(Known {
        contact,
        lane: row.get::<_, Option<i64>>(4)?.map(LaneKey),
        reported_at: row.get::<_, Option<i64>>(5)?.map(from_ms),
        known_at: row.get(6)?,
    })
}

pub(super) fn contacts(
    snapshot: &Connection,
    destination: &str,
    keys: &[PersonDigest],
) -> Result<Vec<Contact>, Fault> {
    let mut find = snapshot.prepare_cached(FIND)?;
    let mut found = Vec::new();
    for key in keys {
        let row = find.query_row(params![destination, key.0], known).optional()?;
        found.extend(row.map(|known| known.contact));
    }
    Ok(found)
}

pub(super) fn is_known(
    connection: &Connection,
    destination: &str,
    contact: &KnownContact,
) -> Result<bool, Fault> {
    let email = contact.email.map(|digest| digest.0);
    let known = params![destination, contact.key.0, email, i64::MAX];
    Ok(connection.prepare_cached(KNOWN)?.exists(known)?)
}

/// Applies the outcome of a request; returns whether the request created the contact.
pub(super) fn apply(
    transaction: &Connection,
    destination: &str,
    change: &ContactChange,
    now: Timestamp,
) -> Result<bool, Fault> {
    match change {
        ContactChange::Learn(learned) => return learn(transaction, destination, learned, now),
        ContactChange::Confirm(learned) => return confirm(transaction, destination, learned, now),
        ContactChange::Forget(key) => {
            transaction.prepare_cached(FORGET)?.execute(params![destination, key.0])?;
        }
        // An attempt that began earlier may still report, but no longer correctly.
        ContactChange::Delete(key) => report(transaction, destination, [*key], now, true)?,
    }
    Ok(false)
}

/// Records the contacts that requests are about to change.
pub(super) fn claim(
    transaction: &Connection,
    destination: &str,
    claims: &[ContactClaim],
    now: Timestamp,
) -> Result<(), Fault> {
    for ContactClaim { key, email, lane } in claims {
        let email = email.map(|digest| digest.0);
        let is_shared = share(transaction, destination, key.0, email)?;
        let own = params![destination, key.0, lane.0, is_shared];
        transaction.prepare_cached(SHARE_OWN)?.execute(own)?;
        let row = params![destination, key.0, lane.0, is_shared, day(to_ms(now)), email];
        transaction.prepare_cached(CLAIM)?.execute(row)?;
    }
    Ok(())
}

/// Marks the other contacts that Loops may treat as the same one; returns whether there are any.
fn share(
    transaction: &Connection,
    destination: &str,
    key: i64,
    email: Option<i64>,
) -> Result<bool, Fault> {
    let contact = params![destination, key, email];
    let has_others = transaction.prepare_cached(OTHERS)?.exists(contact)?;
    if has_others {
        transaction.prepare_cached(SHARE)?.execute(contact)?;
    }
    Ok(has_others)
}

fn learn(
    transaction: &Connection,
    destination: &str,
    learned: &Learned,
    now: Timestamp,
) -> Result<bool, Fault> {
    let key = learned.key.0;
    let found =
        transaction.prepare_cached(FIND)?.query_row(params![destination, key], known).optional()?;
    let is_new = has_created(transaction, destination, found.as_ref(), learned)?;
    if let Some(opt_in) = &learned.opt_in {
        let known = found.as_ref().and_then(|known| known.contact.email);
        let persons = [Some(learned.key), learned.email, known].into_iter().flatten();
        opt_outs::lift(transaction, destination, persons, opt_in)?;
    }
    let Some(update) = Update::of(found, learned) else {
        transaction.prepare_cached(CREATED)?.execute(params![destination, key])?;
        arrive(transaction, destination, learned, is_new)?;
        return Ok(is_new);
    };
    let Update { own_email, email, address, has_moved, mut is_shared, properties } = update;
    let has_others = share(transaction, destination, key, email)?;
    is_shared |= has_others;
    let (lane, day) = (learned.lane.0, day(to_ms(now)));
    let row = params![destination, key, own_email, lane, is_shared, day, properties, address];
    transaction.prepare_cached(LEARN)?.execute(row)?;
    arrive(transaction, destination, learned, is_new)?;
    let request = learned.request.0;
    if has_moved {
        let row = params![day, destination, ConflictKind::Addresses.as_str(), key, request];
        transaction.prepare_cached(conflicts::ANOTHER_ADDRESS)?.execute(row)?;
    }
    if let (true, Some(email)) = (has_others, learned.email) {
        let kind = ConflictKind::UserIds.as_str();
        let row = params![day, destination, kind, email.0, request, USERS_COUNTED];
        transaction.prepare_cached(conflicts::SEVERAL_USERS)?.execute(row)?;
    }
    Ok(is_new)
}

fn confirm(
    transaction: &Connection,
    destination: &str,
    learned: &Learned,
    now: Timestamp,
) -> Result<bool, Fault> {
    let key = learned.key.0;
    let found =
        transaction.prepare_cached(FIND)?.query_row(params![destination, key], known).optional()?;
    if Presence::of(found.as_ref(), learned) == Presence::Deleted {
        return Ok(false);
    }
    let is_new = has_created(transaction, destination, found.as_ref(), learned)?;
    let row = params![destination, key, learned.lane.0, day(to_ms(now))];
    transaction.prepare_cached(CONFIRM)?.execute(row)?;
    arrive(transaction, destination, learned, is_new)?;
    Ok(is_new)
}

/// Records the arrival of a contact that was not known before.
fn arrive(
    transaction: &Connection,
    destination: &str,
    learned: &Learned,
    is_new: bool,
) -> Result<(), Fault> {
    if is_new {
        let (key, email) = (learned.key.0, learned.email.map(|digest| digest.0));
        arrivals::arrived(transaction, destination, key, email)?;
    }
    Ok(())
}

/// Whether a request that Loops accepted created its contact.
fn has_created(
    transaction: &Connection,
    destination: &str,
    found: Option<&Known>,
    learned: &Learned,
) -> Result<bool, Fault> {
    if !learned.may_create || Presence::of(found, learned) != Presence::Unknown {
        return Ok(false);
    }
    let (key, email) = (learned.key.0, learned.email.map(|digest| digest.0));
    let known = params![destination, key, email, before(learned)];
    Ok(!transaction.prepare_cached(KNOWN)?.exists(known)?)
}

/// Records that Loops had a contact at a time.
pub(super) fn make_known(
    transaction: &Connection,
    destination: &str,
    (key, email): (PersonDigest, Option<PersonDigest>),
    had_at: Timestamp,
    now: Timestamp,
) -> Result<(), Fault> {
    let email = email.map(|digest| digest.0);
    let row = params![destination, key.0, email, to_ms(now), day(to_ms(now)), to_ms(had_at)];
    transaction.prepare_cached(MAKE_KNOWN)?.execute(row)?;
    arrivals::arrived(transaction, destination, key.0, email)
}

/// Records a change by someone else, as reported by Loops.
pub(super) fn report(
    transaction: &Connection,
    destination: &str,
    digests: impl IntoIterator<Item = PersonDigest>,
    at: Timestamp,
    is_deleted: bool,
) -> Result<(), Fault> {
    for digest in digests {
        let row = params![destination, digest.0, to_ms(at), is_deleted];
        transaction.prepare_cached(REPORTED_BY_EMAIL)?.execute(row)?;
        if is_deleted {
            let row = params![destination, digest.0, to_ms(at)];
            transaction.prepare_cached(DELETED_BY_ITS_EMAIL)?.execute(row)?;
        }
        let row = params![destination, digest.0, to_ms(at), is_deleted, day(to_ms(at))];
        transaction.prepare_cached(REPORTED)?.execute(row)?;
    }
    Ok(())
}
