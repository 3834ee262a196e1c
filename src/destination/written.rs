//! Writes a subscription in a form that people can edit and paste into a file: TOML, or JSON if TOML cannot express one
//! of its values.

use super::subscription::{Subscription, TriggerText};
use crate::js::{Object, Value, number_text};

/// Whole numbers of TOML are below this, in either direction.
const INTEGER_END: f64 = 9_223_372_036_854_775_808.0;

impl Subscription {
    /// Returns a string that is read back as this subscription: in the short form, unless its mapping is a single
    /// directive.
    pub fn to_text(&self) -> String {
        let (keys, mapping) = self.parts();
        toml(&keys, &mapping).unwrap_or_else(|| {
            let mut whole: Object =
                keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            whole.insert("mapping", Value::Object(mapping));
            let json = serde_json::from_str::<serde_json::Value>(&Value::Object(whole).to_json());
            format!("{:#}\n", json.unwrap_or_default())
        })
    }

    /// Returns its keys and their values, and its mapping.
    fn parts(&self) -> (Vec<(&'static str, Value)>, Object) {
        let strings = |items: Vec<&str>| Value::Array(items.into_iter().map(Value::from).collect());
        let mut keys = vec![("name", Value::from(self.name.as_str()))];
        if !self.enabled {
            keys.push(("enabled", Value::Bool(false)));
        }
        let short = self.short_mapping();
        let action = if short.is_some() { "action" } else { "partnerAction" };
        keys.push((action, Value::from(self.action.as_str())));
        keys.push(match &self.trigger {
            TriggerText::Fql(text) => ("trigger", Value::from(text.as_str())),
            TriggerText::Events(names) => {
                ("events", strings(names.iter().map(String::as_str).collect()))
            }
        });
        if !self.merge {
            keys.push(("merge", Value::Bool(false)));
        }
        if let Some(seconds) = self.max_age_s {
            // At most a year of them.
            #[expect(clippy::cast_precision_loss, reason = "see above")]
            keys.push(("max_age_s", Value::Number(seconds as f64)));
        }
        if self.resubscribe {
            keys.push(("resubscribe", Value::Bool(true)));
        }
        let Some((without, mapping)) = short else {
            return (keys, self.mapping.as_object().cloned().unwrap_or_default());
        };
        if !without.is_empty() {
            keys.push(("without", strings(without.iter().map(String::as_str).collect())));
        }
        (keys, mapping)
    }

    /// Returns the defaults that it removes, and what it adds to them or overrides.
    fn short_mapping(&self) -> Option<(Vec<String>, Object)> {
        let written = self.mapping.as_object()?;
        let is_directive = |key: &str| key.starts_with('@') || key.starts_with("__segment");
        if written.keys().any(is_directive) {
            return None;
        }
        let defaults = self.action.default_mapping();
        let defaults = defaults.as_object()?;
        let without = defaults.keys().filter(|key| !written.contains_key(key));
        let own = written.iter().filter(|(key, value)| defaults.get(key) != Some(value));
        Some((
            without.map(str::to_owned).collect(),
            own.map(|(key, value)| (key.to_owned(), value.clone())).collect(),
        ))
    }
}

/// Returns a subscription as TOML; `None` if it contains null, or a number that TOML cannot express.
fn toml(keys: &[(&str, Value)], mapping: &Object) -> Option<String> {
    let mut text = "[[subscriptions]]\n".to_owned();
    for (key, value) in keys {
        text.push_str(&format!("{key} = {}\n", toml_value(value)?));
    }
    if !mapping.is_empty() {
        text.push_str("\n[subscriptions.mapping]\n");
    }
    for (key, value) in mapping.iter() {
        text.push_str(&format!("{} = {}\n", toml_key(key), toml_value(value)?));
    }
    Some(text)
}

fn toml_value(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) if number.is_finite() => {
            let is_whole = number.fract() == 0.0;
            if is_whole && number.abs() >= INTEGER_END {
                return None;
            }
            number_text(*number)
        }
        Value::Number(_) => return None,
        Value::String(text) => toml_string(text),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(toml_value).collect();
            format!("[{}]", items?.join(", "))
        }
        Value::Object(object) if object.is_empty() => "{}".to_owned(),
        Value::Object(object) => {
            let pairs = object
                .iter()
                .map(|(key, value)| Some(format!("{} = {}", toml_key(key), toml_value(value)?)));
            format!("{{ {} }}", pairs.collect::<Option<Vec<_>>>()?.join(", "))
        }
    })
}

fn toml_key(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    match !key.is_empty() && key.bytes().all(is_bare) {
        true => key.to_owned(),
        false => toml_string(key),
    }
}

/// Returns a string of TOML, without escapes if possible, since triggers are full of quotes.
fn toml_string(text: &str) -> String {
    let needs_escapes = text.contains(['"', '\\']);
    if needs_escapes && !text.contains(|c: char| c == '\'' || c.is_control()) {
        return format!("'{text}'");
    }
    // TOML knows JSON's escapes, and requires one more.
    Value::from(text).to_json().replace('\u{7f}', "\\u007f")
}
