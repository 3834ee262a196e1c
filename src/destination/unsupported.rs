//! What Loops cannot hold: its contract takes texts of up to 500 characters, numbers, booleans, dates
//! and null as properties. One nested value makes it refuse the whole contact.

use crate::segment::Value;
use crate::segment::value::Object;

/// The longest text of a contact property, in characters, by Loops' contract.
const TEXT_CHARS_MAX: usize = 500;

/// How deep nested values are flattened; what is deeper is left out.
const FLATTEN_DEPTH_MAX: usize = 16;

/// What to do with a value that Loops cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unsupported {
    /// Leave it out, and keep the fact as a warning.
    #[default]
    Omit,
    /// Turn `address.city` into `addressCity`; leave out what still does not fit.
    Flatten,
    /// Send it as Segment does.
    Pass,
}

impl Unsupported {
    /// Makes properties fit. `place` names them in warnings, which never hold a value.
    pub(super) fn fit(self, properties: Object, place: &str, warnings: &mut Vec<String>) -> Object {
        if self == Unsupported::Pass {
            return properties;
        }
        let mut fitting = Object::new();
        let mut flattened = Vec::new();
        for (key, value) in properties.into_entries() {
            match value {
                Value::Object(inner) if self == Unsupported::Flatten => {
                    flatten(&key, inner, 1, &mut flattened);
                }
                value => add(&mut fitting, key, value, place, warnings),
            }
        }
        for (key, value) in flattened {
            // A property that the sender named so itself wins.
            if !fitting.contains_key(&key) {
                add(&mut fitting, key, value, place, warnings);
            }
        }
        fitting
    }
}

fn add(fitting: &mut Object, key: String, value: Value, place: &str, warnings: &mut Vec<String>) {
    let problem = match &value {
        Value::Object(_) => Some("a nested object"),
        Value::Array(_) => Some("a list"),
        Value::String(text) if text.chars().count() > TEXT_CHARS_MAX => {
            Some("a text of more than 500 characters")
        }
        _ => None,
    };
    match problem {
        None => fitting.insert(key, value),
        Some(problem) => {
            warnings.push(format!("{place}: `{key}` was left out: Loops cannot hold {problem}"));
        }
    }
}

fn flatten(prefix: &str, object: Object, depth: usize, flattened: &mut Vec<(String, Value)>) {
    for (key, value) in object.into_entries() {
        let mut letters = key.chars();
        let capital: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
        let name = format!("{prefix}{capital}{}", letters.as_str());
        match value {
            Value::Object(inner) if depth < FLATTEN_DEPTH_MAX => {
                flatten(&name, inner, depth + 1, flattened);
            }
            value => flattened.push((name, value)),
        }
    }
}
