//! Reads values as people write them: TOML, YAML or JSON, from files or strings.

use std::path::Path;

use crate::js::decode::decode_strict;
use crate::js::{Object, Value};

/// The largest file of subscriptions, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The format of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Toml,
    Yaml,
}

/// Why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}{}", line.map(|line| format!(" (line {line})")).unwrap_or_default())]
pub struct TextProblem {
    /// The line, from 1; `None` if it is not known.
    pub line: Option<usize>,
    /// What is wrong. It repeats no part of the text, which may be a secret.
    pub problem: String,
}

/// Reads a file as TOML, YAML or JSON, by its extension. The error is a line for people.
pub fn read_value(file: &Path) -> Result<Value, String> {
    let size =
        std::fs::metadata(file).map_err(|error| format!("the file cannot be read: {error}"))?;
    if size.len() > FILE_BYTES_MAX {
        return Err(format!(
            "the file has {} bytes; at most {FILE_BYTES_MAX} are allowed",
            size.len()
        ));
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("the file cannot be read: {error}"))?;
    let format = match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Format::Json,
        Some("yaml" | "yml") => Format::Yaml,
        Some("toml") => Format::Toml,
        _ => return Err("the name must end in .toml, .yaml, .yml or .json".to_owned()),
    };
    parse(&text, format).map_err(|problem| problem.to_string())
}

/// Reads a text in TOML, YAML or JSON.
pub fn read_text(text: &str) -> Result<Value, TextProblem> {
    parse(text, guess(text))
}

/// Returns the extension that a file with this text should have.
pub fn text_extension(text: &str) -> &'static str {
    match guess(text) {
        Format::Json => "json",
        Format::Toml => "toml",
        Format::Yaml => "yaml",
    }
}

/// Guesses the format of a text from its first line that is neither blank nor a comment.
fn guess(text: &str) -> Format {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let is_table = first.strip_prefix('[').is_some_and(|rest| {
        rest.starts_with(|c: char| c == '[' || c.is_ascii_alphabetic()) && rest.contains(']')
    });
    if is_table {
        return Format::Toml;
    }
    if first.starts_with(['{', '[']) {
        // YAML has braces and brackets as well, but needs no quotes inside them.
        let inner = text.trim_start_matches(|c: char| "{[".contains(c) || c.is_whitespace());
        let is_json = inner.starts_with(['"', ']', '}']);
        return if is_json { Format::Json } else { Format::Yaml };
    }
    match (first.find('='), first.find(':')) {
        (Some(equals), Some(colon)) if equals < colon => Format::Toml,
        (Some(_), None) => Format::Toml,
        _ => Format::Yaml,
    }
}

fn parse(text: &str, format: Format) -> Result<Value, TextProblem> {
    match format {
        Format::Json => decode_strict(text).map_err(|error| TextProblem {
            line: Some(line_at(text, error.at)),
            problem: error.to_string(),
        }),
        Format::Yaml => serde_yaml_ng::from_str::<serde_json::Value>(text)
            .map(|value| Value::from(&value))
            .map_err(|error| TextProblem {
                line: error.location().map(|location| location.line()),
                problem: format!("not YAML: {error}"),
            }),
        Format::Toml => toml::from_str::<toml::Table>(text)
            .map(|table| of_toml(toml::Value::Table(table)))
            .map_err(|error| TextProblem {
                line: error.span().map(|span| line_at(text, span.start)),
                problem: format!("not TOML: {}", error.message()),
            }),
    }
}

/// Returns the line that contains a byte, from 1.
fn line_at(text: &str, byte: usize) -> usize {
    let before = &text.as_bytes()[..byte.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn of_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        // Numbers are doubles, as in JavaScript.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        toml::Value::Integer(number) => Value::Number(number as f64),
        toml::Value::Float(number) => Value::Number(number),
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(items) => Value::Array(items.into_iter().map(of_toml).collect()),
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| (key, of_toml(value)));
            Value::Object(entries.collect::<Object>())
        }
    }
}

