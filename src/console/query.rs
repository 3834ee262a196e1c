//! Reads the query of a request, with errors that name the parameter.

use axum::extract::Query;
use axum::http::Uri;
use jiff::{SignedDuration, Timestamp};

use crate::http::error::ApiError;
use crate::queue::parse_time;

/// The parameters of a query. Each has a known name, and is given once.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads the query of a request, whose parameters must be among `known`.
    pub(super) fn of(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        let Ok(Query(mut given)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
            return Err(bad_query("the query is not written as name=value&name=value"));
        };
        if given.iter().any(|(name, _)| !known.contains(&name.as_str())) {
            // The error does not repeat the unknown name, which may be a value in the wrong place.
            let known = known.join(", ");
            return Err(bad_query(format!("a parameter is unknown: allowed are {known}")));
        }
        given.sort();
        match given.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(bad_query(format!("`{}` is given more than once", pair[0].0))),
            None => Ok(Self(given)),
        }
    }

    /// Reads the query that a form sends, which includes its empty fields.
    pub(super) fn of_form(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        let Self(mut given) = Self::of(uri, known)?;
        given.retain(|(_, value)| !value.trim().is_empty());
        Ok(Self(given))
    }

    /// Reads the fields of a form that was posted.
    pub(super) fn of_pairs(
        given: impl IntoIterator<Item = (String, String)>,
        known: &[&str],
    ) -> Result<Self, ApiError> {
        let given: Vec<_> = given.into_iter().collect();
        match given.iter().all(|(name, _)| known.contains(&name.as_str())) {
            true => Ok(Self(given)),
            false => {
                Err(bad_query(format!("a field is unknown: allowed are {}", known.join(", "))))
            }
        }
    }

    /// Returns the parameters with one of the known names, except `but`.
    pub(super) fn only(&self, known: &[&str], but: &str) -> Self {
        let is_known = |name: &str| name != but && known.contains(&name);
        Self(self.0.iter().filter(|(name, _)| is_known(name)).cloned().collect())
    }

    /// Returns all parameters, in the order of their names.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns how many parameters are given.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the value of a parameter, if it is given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Returns the value of a parameter that must not be empty.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        match self.get(name) {
            Some(text) if text.trim().is_empty() => {
                Err(bad_query(format!("`{name}` is empty: give it a value, or leave it out")))
            }
            text => Ok(text),
        }
    }

    /// Returns the value of a parameter that takes one of a few words.
    pub(super) fn word<T: Copy>(
        &self,
        name: &str,
        all: &[T],
        as_str: fn(T) -> &'static str,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match all.iter().find(|word| as_str(**word) == text) {
            Some(word) => Ok(Some(*word)),
            None => {
                let words: Vec<&str> = all.iter().map(|word| as_str(*word)).collect();
                Err(bad_query(format!("`{name}` must be one of {}", words.join(", "))))
            }
        }
    }

    /// Returns the value of a parameter that is a time: RFC 3339, a day, or how long ago.
    pub(super) fn time(&self, name: &str, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match time_or_ago(text, now) {
            Some(time) => Ok(Some(time)),
            None => Err(bad_query(format!(
                "`{name}` must be a time such as 2026-11-01T12:00:00Z, a day such as 2026-11-01 (UTC), or how long ago, such as 90m, 12h or 7d"
            ))),
        }
    }
}

/// Reads a time, a day, or how long ago something was.
pub(crate) fn time_or_ago(text: &str, now: Timestamp) -> Option<Timestamp> {
    parse_time(text).or_else(|| long_ago(text, now))
}

/// Reads how long ago something was: a whole number of seconds, minutes, hours, days or weeks.
fn long_ago(text: &str, now: Timestamp) -> Option<Timestamp> {
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
    now.checked_sub(SignedDuration::from_secs(i64::from(count) * seconds)).ok()
}

/// The error for a query that cannot be used.
pub(super) fn bad_query(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("bad_query", message)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            assert_eq!(long_ago(text, now), Some(expected.parse().unwrap()), "{text}");
        }
        for text in
            ["", "h", "-1h", "+1h", "1.5h", "1 h", "1y", "1hh", "7é", "4294967296s", "4294967295w"]
        {
            assert_eq!(long_ago(text, now), None, "{text}");
        }
    }
}
