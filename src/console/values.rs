//! The values of parameters that have rules. Their errors say what is allowed, and do not repeat what is given.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::queue::parse_time;

/// How many entries a response holds at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Limit(pub(super) u32);

impl Limit {
    pub(super) const MAX: Limit = Limit(500);
}

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<String> for Limit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Self(max) = Self::MAX;
        let limit = text.parse().ok().filter(|limit| (1..=max).contains(limit));
        limit.map(Self).ok_or_else(|| format!("must be a whole number from 1 to {max}"))
    }
}

impl PartialSchema for Limit {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
            .default(Some(Value::from(Self::default().0)))
            .minimum(Some(1))
            .maximum(Some(Self::MAX.0))
            .into()
    }
}

impl ToSchema for Limit {}

/// Where a page of a list begins: at the entries with smaller numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Before(pub(super) i64);

impl TryFrom<String> for Before {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let number = text.parse().map(Self);
        number.map_err(|_| "must be a whole number: `next` of the previous page")
    }
}

/// A time, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum TimeOrAgo {
    Time(Timestamp),
    Ago(SignedDuration),
}

impl TimeOrAgo {
    /// Reads a time, a day, or how long ago something was.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        parse_time(text).map(Self::Time).or_else(|| long_ago(text).map(Self::Ago))
    }

    /// Returns the time. The earliest time stands for all before it.
    pub(crate) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            TimeOrAgo::Time(time) => time,
            TimeOrAgo::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
        }
    }
}

impl TryFrom<String> for TimeOrAgo {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        Self::parse(&text).ok_or("must be a time such as 2026-11-01T12:00:00Z, a day such as 2026-11-01 (UTC), or how long ago, such as 90m, 12h or 7d")
    }
}

/// Reads how long ago something was: a whole number of seconds, minutes, hours, days or weeks. It must be shorter than
/// the time between the earliest and the latest time that can be written.
fn long_ago(text: &str) -> Option<SignedDuration> {
    let seconds = match text.chars().next_back()? {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        'w' => 7 * 24 * 60 * 60,
        _ => return None,
    };
    // Every unit is one byte long. A sign is not a digit.
    let digits = &text[..text.len() - 1];
    let count: u32 =
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse())?.ok()?;
    let ago = SignedDuration::from_secs(i64::from(count) * seconds);
    (ago <= Timestamp::MAX.duration_since(Timestamp::MIN)).then_some(ago)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_and_before_are_whole_numbers_in_their_range() {
        let limit = |text: &str| Limit::try_from(text.to_owned());
        assert_eq!(Limit::default(), Limit(50));
        assert_eq!((limit("1"), limit("500")), (Ok(Limit(1)), Ok(Limit::MAX)));
        for text in ["0", "501", "1000000", "-1", "1.5", "ten"] {
            let error = limit(text).unwrap_err();
            assert_eq!(error, "must be a whole number from 1 to 500", "{text}");
        }
        let before = |text: &str| Before::try_from(text.to_owned());
        assert_eq!((before("7"), before("-1")), (Ok(Before(7)), Ok(Before(-1))));
        for text in ["1.5", "9223372036854775808"] {
            assert!(before(text).unwrap_err().starts_with("must be a whole number"), "{text}");
        }
    }

    #[test]
    fn a_time_may_be_written_as_how_long_ago() {
        let now: Timestamp = "2026-11-01T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("30s", "2026-11-01T11:59:30Z"),
            ("90m", "2026-11-01T10:30:00Z"),
            ("12h", "2026-11-01T00:00:00Z"),
            ("7d", "2026-10-25T12:00:00Z"),
            ("2w", "2026-10-18T12:00:00Z"),
            ("0s", "2026-11-01T12:00:00Z"),
            ("2026-10-18", "2026-10-18T00:00:00Z"),
        ] {
            let time = TimeOrAgo::parse(text).map(|time| time.at(now));
            assert_eq!(time, Some(expected.parse().unwrap()), "{text}");
        }
        for text in
            ["", "h", "-1h", "+1h", "1.5h", "1 h", "1y", "1hh", "7é", "4294967296s", "4294967295w"]
        {
            assert_eq!(TimeOrAgo::parse(text), None, "{text}");
        }
        let long_ago = TimeOrAgo::parse("1000000w").map(|time| time.at(now));
        assert_eq!(long_ago, Some(Timestamp::MIN), "the earliest time stands for all before it");
    }
}
