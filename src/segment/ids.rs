//! Digests: short, fixed-size forms of the ids that queues and indices are keyed by.
//!
//! Each is the first eight bytes of an HMAC-SHA256 with a key that the installation generates for itself. Without
//! the key, a digest cannot be matched with an address by trying addresses. Where two different strings must never
//! be taken for one (duplicates), the strings are compared as well.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::js::is_space;

/// The digest of a message's order key: messages with the same one stay in order at one destination. It is one of
/// the digests of its person.
///
/// The order key is `userId`, else `anonymousId`, else the e-mail address (see [`crate::segment::message`]).
/// If the digests of two people collide, their messages are kept in one order; nothing else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneKey(pub i64);

/// The digest of a message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageHash(pub i64);

/// The digest of a `userId`, an `anonymousId` or an e-mail address, by which a person's messages are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersonDigest(pub i64);

/// The digest of the name of a contact property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PropertyName(pub i64);

/// The digest of the value of a contact property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PropertyValue(pub i64);

/// The digest of a request as a mapping made it, so that it can be told later whether another mapping makes a
/// different one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestDigest(pub i64);

impl From<PersonDigest> for LaneKey {
    fn from(PersonDigest(digest): PersonDigest) -> Self {
        LaneKey(digest)
    }
}

/// Which field an id was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersonIdKind {
    /// `userId`.
    User,
    /// `anonymousId`.
    Anonymous,
    /// An e-mail address.
    Email,
}

impl PersonIdKind {
    /// All of them, in the order in which they are taken as order keys.
    pub const ALL: [PersonIdKind; 3] =
        [PersonIdKind::User, PersonIdKind::Anonymous, PersonIdKind::Email];

    fn tag(self) -> &'static str {
        match self {
            PersonIdKind::User => "user",
            PersonIdKind::Anonymous => "anonymous",
            PersonIdKind::Email => "email",
        }
    }
}

/// Computes the digests of one installation. Cheap to clone.
#[derive(Clone)]
pub struct Digests {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for Digests {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Digests")
    }
}

impl Digests {
    /// Takes the key of the installation.
    pub fn new(key: &[u8; 32]) -> Self {
        // HMAC pads a key with zeros to the length of a block.
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        Self { keyed: Hmac::new(&block.into()) }
    }

    /// Digests a message id.
    pub fn message_id(&self, message_id: &str) -> MessageHash {
        MessageHash(self.digest("message", message_id))
    }

    /// Digests an id of a person. A user id and an equal anonymous id have different digests. An e-mail address is
    /// trimmed and lower-cased first.
    pub fn person(&self, kind: PersonIdKind, id: &str) -> PersonDigest {
        let digest = match kind {
            PersonIdKind::User | PersonIdKind::Anonymous => self.digest(kind.tag(), id),
            PersonIdKind::Email => {
                self.digest(kind.tag(), &id.trim_matches(is_space).to_lowercase())
            }
        };
        PersonDigest(digest)
    }

    /// Returns the digests of a string that may be any kind of id.
    pub fn any_person(&self, id: &str) -> Vec<PersonDigest> {
        PersonIdKind::ALL.into_iter().map(|kind| self.person(kind, id)).collect()
    }

    /// Digests the name of a contact property.
    pub fn property_name(&self, name: &str) -> PropertyName {
        PropertyName(self.digest("property", name))
    }

    /// Digests the value of a contact property, as JSON. Values of different revisions never have the same digest.
    pub fn property_value(&self, revision: &str, name: &str, json: &str) -> PropertyValue {
        PropertyValue(self.digest_of(&["value", revision, name, json]))
    }

