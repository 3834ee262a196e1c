//! Reads the times of messages: ISO 8601, and what else is unambiguous.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::date::parse_date;
use super::value::Value;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Reads a time as SDKs and people's own code write it; `None` where it may mean several.
///
/// ISO 8601, with an offset or `Z`, else in UTC; a date with the month's name in English, as in HTTP
/// and mail; a number since 1970, whose unit follows from its digits (see [`since_1970`]).
/// `01/02/2026` is not read: it is a day in January or in February.
pub(super) fn read_time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Number(number) => since_1970(*number),
        Value::String(text) => {
            let text = text.trim();
            let iso = text.parse().ok().or_else(|| civil(text));
            iso.or_else(|| since_1970(text.parse().ok()?)).or_else(|| spelled(text))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A time without an offset is in UTC.
fn civil(text: &str) -> Option<Timestamp> {
    // Digits alone are a count, not a date.
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    TimeZone::UTC.to_timestamp(civil).ok()
}

/// Seconds, milliseconds, microseconds or nanoseconds since 1970: whichever makes it a time between
/// 1973 and 2286.
fn since_1970(number: f64) -> Option<Timestamp> {
    const UNITS_PER_SECOND: [f64; 4] = [1.0, 1e3, 1e6, 1e9];
    let seconds = UNITS_PER_SECOND.map(|units| number / units);
    let seconds = seconds.into_iter().find(|seconds| (1e8..1e10).contains(seconds))?;
    #[allow(clippy::cast_possible_truncation, reason = "at most thirteen digits")]
    Timestamp::from_millisecond((seconds * 1e3).round() as i64).ok()
}

/// A date that names its month, or begins with its year.
fn spelled(text: &str) -> Option<Timestamp> {
    let lower = text.to_ascii_lowercase();
    let is_month = |word: &str| MONTHS.iter().any(|month| word.starts_with(month));
    let has_month = lower.split(|c: char| !c.is_ascii_alphabetic()).any(is_month);
    let year_digits = lower.bytes().take_while(u8::is_ascii_digit).count();
    let has_year_first = year_digits == 4 && matches!(lower.as_bytes().get(4), Some(b'-' | b'/'));
    if !has_month && !has_year_first {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "bounded by JavaScript's range of dates")]
    Timestamp::from_millisecond(parse_date(text)? as i64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::decode::decode;

    #[test]
    fn what_is_unambiguous_is_read() {
        let first_of_may = "2024-05-01T10:00:00Z";
        let cases = [
            (r#""2024-05-01T10:00:00Z""#, Some(first_of_may)),
            (r#"" 2024-05-01T12:00:00+02:00 ""#, Some(first_of_may)),
            (r#""2024-05-01T12:00:00+0200""#, Some(first_of_may)),
            (r#""2024-05-01T10:00:00""#, Some(first_of_may)),
            (r#""2024-05-01 10:00:00""#, Some(first_of_may)),
            (r#""2024-05-01 10:00:00 +0000""#, Some(first_of_may)),
            (r#""2024-05-01 10:00:00 UTC""#, Some(first_of_may)),
            (r#""2024/05/01 10:00:00""#, Some(first_of_may)),
            (r#""2024-05-01""#, Some("2024-05-01T00:00:00Z")),
            (r#""Wed, 01 May 2024 10:00:00 GMT""#, Some(first_of_may)),
            (r#""Wed, 1 May 2024 12:00:00 +0200""#, Some(first_of_may)),
            (
                r#""Wed May 01 2024 12:00:00 GMT+0200 (Central European Summer Time)""#,
                Some(first_of_may),
            ),
            (r#""May 1, 2024 10:00 AM""#, Some(first_of_may)),
            ("1714557600", Some(first_of_may)),
            ("1714557600.0", Some(first_of_may)),
            ("1714557600000", Some(first_of_may)),
            ("1714557600000000", Some(first_of_may)),
            ("1714557600000000000", Some(first_of_may)),
            (r#""1714557600""#, Some(first_of_may)),
            (r#""1714557600000""#, Some(first_of_may)),
            ("1714557600.123", Some("2024-05-01T10:00:00.123Z")),
            ("1396594800", Some("2014-04-04T07:00:00Z")),
            (r#""01/02/2024""#, None),
            (r#""01.02.2024 10:00""#, None),
            (r#""01-02-2024""#, None),
            (r#""20240501100000""#, None),
            ("20240501100000", None),
            ("17", None),
            ("-1714557600", None),
            ("1e400", None),
            ("NaN", None),
            (r#""soon""#, None),
            (r#""""#, None),
            ("true", None),
            (r#"{"$date":"2024-05-01T10:00:00Z"}"#, None),
        ];
        for (text, expected) in cases {
            let read = read_time(&decode(text.as_bytes()).unwrap());
            assert_eq!(read.map(|at| at.to_string()).as_deref(), expected, "{text}");
        }
    }
}
