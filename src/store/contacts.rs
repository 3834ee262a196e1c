//! Rules for contacts at Loops, shared by the engines.

use jiff::Timestamp;

use super::values::to_ms;
use crate::queue::contacts::{merge, to_bytes};
use crate::queue::{
    CONFLICT_DAYS, CONFLICTS_MAX, CONTACTS_KEPT, Contact, FeedbackRecord, IdentityConflict,
    Learned, USERS_COUNTED_MAX,
};
use crate::segment::{LaneKey, PersonDigest};

/// A day in milliseconds.
pub(super) const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Returns the day of a time, in days since the epoch.
pub(super) fn day(at_ms: i64) -> i64 {
    at_ms.div_euclid(DAY_MS)
}

/// Returns the first day of conflicts that are kept. Conflicts last seen earlier are deleted.
pub(super) fn first_day_of_conflicts(now_ms: i64) -> i64 {
    day(now_ms) - i64::from(CONFLICT_DAYS)
}

/// Limits how many conflicts are read. A conflict has at most one row per day, so this many rows contain
/// [`CONFLICTS_MAX`] distinct conflicts if there are that many.
pub(super) const CONFLICTS_READ_MAX: i64 = CONFLICTS_MAX as i64 * (CONFLICT_DAYS as i64 + 1);

/// [`USERS_COUNTED_MAX`], as a limit of a statement.
pub(super) const USERS_COUNTED: i64 = USERS_COUNTED_MAX as i64;

/// Keeps the latest of each contact's conflicts. The input must be sorted newest first.
pub(super) fn newest_of_each(conflicts: Vec<IdentityConflict>) -> Vec<IdentityConflict> {
    let mut newest: Vec<IdentityConflict> = Vec::new();
    for one in conflicts {
        let is_same = |other: &IdentityConflict| {
            other.person == one.person
                && other.kind == one.kind
                && other.destination == one.destination
        };
        if newest.len() < CONFLICTS_MAX as usize && !newest.iter().any(is_same) {
            newest.push(one);
        }
    }
    newest
}

/// Returns the first day of contacts that are kept. Contacts last changed earlier are deleted.
pub(super) fn first_kept_day(now_ms: i64) -> i64 {
    day(now_ms) - (CONTACTS_KEPT.as_millis() as i64) / DAY_MS
}

/// Returns whether the contact was deleted, if Loops reports that it is no longer as our requests left it; `None` for
/// any other report.
pub(super) fn change(feedback: &FeedbackRecord) -> Option<bool> {
    match &*feedback.event {
        "contact.deleted" => Some(true),
        "contact.unsubscribed" => Some(false),
        _ => None,
    }
}

/// Returns the contact that Loops reports as created: its key, and its address if the key is a `userId`.
pub(super) fn created(feedback: &FeedbackRecord) -> Option<(PersonDigest, Option<PersonDigest>)> {
    if feedback.event != "contact.created" {
        return None;
    }
    Some((feedback.user.or(feedback.email)?, feedback.user.and(feedback.email)))
}

/// A contact, with the columns that only the store uses.
pub(super) struct Known {
    pub(super) contact: Contact,
    /// The lane of the last request for it that Loops accepted.
    pub(super) lane: Option<LaneKey>,
    /// When Loops last reported a change by someone else.
    pub(super) reported_at: Option<Timestamp>,
    /// Since when Loops is known to have the contact; 0 if an accepted request shows that it does.
    pub(super) known_at: Option<i64>,
}

/// What a contact's own row says about whether a request has created the contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Loops had it before the attempt began.
    Known,
    /// It has been deleted since the attempt began.
    Deleted,
    /// Another contact with its address may be the same one.
    Unknown,
}

impl Presence {
    pub(super) fn of(known: Option<&Known>, learned: &Learned) -> Self {
        let Some(Known { reported_at, known_at, .. }) = known else { return Self::Unknown };
        match known_at {
            Some(at) if *at < before(learned) => Self::Known,
            None if is_since(*reported_at, learned) => Self::Deleted,
            Some(_) | None => Self::Unknown,
        }
    }
}

/// Returns the time of the attempt: a contact known since before it already existed when the attempt began. At least 1,
/// so that a contact known through a request (0) always did.
pub(super) fn before(learned: &Learned) -> i64 {
    to_ms(learned.started_at).max(1)
}

/// Whether Loops reported a change since the attempt began.
fn is_since(reported_at: Option<Timestamp>, learned: &Learned) -> bool {
    reported_at.is_some_and(|at| to_ms(at) >= to_ms(learned.started_at))
}

/// The new columns of a contact after an accepted request.
pub(super) struct Update {
    /// The digest of its own address.
    pub(super) own_email: Option<i64>,
    /// The digest of the address by which Loops may identify it with other contacts.
    pub(super) email: Option<i64>,
    /// Its own address, sealed.
    pub(super) address: Option<Vec<u8>>,
    /// Whether an upsert replaced its address with another one.
    pub(super) has_moved: bool,
    /// Whether it is shared because requests of several lanes change it. Other contacts with its address make it
    /// shared, too.
    pub(super) is_shared: bool,
    /// Its properties, packed.
    pub(super) properties: Vec<u8>,
}

impl Update {
    /// Merges the learned values into the known ones. Returns `None` if Loops has reported a change since the attempt
    /// began.
    pub(super) fn of(known: Option<Known>, learned: &Learned) -> Option<Self> {
        let (mut own, mut address, mut is_shared, mut properties) = (None, None, false, Vec::new());
        if let Some(Known { contact, lane, reported_at, .. }) = known {
            if is_since(reported_at, learned) {
                return None;
            }
            own = contact.email;
            address = contact.address;
            is_shared = contact.is_shared || lane.is_some_and(|lane| lane != learned.lane);
            properties = contact.properties;
        }
        let mut has_moved = false;
        if let Some(email) = learned.email.filter(|_| learned.is_own_email) {
            has_moved = own.is_some_and(|own| own != email);
            own = Some(email);
            address.clone_from(&learned.address);
        }
        Some(Self {
            address,
            has_moved,
            own_email: own.map(|digest| digest.0),
            email: learned.email.or(own).map(|digest| digest.0),
            is_shared,
            properties: to_bytes(&merge(properties, &learned.properties)),
        })
    }
}