/// Returns the message of the library's error, without the key and origin, which our own errors name.
pub(super) fn plain(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => plain(error),
        config::ConfigError::Type { unexpected, expected, .. } => {
            // The library's type names mean nothing to people.
            let expected = match *expected {
                text if text.starts_with("an unsigned") => "a whole number, 0 or more",
                text if text.starts_with("an signed") || text.starts_with("a signed") => {
                    "a whole number"
                }
                text => text,
            };
            format!("found {unexpected}, expected {expected}")
        }
        // The library quotes the line of a syntax error, which may hold a secret.
        other => {
            let text = other.to_string();
            text.lines().filter(|line| !line.contains('|')).collect::<Vec<_>>().join(": ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::subscription::{self, Subscription};
    use crate::destination::{ActionKind, Destination};

    fn json(text: &str) -> Result<String, String> {
        read_text(text).map(|value| value.to_json()).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_text_is_read_as_what_it_looks_like() {
        for (text, expected) in [
            (r#" {"name": "a"}"#, r#"{"name":"a"}"#),
            (r#"[{"name": "a"}]"#, r#"[{"name":"a"}]"#),
            ("[\n {\"n\": 1}]", r#"[{"n":1}]"#),
            ("{name: a}", r#"{"name":"a"}"#),
            (
                "# a comment\n\n[[s]]\nn = 1\nat = 2026-01-02",
                r#"{"s":[{"n":1,"at":"2026-01-02"}]}"#,
            ),
            ("[s]\nb = 1.5\na = 'x: y'", r#"{"s":{"b":1.5,"a":"x: y"}}"#),
            ("trigger = 'a: b'", r#"{"trigger":"a: b"}"#),
            ("- name: a = b\n  x: [1]", r#"[{"name":"a = b","x":[1]}]"#),
            ("trigger: type = \"track\"", r#"{"trigger":"type = \"track\""}"#),
        ] {
            assert_eq!(json(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_error_has_its_line_and_nothing_of_the_text() {
        for (text, line, named) in [
            ("{\"name\": \"a\",\n  secret}", 2, "not JSON"),
            ("[[s]]\nname = \"a\"\nkey = secret", 3, "not TOML"),
            ("name: a\nkey: [secret", 2, "not YAML"),
        ] {
            let problem = read_text(text).unwrap_err();
            // The YAML library counts the end of the text as a line.
            assert!(problem.line.is_some_and(|found| found.abs_diff(line) <= 1), "{problem}");
            assert!(problem.problem.contains(named), "{problem}");
            assert!(!problem.problem.contains("secret"), "{problem}");
        }
    }

    /// Returns a subscription as read from a text.
    fn subscription(text: &str) -> Subscription {
        let value = read_text(text).unwrap();
        subscription::read(subscription::list_in(&value).unwrap()[0], 0).unwrap()
    }

    #[test]
    fn a_subscription_is_read_as_it_was_written() {
        let mut all = Destination::default_subscriptions();
        all.extend(
            [
                "name: a\naction: sendEvent\nevents: [Signed *, 'it''s']\nwithout: [email]\nmerge: false\nmax_age_s: 60\nmapping: {eventName: x, contactProperties: {'a b': {'@path': $.a}, n: 1.5, l: [true, []], o: {}}}",
                "name: \"q\\\"\\u007f\\n\"\nenabled: false\naction: deleteContact\ntrigger: type = \"delete\" and event = \"it's\"",
                r#"{"name":"null","action":"sendEvent","events":["a"],"mapping":{"email":null}}"#,
                r#"{"name":"large","action":"sendEvent","events":["a"],"mapping":{"contactProperties":{"n":1e20,"m":1e21}}}"#,
                r#"{"name":"whole","actionSlug":"sendEvent","subscribe":"type = \"track\"","mapping":{"@merge":{"direction":"left","objects":[{"@path":"$.a"}]}}}"#,
                r#"{"name":"other","actionSlug":"sendEvent","subscribe":"type = \"track\"","mapping":{"userId":{"@path":"$.anonymousId"}}}"#,
            ]
            .map(subscription),
        );
        for written in all {
            assert_eq!(subscription(&written.to_text()), written, "{}", written.to_text());
        }
        let short = Subscription {
            mapping: ActionKind::SendEvent.default_mapping(),
            ..subscription("name: a\naction: sendEvent\ntrigger: type = \"track\"")
        };
        assert_eq!(
            short.to_text(),
            "[[subscriptions]]\nname = \"a\"\naction = \"sendEvent\"\ntrigger = 'type = \"track\"'\n"
        );
    }
}
