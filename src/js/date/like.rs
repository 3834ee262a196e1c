//! The format `date-like` of Segment's validation, which rests on JavaScript's `Date` and on Day.js.

use super::{MILLISECONDS_MAX, parse_date};
use crate::js::{is_space, number_of_text, number_text};

/// Whether a string has the format `date-like`.
///
/// Segment tries three ways, one after the other: seconds since 1970, the regular expression of Day.js
/// (whatever the numbers are), and JavaScript's `Date`.
pub fn is_date_like(text: &str) -> bool {
    let number = number_of_text(text);
    if number_text(number) == text {
        return (number * 1000.0).abs() <= MILLISECONDS_MAX;
    }
    is_like_iso(text) || parse_date(text).is_some()
}

/// Day.js' regular expression: four digits of a year, then each optional: month, day, hour, minute, second,
/// fraction.
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
    rest.0 = rest.0.trim_start_matches(|c: char| matches!(c, 'T' | 't') || is_space(c));
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
    /// Removes the digits that follow, at most this many; returns how many there were.
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
    use proptest::prelude::*;

    #[test]
    fn dates_are_what_segment_takes_for_them() {
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
            "2024-02-30",
            "2024-12-3",
            "2024/1/5T9:5",
            "2024-01-15TtT 09",
            "2024-01-15\u{2028}09:30",
            "2024-99-99 99:99:99.999",
            "2024:::5",
            "2024-01-15T09:30+05:30",
            "2024-01-15t09:30",
            "8640000000000.0001",
            "1e-7",
            "-0",
            "January 2024",
            "2.30.2024",
            "01/15/2024",
            "Mon, 15 Jan 2024 09:30:00 GMT",
            "Jan 15 2024 (a (nested) note)",
            "+275760-09-13",
        ];
        for text in dates {
            assert!(is_date_like(text), "{text}");
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
            "15.01.2024",
            "January",
            "09:30",
            "yesterday",
            "-8640000000001",
            "-Infinity",
            "1e+21",
            "2024-01-15T24:01:00Z",
            "2024-01-15T09:30:60Z",
            "2024-01-15T09Z",
            "2024-13-45Z",
            "2024-01-15T09:30+24:00",
            "2024-01-15T09:30:00,5Z",
            "+275760-09-14",
            "3 weeks",
            "week3",
            "Jan 15 2024)",
            "71\u{2028}",
        ];
        for text in others {
            assert!(!is_date_like(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_string_makes_it_panic(like in "[0-9]{4}[0-9/TtZé: .-]{0,20}", wild in ".{0,40}") {
            is_date_like(&like);
            is_date_like(&wild);
        }
    }
}
