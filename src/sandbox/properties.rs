//! The contact properties that the simulated team knows.

use indexmap::IndexMap;
use jiff::{Timestamp, civil};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Types of contact properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PropertyType {
    String,
    Number,
    Boolean,
    Date,
}

impl PropertyType {
    /// Returns the type of a value; `None` if the value does not show it.
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(_) => Some(Self::Boolean),
            Value::Number(_) => Some(Self::Number),
            Value::String(text) if is_date(text) => Some(Self::Date),
            Value::String(_) => Some(Self::String),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// The properties that every team has from the start.
const BUILT_IN: [(&str, PropertyType); 8] = [
    ("firstName", PropertyType::String),
    ("lastName", PropertyType::String),
    ("email", PropertyType::String),
    ("source", PropertyType::String),
    ("userGroup", PropertyType::String),
    ("userId", PropertyType::String),
    ("subscribed", PropertyType::Boolean),
    ("createdAt", PropertyType::Date),
];

/// Which properties to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    All,
    Custom,
}

/// The custom properties of the team, in the order in which they became known.
#[derive(Debug, Default)]
pub(super) struct Properties(IndexMap<String, PropertyType>);

impl Properties {
    /// Makes a property known; returns `false` if it already was.
    pub(super) fn create(&mut self, name: &str, kind: PropertyType) -> bool {
        if self.is_known(name) {
            return false;
        }
        self.0.insert(name.to_owned(), kind);
        true
    }

    /// Makes properties known that are used for the first time.
    pub(super) fn learn(&mut self, used: &Map<String, Value>) {
        for (name, value) in used {
            if let Some(kind) = PropertyType::of(value) {
                self.create(name, kind);
            }
        }
    }

    /// Returns the properties as `GET /contacts/properties` shows them.
    pub(super) fn to_json(&self, listing: Listing) -> Value {
        let built_in: &[_] = match listing {
            Listing::All => &BUILT_IN,
            Listing::Custom => &[],
        };
        let built_in = built_in.iter().copied();
        let custom = self.0.iter().map(|(name, kind)| (name.as_str(), *kind));
        built_in
            .chain(custom)
            .map(|(name, kind)| json!({"key": name, "label": label(name), "type": kind}))
            .collect()
    }

    fn is_known(&self, name: &str) -> bool {
        self.0.contains_key(name) || BUILT_IN.iter().any(|(known, _)| *known == name)
    }
}

fn is_date(text: &str) -> bool {
    text.parse::<Timestamp>().is_ok() || text.parse::<civil::Date>().is_ok()
}

/// Returns a label for people: "Favorite color" for `favoriteColor`.
fn label(name: &str) -> String {
    let mut label = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if label.is_empty() {
            label.extend(c.to_uppercase());
        } else if c.is_uppercase() {
            label.push(' ');
            label.extend(c.to_lowercase());
        } else {
            label.push(c);
        }
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_names_and_types_once() {
        let mut properties = Properties::default();
        let used = json!({
            "favoriteColor": "blue", "age": 3, "isVip": true, "trialEnds": "2026-01-31",
            "lastSeen": "2026-01-31T10:00:00Z", "unknown": null, "firstName": "Alex",
        });
        properties.learn(used.as_object().expect("an object"));
        let later = json!({"age": "three"});
        properties.learn(later.as_object().expect("an object"));
        let expected = json!([
            {"key": "favoriteColor", "label": "Favorite color", "type": "string"},
            {"key": "age", "label": "Age", "type": "number"},
            {"key": "isVip", "label": "Is vip", "type": "boolean"},
            {"key": "trialEnds", "label": "Trial ends", "type": "date"},
            {"key": "lastSeen", "label": "Last seen", "type": "date"},
        ]);
        assert_eq!(properties.to_json(Listing::Custom), expected);
        let all = properties.to_json(Listing::All);
        assert_eq!(all.as_array().map(Vec::len), Some(BUILT_IN.len() + 5));
    }
}
