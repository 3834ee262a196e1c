//! Parses the times of messages: ISO 8601, and other forms that are unambiguous.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::js::Value;
use crate::js::date::parse_date;

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// Parses a time as SDKs and customers' own code write it; `None` if it is ambiguous.
///
/// Accepted are ISO 8601 (UTC unless it has an offset), a date with the name of its month in English, as in HTTP and
/// mail, and a number since 1970, whose unit follows from its digits (see [`since_1970`]). `01/02/2026` is not: it
/// is a day in January or in February.
pub(super) fn read_time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Number(number) => since_1970(*number),
        Value::String(text) => {
            let text = text.trim();
            // Without an offset, the time zone in brackets decides it.
            let zoned = || Some(text.parse::<jiff::ZonedDateTime>().ok()?.timestamp());
            let iso = text.parse().ok().or_else(zoned).or_else(|| civil(text));
            iso.or_else(|| since_1970(text.parse().ok()?)).or_else(|| spelled(text))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Parses a time without an offset, which is in UTC.
fn civil(text: &str) -> Option<Timestamp> {
    // Digits alone are a count, not a date; a time zone in brackets must not be ignored.
    if text.bytes().all(|byte| byte.is_ascii_digit()) || text.contains('[') {
        return None;
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    TimeZone::UTC.to_timestamp(civil).ok()
}

/// Reads seconds, milliseconds, microseconds or nanoseconds since 1970: whichever makes it a time from 2001 to 2286,
/// and seconds also from 1973 on. (Twelve digits are none of these: they may be a date without separators.)
fn since_1970(number: f64) -> Option<Timestamp> {
    const UNITS_PER_SECOND: [f64; 3] = [1e3, 1e6, 1e9];
    let from_units = || {
        let seconds = UNITS_PER_SECOND.map(|units| number / units);
        seconds.into_iter().find(|seconds| (1e9..1e10).contains(seconds))
    };
    let seconds = Some(number).filter(|number| (1e8..1e10).contains(number)).or_else(from_units)?;
    #[expect(clippy::cast_possible_truncation, reason = "at most thirteen digits")]
    Timestamp::from_millisecond((seconds * 1e3).round() as i64).ok()
}

/// Parses a date that has the name of its month and its year, or that starts with its year.
fn spelled(text: &str) -> Option<Timestamp> {
    let lower = text.to_ascii_lowercase();
    let is_month = |word: &str| {
        MONTHS.iter().any(|month| word == *month || word == &month[..3]) || word == "sept"
    };
    let has_month = lower.split(|c: char| !c.is_ascii_alphabetic()).any(is_month);
    let mut numbers =
        lower.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let has_year = numbers.clone().any(|digits| digits.len() == 4 && !digits.starts_with('0'));
    let has_year_first = lower.split(['-', '/']).next().is_some_and(|first| {
        first.len() == 4 && first.len() < lower.len() && first.bytes().all(|b| b.is_ascii_digit())
    });
    let is_clear = has_year_first || (has_month && has_year);
    if !is_clear {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded by JavaScript's range of dates")]
    let read = Timestamp::from_millisecond(parse_date(text)? as i64).ok()?;
    // JavaScript reads February 30 as March 1. An offset may move a time to the next day, or the day before.
    let written = if has_year_first { numbers.nth(2) } else { numbers.find(|n| n.len() <= 2) };
    let written: i8 = written?.parse().ok()?;
    let day = TimeZone::UTC.to_datetime(read).date();
    let days = [day.yesterday().ok()?, day, day.tomorrow().ok()?];
    days.iter().any(|day| day.day() == written).then_some(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::decode::decode;

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
            (r#""1 September 2024""#, Some("2024-09-01T00:00:00Z")),
            (r#""1 Sept 2024""#, Some("2024-09-01T00:00:00Z")),
            (r#""2024-05-01T12:00:00[Europe/Paris]""#, Some(first_of_may)),
            (r#""2024-05-01T12:00:00+02:00[Europe/Paris]""#, Some(first_of_may)),
            (r#""Wed, 01 May 2024 00:30:00 +0200""#, Some("2024-04-30T22:30:00Z")),
            (r#""Tue, 30 Apr 2024 23:30:00 -0200""#, Some("2024-05-01T01:30:00Z")),
            (r#""1 May""#, None),
            (r#""May 1 10:00""#, None),
            (r#""market 5, 2024""#, None),
            (r#""Decimal 2024""#, None),
            (r#""maybe 5""#, None),
            (r#""2024-02-30T00:00:00Z""#, None),
            (r#""30 February 2024""#, None),
            (r#""2024-05-01T12:00:00[Nowhere/Else]""#, None),
            ("202405011000", None),
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
