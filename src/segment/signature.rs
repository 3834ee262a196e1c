//! The signature of Segment's webhooks: `X-Signature`, hex HMAC-SHA1 with the shared secret.
//!
//! For a single message it covers the body. For an array it covers the first element alone, as in Segment's published
//! webhook destination; a signature of the whole array is accepted, too. It is always verified over the bytes that
//! came, since JSON that is decoded and encoded again is not the same string.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// Whether `signature` is valid for `body`, or for the `first` element of an array in it. Compares in constant time.
pub fn is_valid(secret: &str, signature: &str, body: &[u8], first: Option<&[u8]>) -> bool {
    let Some(given) = from_hex(signature.trim()) else {
        return false;
    };
    let over_body = is_mac_of(secret, body, &given);
    let over_first = first.is_some_and(|first| is_mac_of(secret, first, &given));
    over_body || over_first
}

fn is_mac_of(secret: &str, text: &[u8], given: &[u8]) -> bool {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else {
        return false;
    };
    mac.update(text);
    mac.verify_slice(given).is_ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() == 40)?;
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // HMAC-SHA1 test vector 2 of RFC 2202.
    const KEY: &str = "Jefe";
    const TEXT: &[u8] = b"what do ya want for nothing?";
    const MAC: &str = "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79";

    #[test]
    fn knows_the_right_signature_alone() {
        assert!(is_valid(KEY, MAC, TEXT, None));
        assert!(is_valid(KEY, &MAC.to_uppercase(), TEXT, None));
        assert!(is_valid(KEY, MAC, b"[list]", Some(TEXT)));
        for wrong in [
            "",
            "e",
            &MAC[1..],
            &MAC.replace('e', "f"),
            &MAC.replace('e', "x"),
            &format!("{MAC}00"),
        ] {
            assert!(!is_valid(KEY, wrong, TEXT, Some(TEXT)), "{wrong}");
        }
        assert!(!is_valid("other", MAC, TEXT, None));
        assert!(!is_valid(KEY, MAC, b"other", Some(b"other")));
    }
}
