//! What is known of the contacts at Loops: by what Loops accepted from us, and by what it reported.
//!
//! Everything is kept as digests with the key of the installation. It is written in the transaction that records that
//! Loops accepted a request, and forgotten as soon as it may no longer be true.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::consent::OptIn;
use super::order::RequestId;
use crate::segment::{LaneKey, PersonDigest, PropertyName, PropertyValue};

/// How long a contact is remembered after the last request for it.
pub const CONTACTS_KEPT: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The most properties of one contact that are remembered; the newest stay.
pub const PROPERTIES_MAX: usize = 500;

/// What is known of a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The digest of its `userId`, or of its e-mail address if its requests have no `userId`.
    pub key: PersonDigest,
    /// The digest of the address that the last upsert with a `userId` gave it.
    pub email: Option<PersonDigest>,
    /// Whether requests of another lane, or of another contact with its address, may have changed it. Loops may then
    /// hold other values than these.
    pub is_shared: bool,
    /// The address itself, sealed by [`Digests::seal`](crate::segment::Digests::seal); `None` unless it is kept for
    /// events that have none.
    pub address: Option<Vec<u8>>,
    /// The values that Loops accepted last.
    pub properties: Vec<KnownProperty>,
}

/// Contacts that Loops may have mixed up because they share a user id or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConflict {
    /// Name of the destination.
    pub destination: String,
    /// The kind of conflict.
    pub kind: ConflictKind,
    /// The digest of the `userId` that has several addresses, or of the address that several user ids have.
    pub person: PersonDigest,
    /// The beginning of the day, in UTC, on which it was seen.
    pub day: Timestamp,
    /// How many addresses (3 or more) or user ids (2 or more) were seen that day. At most [`USERS_COUNTED_MAX`] user ids
    /// are counted.
    pub count: u64,
    /// The request that showed it last.
    pub request: RequestId,
}

/// Kinds of conflicts between contacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictKind {
    /// One `userId` was given several addresses on one day. Each change counts, including a change back.
    Addresses,
    /// Several user ids have one address. Loops finds a contact by user id or address, so requests for one overwrite
    /// another.
    UserIds,
}

impl ConflictKind {
    /// All variants.
    pub const ALL: [ConflictKind; 2] = [ConflictKind::Addresses, ConflictKind::UserIds];

    /// Returns the name in the store and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            ConflictKind::Addresses => "addresses",
            ConflictKind::UserIds => "user_ids",
        }
    }

    /// Parses the result of [`ConflictKind::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How many days a conflict is kept after it was last seen.
pub const CONFLICT_DAYS: u16 = 7;

/// The most user ids with one address that are counted. Counting is part of each request for one of them, and thousands
/// may have one address.
pub const USERS_COUNTED_MAX: u32 = 100;

/// The most conflicts that one query returns.
pub const CONFLICTS_MAX: u32 = 50;

/// A value that Loops accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownProperty {
    /// Its name.
    pub name: PropertyName,
    /// The value.
    pub value: PropertyValue,
    /// When Loops accepted it.
    pub at: Timestamp,
    /// When the message that set it happened; the epoch if that was not determined.
    pub happened_at: Timestamp,
    /// The request that carried it.
    pub request: RequestId,
}

/// How the outcome of a request changes what is known of its contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContactChange {
    /// Loops accepted the request.
    Learn(Learned),
    /// Loops had accepted the request before, perhaps without the values that it has now. Loops has the contact, but
    /// its values are no longer known.
    Confirm(Learned),
    /// Loops may have applied all, some or none of the request. The values of this contact are no longer known.
    Forget(PersonDigest),
    /// Loops deleted the contact with this `userId` or e-mail address.
    Delete(PersonDigest),
}

/// A contact that a request is about to change. From then on it counts as shared if requests of another lane, or of
/// another contact with its address, may change it too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactClaim {
    /// See [`Contact::key`].
    pub key: PersonDigest,
    /// The digest of the address in the request, if it is not the key.
    pub email: Option<PersonDigest>,
    /// The lane of the request.
    pub lane: LaneKey,
}

/// What is learned of a contact from a request that Loops accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// See [`Contact::key`].
    pub key: PersonDigest,
    /// The digest of the address in the request, if it is not the key.
    pub email: Option<PersonDigest>,
    /// Whether that address is known to be the person's own, because an upsert gave it.
    pub is_own_email: bool,
    /// Whether the request has an address, so that Loops creates the contact if it does not exist.
    pub may_create: bool,
    /// The lane of the request.
    pub lane: LaneKey,
    /// The address itself, sealed, if it is to be kept.
    pub address: Option<Vec<u8>>,
    /// The request.
    pub request: RequestId,
    /// When the attempt began. Reports from Loops since then take precedence.
    pub started_at: Timestamp,
    /// The values in the request.
    pub properties: Vec<KnownProperty>,
    /// The subscriptions it gives the contact, if they may bring back a person who left.
    pub opt_in: Option<OptIn>,
}

