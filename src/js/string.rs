//! Strings as JavaScript counts and trims them: in UTF-16 code units.

/// Whether JavaScript's `trim` and `\s` take a character for white space: U+FEFF is, U+0085 is not.
pub fn is_space(c: char) -> bool {
    c == '\u{feff}' || (c != '\u{85}' && c.is_whitespace())
}

/// Returns JavaScript's `length` of a string: its UTF-16 code units, two for `😀`.
pub fn utf16_length(text: &str) -> usize {
    text.encode_utf16().count()
}

/// Returns the string of these UTF-16 code units; half of a surrogate pair becomes U+FFFD.
pub fn from_utf16(units: &[u16]) -> String {
    String::from_utf16_lossy(units)
}

/// Returns the index that JavaScript's `slice` and `substring` make of a number that is not counted from the
/// end: a whole number from 0 to `length`, and 0 for NaN.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "cut to 0..=length first"
)]
pub fn clamp_index(index: f64, length: usize) -> usize {
    if index.is_nan() || index <= 0.0 {
        0
    } else {
        (index.min(f64::from(u32::MAX)) as usize).min(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_what_trim_removes() {
        assert!(
            "\t\n\u{b}\u{c}\r \u{a0}\u{1680}\u{2028}\u{2029}\u{3000}\u{feff}".chars().all(is_space)
        );
        assert!(!"\u{85}\u{200b}\u{180e}a".chars().any(is_space));
    }

    #[test]
    fn lengths_count_code_units() {
        for (text, length) in [("", 0), ("é", 1), ("😀", 2), ("a😀", 3)] {
            assert_eq!(utf16_length(text), length, "{text}");
        }
        assert_eq!(from_utf16(&[0xd83d, 0xde00, 0xd83d]), "😀\u{fffd}");
    }

    #[test]
    fn an_index_is_cut_to_the_length() {
        let cases = [(f64::NAN, 0), (-1.0, 0), (1.9, 1), (3.0, 3), (4.0, 3), (f64::INFINITY, 3)];
        for (index, expected) in cases {
            assert_eq!(clamp_index(index, 3), expected, "{index}");
        }
    }
}
