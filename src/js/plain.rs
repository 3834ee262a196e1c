//! The bytes of a JSON string that need no escape: what reading, writing and scanning JSON share.

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH_BITS: u64 = ONES << 7;

/// Returns how many bytes at the start stand for themselves in a JSON string: those before the first quote,
/// backslash or control character. Looks at eight bytes at a time.
pub(crate) fn plain_length(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // Sets the high bit of each byte below the limit; the borrow may set it in bytes behind the
        // first of them, which do not matter.
        let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH_BITS;
        let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let special = below(word, 0x20) | equal(b'"') | equal(b'\\');
        if special != 0 {
            return index * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let is_plain = |byte: &&u8| !matches!(byte, b'"' | b'\\' | 0..=0x1f);
    words.len() * 8 + rest.iter().take_while(is_plain).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_plain_bytes_are_those_before_the_first_special_one(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            // With plain bytes alone most strings would be special at once.
            plain in 0..40_usize,
        ) {
            let mut bytes = bytes;
            for byte in bytes.iter_mut().take(plain) {
                *byte = (*byte).max(b'#');
            }
            let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
            let expected = bytes.iter().position(is_special).unwrap_or(bytes.len());
            prop_assert_eq!(plain_length(&bytes), expected);
        }
    }
}