    /// Signs a string, so that this installation recognizes it: its HMAC-SHA256 as hex digits.
    pub fn sign(&self, text: &str) -> String {
        let mut keyed = self.keyed.clone();
        for part in ["signature", text] {
            keyed.update(part.as_bytes());
            keyed.update(&[0]);
        }
        keyed.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Encrypts a string, so that only this installation can read it; `None` if the system has no randomness.
    pub fn seal(&self, text: &str) -> Option<Vec<u8>> {
        let mut sealed = text.as_bytes().to_vec();
        let nonce = self.sealing_key()?.seal_in_place_append_tag(Aad::empty(), &mut sealed).ok()?;
        sealed.extend(nonce.as_ref());
        Some(sealed)
    }

    /// Decrypts the output of [`Digests::seal`]; `None` if it was changed, or another installation wrote it.
    pub fn unseal(&self, sealed: &[u8]) -> Option<String> {
        let (sealed, nonce) = sealed.split_last_chunk()?;
        let mut sealed = sealed.to_vec();
        let text = self
            .sealing_key()?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut sealed)
            .ok()?;
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }

    /// Derives the key of [`Digests::seal`], which is used for nothing else.
    fn sealing_key(&self) -> Option<RandomizedNonceKey> {
        let mut keyed = self.keyed.clone();
        keyed.update(b"sealing key\0");
        RandomizedNonceKey::new(&AES_256_GCM, &keyed.finalize().into_bytes()).ok()
    }

    /// Digests the path and the body of a request.
    pub fn request(&self, path: &str, body: &[u8]) -> RequestDigest {
        RequestDigest(self.digest_of(&[b"request".as_slice(), path.as_bytes(), body]))
    }

    fn digest(&self, tag: &str, id: &str) -> i64 {
        self.digest_of(&[tag, id])
    }

    fn digest_of(&self, parts: &[impl AsRef<[u8]>]) -> i64 {
        let mut keyed = self.keyed.clone();
        for part in parts {
            keyed.update(part.as_ref());
            keyed.update(&[0]);
        }
        let full = keyed.finalize().into_bytes();
        let mut first = [0; 8];
        first.copy_from_slice(&full[..8]);
        i64::from_be_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_depend_on_the_key_the_kind_and_the_id() {
        let digests = Digests::new(&[1; 32]);
        let person = |kind, id: &str| digests.person(kind, id);
        assert_eq!(person(PersonIdKind::User, "u1"), person(PersonIdKind::User, "u1"));
        assert_ne!(person(PersonIdKind::User, "u1"), person(PersonIdKind::User, "U1"));
        assert_ne!(person(PersonIdKind::User, "u1"), person(PersonIdKind::Anonymous, "u1"));
        assert_ne!(digests.message_id("user\0u1").0, person(PersonIdKind::User, "u1").0);
        let other = Digests::new(&[2; 32]);
        assert_ne!(person(PersonIdKind::User, "u1"), other.person(PersonIdKind::User, "u1"));
        assert_ne!(digests.message_id("m1"), other.message_id("m1"));
    }

    #[test]
    fn what_is_sealed_only_this_installation_reads() {
        let digests = Digests::new(&[1; 32]);
        let sealed = digests.seal("ada@example.com").unwrap();
        assert!(!sealed.windows(3).any(|part| part == b"ada"), "it can be read");
        assert_eq!(digests.unseal(&sealed).as_deref(), Some("ada@example.com"));
        assert_ne!(digests.seal("ada@example.com").unwrap(), sealed, "equal texts can be told");
        assert_eq!(Digests::new(&[2; 32]).unseal(&sealed), None);
        for broken in [&sealed[1..], &[], &sealed[..8]] {
            assert_eq!(digests.unseal(broken), None);
        }
    }

    #[test]
    fn an_address_has_one_digest_however_it_is_written() {
        let digests = Digests::new(&[1; 32]);
        let ada = digests.person(PersonIdKind::Email, "ada@example.com");
        assert_eq!(digests.person(PersonIdKind::Email, " Ada@Example.COM\n"), ada);
        assert!(digests.any_person("ADA@example.com").contains(&ada));
    }
}
