//! What Segment's validation takes for a date. A field that is one is sent as it came.

use crate::segment::date::{MILLISECONDS_MAX, parse_date};
use crate::segment::value::{is_js_space, number_of_text, number_text};

/// Whether a text is a date.
///
/// Segment looks at it in three ways, one after the other: as seconds since 1970, by the pattern of
/// its library for dates (whatever the numbers are), and at last as JavaScript's `Date` does.
pub(super) fn is_date(text: &str) -> bool {
    let number = number_of_text(text);
    if number_text(number) == text {
        return (number * 1000.0).abs() <= MILLISECONDS_MAX;
    }
    is_like_iso(text) || parse_date(text).is_some()
}

/// Four digits of a year, then each optional: month, day, hour, minute, second, fraction.
fn is_like_iso(text: &str) -> bool {
    if text.ends_with(['Z', 'z']) {
        return false;
    }
    let mut rest = Rest(text);
    if rest.digits(4) < 4 {
        return false;
    }
    rest.any_of(&['-', '/']);
    rest.digits(2);
    rest.any_of(&['-', '/']);
    rest.digits(2);
    rest.0 = rest.0.trim_start_matches(|c: char| matches!(c, 'T' | 't') || is_js_space(c));
    rest.digits(2);
    rest.any_of(&[':']);
    rest.digits(2);
    rest.any_of(&[':']);
    rest.digits(2);
    rest.any_of(&['.', ':']);
    rest.0.bytes().all(|byte| byte.is_ascii_digit())
}

/// What is left of a text.
struct Rest<'t>(&'t str);

impl Rest<'_> {
    /// Takes at most so many digits, as many as there are.
    fn digits(&mut self, most: usize) -> usize {
        let count = self.0.bytes().take(most).take_while(u8::is_ascii_digit).count();
        self.0 = &self.0[count..];
        count
    }

    fn any_of(&mut self, symbols: &[char]) {
        self.0 = self.0.strip_prefix(symbols).unwrap_or(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_segment_takes() {
        let dates = [
            "2024-01-15T09:30:00.000Z",
            "2024-01-15",
            "2024",
            "202401",
            "20240115 0930",
            "2024-13-45",
            "2024/02/30",
            "2024-01-15 09:30:00:123456789",
            "0",
            "-1",
            "1705310000.5",
            "8640000000000",
            "-8640000000000",
            "May 5, 2024",
            "week 3",
            " 2024-01-15",
        ];
        for text in dates {
            assert!(is_date(text), "{text}");
        }
        let others = [
            "",
            " ",
            "8640000000001",
            "9999999999999",
            "2024-13-01T00:00:00Z",
            "20240115T093000Z",
            "not a date",
            "n/a",
            "true",
            "NaN",
            "Infinity",
            "15/1/2024",
        ];
        for text in others {
            assert!(!is_date(text), "{text}");
        }
    }
}
