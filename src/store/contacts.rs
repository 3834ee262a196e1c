//! What the engines share about contacts at Loops.

use jiff::Timestamp;

use super::values::to_ms;
use crate::queue::contacts::{merge, to_bytes};
use crate::queue::{
    CONFLICT_DAYS, CONFLICTS_MAX, CONTACTS_KEPT, Contact, FeedbackRecord, IdentityConflict, Learned,
};
use crate::segment::{LaneKey, PersonDigest};

/// The length of a day.
pub(super) const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The day of a time in milliseconds, in days since the epoch.
pub(super) fn day(at_ms: i64) -> i64 {
    at_ms.div_euclid(DAY_MS)
}

/// Conflicts that were last seen before this day are forgotten.
pub(super) fn first_day_of_conflicts(now_ms: i64) -> i64 {
    day(now_ms) - i64::from(CONFLICT_DAYS)
}

/// How many conflicts are read at most, so that [`CONFLICTS_MAX`] different ones are among them.
pub(super) const CONFLICTS_READ_MAX: i64 = CONFLICTS_MAX as i64 * (CONFLICT_DAYS as i64 + 1);

/// The latest of the conflicts of each contact; they are given newest first.
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

/// Contacts that were last changed before this day are forgotten.
pub(super) fn first_kept_day(now_ms: i64) -> i64 {
    day(now_ms) - (CONTACTS_KEPT.as_millis() as i64) / DAY_MS
}

/// Whether a report of Loops means that a contact no longer is as our requests made it; and then, whether it was deleted.
pub(super) fn change(feedback: &FeedbackRecord) -> Option<bool> {
    match &*feedback.event {
        "contact.deleted" => Some(true),
        "contact.unsubscribed" => Some(false),
        _ => None,
    }
}

/// The contact that Loops reported to have created: its key, and the address beside a `userId`.
pub(super) fn created(feedback: &FeedbackRecord) -> Option<(PersonDigest, Option<PersonDigest>)> {
    if feedback.event != "contact.created" {
        return None;
    }
    Some((feedback.user.or(feedback.email)?, feedback.user.and(feedback.email)))
}

/// A contact, with what only the stores need to know of it.
pub(super) struct Known {
    pub(super) contact: Contact,
    /// The lane of the last request that Loops accepted for it.
    pub(super) lane: Option<LaneKey>,
    /// When Loops last reported that others changed it.
    pub(super) reported_at: Option<Timestamp>,
    /// Since when Loops is known to have it.
    pub(super) known_at: Option<i64>,
}

/// What the row of a contact alone says of whether a request has created it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Loops had it before.
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

/// A contact that has been known since before this time was known when the attempt began. At least 1, so that a contact
/// that is known by a request (0) always was.
pub(super) fn before(learned: &Learned) -> i64 {
    to_ms(learned.started_at).max(1)
}

/// Whether Loops reported a change since the attempt began.
fn is_since(reported_at: Option<Timestamp>, learned: &Learned) -> bool {
    reported_at.is_some_and(|at| to_ms(at) >= to_ms(learned.started_at))
}

/// What is known of a contact once more was learned.
pub(super) struct Update {
    /// The digest of its own address.
    pub(super) own_email: Option<i64>,
    /// The digest of the address by which other contacts are the same one to Loops.
    pub(super) email: Option<i64>,
    /// Its own address, sealed.
    pub(super) address: Option<Vec<u8>>,
    /// Whether an upsert gave it another address than it had.
    pub(super) has_moved: bool,
    /// Whether its lanes make it shared; other contacts with its address do, too.
    pub(super) is_shared: bool,
    /// Its properties, packed.
    pub(super) properties: Vec<u8>,
}

impl Update {
    /// Adds what was learned to what is known; `None`: Loops has reported a change since the attempt began.
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
