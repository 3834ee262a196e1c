//! The result of a call: a response, or the error that prevented one.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// The most bytes of a response that are read. Loops' responses are one line.
pub(super) const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// The most characters of a response that are kept for people.
const EXCERPT_CHARS_MAX: usize = 500;

/// An HTTP response from Loops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// How long Loops asks to wait (`Retry-After`, in seconds or as a date).
    pub retry_after: Option<Duration>,
    /// Its headers about the rate.
    pub rate: RateHeaders,
    /// Whether its body is a JSON object, as in every response from Loops about a contact, an event or the key.
    pub is_object: bool,
    /// `success` of its JSON body; `None` unless the body is a JSON object with a boolean `success`, as in every
    /// response from Loops about a contact or an event.
    pub success: Option<bool>,
    /// The `message` (or `error`) of its JSON body.
    pub message: Option<String>,
    /// The beginning of its body. May hold personal data: for the store, not for logs.
    pub excerpt: String,
}

/// `x-ratelimit-limit` and `x-ratelimit-remaining`, if they are present and numeric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateHeaders {
    /// Requests that Loops allows in a second.
    pub limit: Option<u32>,
    /// Requests that are left in this second.
    pub remaining: Option<u32>,
}

/// Why a call got no response. Only after [`CallError::Connect`] is it certain that Loops did not get the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There was no response in time.
    #[error("Loops did not answer in time")]
    Timeout,
    /// There was no connection. Holds the target and the reason.
    #[error("cannot connect to {0}")]
    Connect(String),
    /// The connection broke.
    #[error("the connection to Loops broke: {0}")]
    Broken(String),
}

impl Answer {
    /// Creates a response from its parts. A `Retry-After` that is a date is compared with the `Date` of the response,
    /// because our own clock may be wrong; `now` is used only if there is no `Date`.
    pub(super) fn new(status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Self {
        let text = String::from_utf8_lossy(body);
        let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        Self {
            status,
            retry_after: text_of(headers, RETRY_AFTER).and_then(|text| {
                retry_after(text, text_of(headers, DATE).and_then(date).unwrap_or(now))
            }),
            rate: RateHeaders {
                limit: number(headers, "x-ratelimit-limit"),
                remaining: number(headers, "x-ratelimit-remaining"),
            },
            is_object: json.is_object(),
            success: json.get("success").and_then(serde_json::Value::as_bool),
            message: message_of(&json),
            excerpt: text.chars().take(EXCERPT_CHARS_MAX).collect(),
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u32> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Parses `Retry-After`: seconds, or a date, which becomes the time from `now` until then.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    Some(Duration::try_from(date(text)?.duration_since(now)).unwrap_or(Duration::ZERO))
}

fn date(text: &str) -> Option<Timestamp> {
    Timestamp::try_from(httpdate::parse_http_date(text.trim()).ok()?).ok()
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn message_of(body: &serde_json::Value) -> Option<String> {
    let text = body.get("message").or_else(|| body.get("error"))?.as_str()?;
    Some(text.chars().take(EXCERPT_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn answer(headers: &[(&'static str, &'static str)], body: &str) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (reqwest::header::HeaderName::from_static(name), HeaderValue::from_static(value))
            })
            .collect();
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        Answer::new(429, &headers, body.as_bytes(), now)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let cases = [
            ("7", Some(Duration::from_secs(7))),
            (" 7 ", Some(Duration::from_secs(7))),
            ("Mon, 23 Nov 2026 12:00:30 GMT", Some(Duration::from_secs(30))),
            ("Mon, 23 Nov 2026 11:00:00 GMT", Some(Duration::ZERO)),
            ("soon", None),
            ("-1", None),
            ("99999999999999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(answer(&[("retry-after", text)], "").retry_after, expected, "{text}");
        }
    }

    #[test]
    fn a_date_to_wait_for_is_judged_by_the_clock_of_who_wrote_it() {
        let until = ("retry-after", "Mon, 23 Nov 2026 12:00:30 GMT");
        let at = ("date", "Mon, 23 Nov 2026 12:00:10 GMT");
        assert_eq!(answer(&[until, at], "").retry_after, Some(Duration::from_secs(20)));
        let unreadable = ("date", "today");
        assert_eq!(answer(&[until, unreadable], "").retry_after, Some(Duration::from_secs(30)));
    }

    #[test]
    fn absurd_rate_headers_are_no_numbers() {
        let given = answer(&[("x-ratelimit-limit", "-5"), ("x-ratelimit-remaining", "many")], "");
        assert_eq!(given.rate, RateHeaders::default());
    }

    #[test]
    fn success_is_what_a_json_object_says_it_is() {
        let cases = [
            (r#"{"success":true,"id":"x"}"#, Some(true)),
            (r#" {"success": false} "#, Some(false)),
            (r#"{"success":"true"}"#, None),
            (r#"{"success":1}"#, None),
            (r#"{"data":{"success":true}}"#, None),
            (r#"[{"success":true}]"#, None),
            (r#"{"success":true"#, None),
            ("{}", None),
            ("true", None),
            ("", None),
            ("<html>", None),
        ];
        for (body, expected) in cases {
            assert_eq!(answer(&[], body).success, expected, "{body}");
        }
    }

    #[test]
    fn the_message_is_found_and_bounded() {
        assert_eq!(answer(&[], r#"{"message":"no"}"#).message.as_deref(), Some("no"));
        assert_eq!(answer(&[], r#"{"error":"no"}"#).message.as_deref(), Some("no"));
        assert_eq!(answer(&[], "<html>").message, None);
        let long = format!(r#"{{"message":"{}"}}"#, "ü".repeat(1000));
        assert_eq!(answer(&[], &long).message.map(|text| text.chars().count()), Some(500));
    }
}
