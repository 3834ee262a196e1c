//! The fields of an action: their types, and how Segment's validation turns what a mapping found into
//! them. Its words are Segment's own, so that people find them where they know them from.

use super::PlanFailure;
use crate::segment::Value;
use crate::segment::value::{Object, number_text};

/// A field of an action.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    name: &'static str,
    title: &'static str,
    kind: FieldKind,
    is_required: bool,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldKind {
    /// A text; numbers and booleans become one.
    Text,
    /// An e-mail address.
    Email,
    /// A boolean; the texts "true" and "false", 1 and 0 become one.
    Boolean,
    /// A text or a number.
    Date,
    /// An object; what is in it is not touched.
    Object,
}

impl Field {
    pub(super) const fn new(name: &'static str, title: &'static str, kind: FieldKind) -> Self {
        Self { name, title, kind, is_required: false }
    }

    pub(super) const fn required(self) -> Self {
        Self { is_required: true, ..self }
    }
}

/// Checks what a mapping found, and brings it into the fields' types.
///
/// Fields with null or an empty text are removed first; fields that the action does not have are
/// dropped. All mistakes are told together, missing fields first.
pub(super) fn validate(fields: &[Field], found: Value) -> Result<Object, PlanFailure> {
    let Value::Object(mut found) = found else {
        return Err(PlanFailure {
            detail: format!("The root value must be an object but it was {}.", kind_of(&found)),
        });
    };
    found.retain(|_, value| !value.is_null() && value.as_str() != Some(""));
    let mut valid = Object::new();
    let mut missing = Vec::new();
    let mut wrong = Vec::new();
    for field in fields {
        match found.remove(field.name).map(|value| field.kind.coerce(value)) {
            Some(Ok(value)) => valid.insert(field.name, value),
            Some(Err(problem)) => wrong.push(format!("{} {problem}.", field.title)),
            None if field.is_required => {
                missing.push(format!(
                    "The root value is missing the required field '{}'.",
                    field.name
                ));
            }
            None => {}
        }
    }
    missing.append(&mut wrong);
    if missing.is_empty() { Ok(valid) } else { Err(PlanFailure { detail: missing.join(" ") }) }
}

impl FieldKind {
    fn coerce(self, value: Value) -> Result<Value, String> {
        let wrong = |expected: &str, value: &Value| {
            Err(format!("must be {expected} but it was {}", kind_of(value)))
        };
        match self {
            FieldKind::Text => match text(value) {
                Ok(text) => Ok(Value::String(text)),
                Err(value) => wrong("a string", &value),
            },
            FieldKind::Email => match text(value) {
                Ok(text) if is_email(&text) => Ok(Value::String(text)),
                Ok(_) => Err("must be a valid email address string but it was not".to_owned()),
                Err(value) => wrong("a string", &value),
            },
            FieldKind::Boolean => match boolean(&value) {
                Some(flag) => Ok(Value::Bool(flag)),
                None => wrong("a boolean", &value),
            },
            FieldKind::Date => match value {
                Value::String(_) | Value::Number(_) => Ok(value),
                other => wrong("a string or number", &other),
            },
            FieldKind::Object => match value {
                Value::Object(_) => Ok(value),
                other => wrong("an object", &other),
            },
        }
    }
}

/// A value as text: a list of one is taken as its item, one level deep, and a null in it as "".
fn text(value: Value) -> Result<String, Value> {
    match scalar_text(&value) {
        Some(text) => Ok(text),
        None => match &value {
            Value::Array(items) => match items.as_slice() {
                [Value::Null] => Ok(String::new()),
                [item] => scalar_text(item).ok_or(value),
                _ => Err(value),
            },
            _ => Err(value),
        },
    }
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number_text(*number)),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text == "true" => Some(true),
        Value::String(text) if text == "false" => Some(false),
        Value::Number(number) if *number == 1.0 => Some(true),
        Value::Number(number) if *number == 0.0 => Some(false),
        Value::Array(items) => match items.as_slice() {
            [Value::Null] => Some(false),
            [Value::Array(_)] => None,
            [item] => boolean(item),
            _ => None,
        },
        _ => None,
    }
}

/// What Segment's validation takes for an address: ASCII; before the `@` parts with single dots
/// between them, after it at least two labels that neither begin nor end with a hyphen.
fn is_email(text: &str) -> bool {
    let is_local =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&byte);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    local.split('.').all(|part| !part.is_empty() && part.bytes().all(is_local))
        && domain.contains('.')
        && domain.split('.').all(is_label)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        // Only a mapping that finds nothing at all ends as null here.
        Value::Null => "undefined",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
