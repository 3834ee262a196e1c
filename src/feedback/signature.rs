//! The signature of Loops' webhooks, as in the Standard Webhooks specification: the base64 of the HMAC-SHA256 over
//! `{id}.{timestamp}.{body}`. The secret is the base64 of the key.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::secret::Secret;

/// Base64 with or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The version of the signatures that this program knows.
const VERSION: &str = "v1";

/// The key in a secret.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key")
    }
}

impl Key {
    /// Reads a secret as Loops shows it, `whsec_` and base64, or the base64 alone. `None` if it is neither.
    pub fn read(secret: &Secret) -> Option<Self> {
        let text = secret.expose();
        // The prefix ends with an underscore, which is not a character of base64.
        let text = text.split_once('_').map_or(text, |(_, rest)| rest);
        let key = BASE64.decode(text).ok().filter(|key| !key.is_empty())?;
        Hmac::new_from_slice(&key).ok().map(Self)
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac
    }
}

/// Returns whether one of the signatures, which are separated by spaces, was made with one of the keys. All are
/// compared, each in a time that does not depend on where the two differ.
pub fn is_valid(keys: &[Key], signatures: &str, id: &str, timestamp: &str, body: &[u8]) -> bool {
    let given = signatures.split_ascii_whitespace().filter_map(|signature| {
        let (version, text) = signature.split_once(',')?;
        (version == VERSION).then(|| BASE64.decode(text).ok())?
    });
    let given: Vec<Vec<u8>> = given.collect();
    keys.iter().fold(false, |valid, key| {
        let mac = key.mac(id, timestamp, body);
        given.iter().fold(valid, |valid, given| valid | mac.clone().verify_slice(given).is_ok())
    })
}

/// Signs a webhook, as Loops does.
pub fn sign(key: &Key, id: &str, timestamp: &str, body: &[u8]) -> String {
    let mac = key.mac(id, timestamp, body).finalize().into_bytes();
    format!("{VERSION},{}", BASE64.encode(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example with which the libraries of Standard Webhooks are tested.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: &str = "1614265330";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn key(text: &str) -> Key {
        Key::read(&Secret::new(text)).unwrap()
    }

    #[test]
    fn the_example_of_the_specification_is_valid() {
        assert_eq!(sign(&key(SECRET), ID, TIMESTAMP, BODY), SIGNATURE);
        let valid =
            |keys: &[Key], signatures: &str| is_valid(keys, signatures, ID, TIMESTAMP, BODY);
        assert!(valid(&[key(SECRET)], SIGNATURE));
        // The prefix is not part of the key, whatever it is.
        for text in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "other_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(valid(&[key(text)], SIGNATURE), "{text}");
        }
        // There are several keys while one is being changed here, and several signatures while Loops changes one.
        let other = key("whsec_AAAA");
        assert!(valid(&[other.clone(), key(SECRET)], SIGNATURE));
        let foreign = sign(&other, ID, TIMESTAMP, BODY);
        for signatures in [
            format!("{foreign} {SIGNATURE}"),
            format!("{SIGNATURE} {foreign}"),
            format!("v2,xyz v1 , v1,!!! {SIGNATURE}"),
            SIGNATURE.trim_end_matches('=').to_owned(),
        ] {
            assert!(valid(&[key(SECRET)], &signatures), "{signatures}");
        }
    }

    #[test]
    fn nothing_else_is() {
        let keys = [key(SECRET)];
        let cut = &SIGNATURE[..SIGNATURE.len() - 5];
        for signatures in [
            "",
            " ",
            "v1",
            "v1,",
            cut,
            &SIGNATURE.replace("v1", "v1a"),
            &SIGNATURE.replace("v1,", ""),
            &SIGNATURE.replace("g0hM", "g0hN"),
            &sign(&key("whsec_AAAA"), ID, TIMESTAMP, BODY),
        ] {
            assert!(!is_valid(&keys, signatures, ID, TIMESTAMP, BODY), "{signatures}");
        }
        assert!(!is_valid(&keys, SIGNATURE, "msg_other", TIMESTAMP, BODY));
        assert!(!is_valid(&keys, SIGNATURE, ID, "1614265331", BODY));
        assert!(!is_valid(&keys, SIGNATURE, ID, TIMESTAMP, br#"{"test":2432232314}"#));
        assert!(!is_valid(&[], SIGNATURE, ID, TIMESTAMP, BODY));
    }

    #[test]
    fn a_secret_is_base64() {
        for text in ["", "whsec_", "whsec_!!", "whsec_a", "a secret"] {
            assert!(Key::read(&Secret::new(text)).is_none(), "{text}");
        }
    }
}