/// Adds newer values to the known ones; the newest [`PROPERTIES_MAX`] stay.
pub(crate) fn merge(known: Vec<KnownProperty>, newer: &[KnownProperty]) -> Vec<KnownProperty> {
    let is_replaced =
        |known: &KnownProperty| newer.iter().any(|property| property.name == known.name);
    let mut merged: Vec<KnownProperty> =
        known.into_iter().filter(|known| !is_replaced(known)).collect();
    merged.extend(newer);
    if merged.len() > PROPERTIES_MAX {
        merged.sort_by_key(|property| property.at);
        merged.drain(..merged.len() - PROPERTIES_MAX);
    }
    merged
}

/// The first byte of packed properties: the version of the format that [`to_bytes`] writes.
const PACKING: u8 = 1;

/// The length of a packed property: five big-endian numbers of eight bytes each.
const PROPERTY_BYTES: usize = 40;

/// Packs properties for the store.
pub(crate) fn to_bytes(properties: &[KnownProperty]) -> Vec<u8> {
    if properties.is_empty() {
        return Vec::new();
    }
    let numbers =
        properties.iter().flat_map(|KnownProperty { name, value, at, happened_at, request }| {
            [name.0, value.0, at.as_millisecond(), happened_at.as_millisecond(), request.0]
        });
    let mut bytes = vec![PACKING];
    bytes.extend(numbers.flat_map(i64::to_be_bytes));
    bytes
}

/// Reads the format of [`to_bytes`]. Bytes in any other format, such as that of an earlier release, yield no
/// properties.
pub(crate) fn from_bytes(bytes: &[u8]) -> Vec<KnownProperty> {
    let Some((&PACKING, bytes)) = bytes.split_first() else { return Vec::new() };
    if bytes.len() % PROPERTY_BYTES != 0 {
        return Vec::new();
    }
    let property = |bytes: &[u8]| {
        let mut numbers = bytes
            .chunks_exact(8)
            .map(|number| number.try_into().map(i64::from_be_bytes).unwrap_or_default());
        let mut next = || numbers.next();
        Some(KnownProperty {
            name: PropertyName(next()?),
            value: PropertyValue(next()?),
            at: Timestamp::from_millisecond(next()?).ok()?,
            happened_at: Timestamp::from_millisecond(next()?).ok()?,
            request: RequestId(next()?),
        })
    };
    bytes.chunks_exact(PROPERTY_BYTES).filter_map(property).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(name: i64, value: i64, at: i64) -> KnownProperty {
        let at = Timestamp::from_second(at).unwrap();
        let (name, value) = (PropertyName(name), PropertyValue(value));
        KnownProperty { name, value, at, happened_at: at, request: RequestId(at.as_second()) }
    }

    #[test]
    fn properties_are_read_as_they_were_written() {
        let properties = vec![property(i64::MIN, -1, 0), property(2, i64::MAX, 1_700_000_000)];
        assert_eq!(from_bytes(&to_bytes(&properties)), properties);
        assert_eq!(from_bytes(b""), []);
    }

    #[test]
    fn bytes_that_are_no_properties_are_passed_over() {
        let mut bytes = to_bytes(&[property(1, 1, 1)]);
        bytes.extend([0x7f; PROPERTY_BYTES]);
        assert_eq!(from_bytes(&bytes), [property(1, 1, 1)]);
        bytes.extend([1; 7]);
        assert_eq!(from_bytes(&bytes), []);
        // The format of a release that kept four numbers for each property.
        assert_eq!(from_bytes(&[1; 5 * 32]), []);
    }

    #[test]
    fn a_newer_value_replaces_the_known_one() {
        let known = vec![property(1, 1, 1), property(2, 1, 1)];
        let merged = merge(known, &[property(2, 5, 2), property(3, 1, 2)]);
        assert_eq!(merged, [property(1, 1, 1), property(2, 5, 2), property(3, 1, 2)]);
    }

    #[test]
    fn of_too_many_properties_the_newest_stay() {
        let count = PROPERTIES_MAX as i64;
        let known = (0..count).map(|name| property(name, 1, name)).collect();
        let merged = merge(known, &[property(-1, 1, count), property(-2, 1, count)]);
        assert_eq!(merged.len(), PROPERTIES_MAX);
        assert!(!merged.contains(&property(1, 1, 1)));
        assert!(merged.contains(&property(2, 1, 2)));
        assert!(merged.contains(&property(-2, 1, count)));
    }
}
