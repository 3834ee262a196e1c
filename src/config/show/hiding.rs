//! Hides secrets: under their own keys, under misspelled ones, and inside subscriptions and mappings.

use toml::Value;

use crate::config::environment::SHORT_NAMES;
use crate::destination::subscription;

/// Shown in place of a secret. If it is pasted into a file, the check rejects it, like any secret in brackets.
pub(super) const HIDDEN: &str = "(hidden)";

/// The keys that hold secrets, or URLs that may contain one.
pub(super) const SECRETS: [&str; 16] = [
    "admin_token",
    "admin_tokens",
    "viewer_token",
    "viewer_tokens",
    "url",
    "listen_url",
    "webhook_url",
    "webhook_secret",
    "webhook_secrets",
    "webhook_token",
    "webhook_tokens",
    "write_keys",
    "api_key",
    "loops_webhook_secret",
    "loops_webhook_secrets",
    "loops_webhook_forward",
];

/// The base URL of Loops' API that may be shown. Any other may have a secret in its path, as some proxies want it.
pub(super) const BASE_URL: &str = "https://app.loops.so/api/v1";

/// Returns a value as it may be shown: without secrets, and with the type of its key if a variable gave a string.
pub(super) fn shown(key: &str, value: Value, example: &Value) -> Value {
    let hidden = || Value::from(HIDDEN);
    if SECRETS.contains(&key) {
        return match value {
            Value::Array(secrets) => Value::Array(secrets.iter().map(|_| hidden()).collect()),
            _ => hidden(),
        };
    }
    if key == "subscriptions" {
        return subscriptions(value);
    }
    let is_scalar = |value: &Value| !value.is_table() && !value.is_array();
    let is_file = key.strip_suffix("_file").is_some_and(names_secret);
    let text = match value {
        Value::String(text) => text,
        _ if is_file => return hidden(),
        // What is below is unknown.
        Value::Array(items) => {
            let shown =
                items.into_iter().map(|item| if is_scalar(&item) { item } else { hidden() });
            return Value::Array(shown.collect());
        }
        value => return value,
    };
    let is_hidden = match key {
        // What is not the name of a file may be the secret itself.
        _ if is_file => !std::path::Path::new(&text).exists(),
        "base_url" => text.trim_end_matches('/') != BASE_URL,
        key => key.ends_with("_url") && text.contains(['@', '?', '#']),
    };
    if is_hidden {
        return hidden();
    }
    match example {
        Value::Integer(_) => text.parse().map_or(Value::String(text), Value::Integer),
        Value::Boolean(_) => text.parse().map_or(Value::String(text), Value::Boolean),
        _ => Value::String(text),
    }
}

/// Returns subscriptions without the values that may be secrets. What is written behind `[[subscriptions]]` belongs to
/// the subscription, even if it is meant for a table before it.
pub(super) fn subscriptions(written: Value) -> Value {
    let hidden = || Value::from(HIDDEN);
    let Value::Array(entries) = written else { return hidden() };
    let one = |entry| {
        let Value::Table(keys) = entry else { return hidden() };
        let shown = keys.into_iter().map(|(key, value)| {
            let value = match (key.as_str(), value) {
                ("mapping" | "settings", value) => mapping(value),
                (key, value) if subscription::has_key(key) && !is_deep(&value) => value,
                _ => hidden(),
            };
            (key, value)
        });
        Value::Table(shown.collect())
    };
    Value::Array(entries.into_iter().map(one).collect())
}

/// Returns whether a value holds more than a list of texts or numbers.
fn is_deep(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(items) => items.iter().any(|item| item.is_table() || item.is_array()),
        _ => false,
    }
}

/// Returns a mapping without what is under the name of a secret. All other keys are free.
fn mapping(written: Value) -> Value {
    match written {
        Value::Table(keys) => Value::Table(
            keys.into_iter()
                .map(|(key, value)| match names_secret(&key) && !is_path(&value) {
                    true => (key, Value::from(HIDDEN)),
                    false => (key, mapping(value)),
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(mapping).collect()),
        Value::String(text) => match serde_json::from_str(&text) {
            // A mapping may be written as JSON.
            Ok(json) if has_secret(&json) => HIDDEN.into(),
            _ => Value::String(text),
        },
        value => value,
    }
}

/// Returns whether JSON has a key that names a secret.
fn has_secret(json: &serde_json::Value) -> bool {
    match json {
        serde_json::Value::Object(keys) => {
            keys.iter().any(|(key, value)| names_secret(key) || has_secret(value))
        }
        serde_json::Value::Array(items) => items.iter().any(has_secret),
        _ => false,
    }
}

/// Returns whether a value is only a path into the message, such as `{ "@path" = "$.properties.url" }`.
fn is_path(value: &Value) -> bool {
    let Value::Table(keys) = value else { return false };
    let path = keys.get("@path").and_then(Value::as_str);
    keys.len() == 1 && path.is_some_and(|path| path.starts_with("$."))
}

/// Returns whether a key has the name of a secret of ours, or of a variable, however it is spelled and with or without
/// `_file`.
fn names_secret(key: &str) -> bool {
    let spelled = |name: &str| -> String {
        let letters = name.chars().filter(|c| c.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect()
    };
    let key = spelled(key.rsplit("__").next().unwrap_or(key));
    let key = key.strip_suffix("file").unwrap_or(&key);
    let names = SECRETS.into_iter().chain(SHORT_NAMES.into_iter().map(|(short, _)| short));
    names.map(spelled).any(|name| key == name || name.strip_suffix('s') == Some(key))
}
