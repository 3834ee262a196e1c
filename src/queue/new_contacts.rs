//! New contacts: how many the requests of a destination may create in a day, and which messages are held because of
//! that.
//!
//! A held message stays pending and is not planned, and its lane waits. The transaction that would have frozen the
//! message holds it instead; the hold ends when the message is planned or has ended. The same transaction counts the
//! room that is taken: contacts that were new on that day, and contacts that frozen requests may still create.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::error::Unavailable;
use super::order::Seq;
use crate::segment::{LaneKey, PersonDigest};

/// A contact that Loops has, or may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownContact {
    /// The digest of its `userId`, or of its e-mail address if it has none.
    pub key: PersonDigest,
    /// The digest of the address beside a `userId`.
    pub email: Option<PersonDigest>,
}

/// A contact that a message creates if Loops does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Creation {
    /// The message.
    pub seq: Seq,
    /// The contact.
    pub contact: KnownContact,
}

impl KnownContact {
    /// Returns the contact with a `userId` and an address; `None` if it has neither.
    ///
    /// ```
    /// use segment_loops::queue::KnownContact;
    /// use segment_loops::segment::PersonDigest;
    ///
    /// let (user, email) = (Some(PersonDigest(1)), Some(PersonDigest(2)));
    /// let both = KnownContact { key: PersonDigest(1), email };
    /// assert_eq!(KnownContact::of(user, email), Some(both));
    /// let address_only = KnownContact { key: PersonDigest(2), email: None };
    /// assert_eq!(KnownContact::of(None, email), Some(address_only));
    /// assert_eq!(KnownContact::of(None, None), None);
    /// ```
    pub fn of(user: Option<PersonDigest>, email: Option<PersonDigest>) -> Option<Self> {
        Some(Self { key: user.or(email)?, email: user.and(email) })
    }
}

/// How many contacts a destination may create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactCap {
    /// The most contacts in a day, apart from what was released.
    pub per_day: u32,
    /// The contacts that the messages of the merge may create; not empty.
    pub creations: Vec<Creation>,
}

/// Why a message is held, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldReason {
    /// It would create more contacts than `new_contacts_per_day` allows.
    NewContactCap,
    /// Read from the store, but unknown to this release.
    Unknown,
}

/// A message is held instead of planned. If it was to be merged with others, nothing is written: the caller must plan
/// it alone, because there may be room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Whether it was not held before.
    pub is_new: bool,
    /// Whether a message of type `delete` waits behind it in its lane. Then it is not held, because that would keep the
    /// person from being deleted; the caller must end it.
    pub is_before_deletion: bool,
}

/// Why, and since when, a pending message is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The reason.
    pub reason: HoldReason,
    /// Since when.
    pub since: Timestamp,
    /// Whether an earlier message of its lane is held, rather than this one.
    pub is_behind: bool,
}

/// Asks which held messages may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldsAsk {
    /// The current time.
    pub now: Timestamp,
    /// How many contacts may be created in a day; `None`: any number.
    pub per_day: Option<u32>,
    /// The most lanes to return.
    pub limit: u32,
}

/// The held messages that may go on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HoldsAnswer {
    /// Lanes whose first message is to be planned again: its contact has become known, or there is room for it.
    pub lanes: Vec<LaneKey>,
    /// How many messages were discarded today. If this changes, other lanes may go on too.
    pub discarded: u64,
}

/// What people did today about the new contacts of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewContactsDay {
    /// Name of the destination.
    pub destination: String,
    /// How many contacts may be created today beyond the cap.
    pub released: u64,
    /// How many messages were discarded today.
    pub discarded: u64,
}

/// The most messages that [`NewContacts::discard_held`] ends in one transaction.
pub const DISCARD_MAX: u32 = 200;

/// What people can do about held messages, and about which contacts are known.
#[async_trait]
pub trait NewContacts: Send + Sync {
    /// Returns what was done today, for each destination where anything was done.
    async fn new_contacts(&self, now: Timestamp) -> Result<Vec<NewContactsDay>, Unavailable>;

    /// Returns how many messages of a destination are held at this moment, not counting messages that wait behind them,
    /// and since when the first of them has been held.
    async fn count_held(&self, destination: &str) -> Result<(u64, Option<Timestamp>), Unavailable>;

    /// Returns whether any contact of a destination is known.
    async fn knows_any(&self, destination: &str) -> Result<bool, Unavailable>;

    /// Lets a destination create more contacts today.
    async fn release_contacts(
        &self,
        destination: &str,
        count: u32,
        now: Timestamp,
    ) -> Result<(), Unavailable>;

    /// Ends the messages of a destination that have been held since `since` or earlier: they fail as
    /// [`FailureReason::Discarded`](super::FailureReason::Discarded). Ends at most [`DISCARD_MAX`], and returns how
    /// many. Messages that waited behind them go on.
    async fn discard_held(
        &self,
        destination: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<u64, Unavailable>;
}

impl HoldReason {
    /// Those that this release gives.
    pub const ALL: [HoldReason; 1] = [HoldReason::NewContactCap];

    /// Returns the name, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            HoldReason::NewContactCap => "new_contact_cap",
            HoldReason::Unknown => "unknown",
        }
    }

    /// Parses the result of [`HoldReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// Returns when the day of a time began, in UTC.
pub fn day_of(at: Timestamp) -> Timestamp {
    const DAY: SignedDuration = SignedDuration::from_hours(24);
    let into_it = at.as_second().rem_euclid(DAY.as_secs());
    Timestamp::from_second(at.as_second() - into_it).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_in_utc() {
        for (at, day) in [
            ("2026-11-27T00:00:00Z", "2026-11-27T00:00:00Z"),
            ("2026-11-27T23:59:59.999Z", "2026-11-27T00:00:00Z"),
            ("1969-12-31T12:00:00.5Z", "1969-12-31T00:00:00Z"),
        ] {
            assert_eq!(day_of(at.parse().unwrap()), day.parse().unwrap(), "{at}");
        }
    }
}
