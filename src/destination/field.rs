//! The fields of an action: their types, and how Segment's validation converts the mapping's values to
//! them. The errors are Segment's own, so that people recognize them.

use std::borrow::Cow;

use super::entries::Entries;
use super::plan::PlanFailure;
use super::tidy;
use super::unsupported::Unsupported;
use crate::js::ajv::{self, unwrapped};
use crate::js::date::is_date_like;
use crate::js::{Value, number_of_text};
use crate::mapping::Fields;

/// A field of an action.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    name: &'static str,
    title: &'static str,
    kind: FieldKind,
    is_required: bool,
    /// The field that may be filled instead; it is ignored if this one is filled.
    substitute: Option<&'static str>,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldKind {
    /// A string; numbers and booleans are converted.
    Text,
    /// An e-mail address.
    Email,
    /// A boolean; the strings "true" and "false", 1 and 0 are converted.
    Boolean,
    /// A string or a number.
    Date,
    /// An object; its values are not changed.
    Object,
    /// An object with a boolean for each id of a mailing list.
    MailingLists,
}

impl Field {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) const fn new(name: &'static str, title: &'static str, kind: FieldKind) -> Self {
        Self { name, title, kind, is_required: false, substitute: None }
    }

    pub(super) const fn required(self) -> Self {
        Self { is_required: true, ..self }
    }

    /// Required, unless the field `substitute` is filled.
    pub(super) const fn required_or(self, substitute: &'static str) -> Self {
        Self { is_required: true, substitute: Some(substitute), ..self }
    }

    /// The fields of which one must be filled, if this one is required.
    pub(super) fn required_names(&self) -> impl Iterator<Item = &'static str> {
        self.is_required.then_some(self.name).into_iter().chain(self.substitute)
    }
}

/// Checks the values that a mapping found, and converts them to the fields' types.
///
/// Fields with null or an empty string are removed first; fields that the action does not have are
/// dropped. All errors are reported together, missing fields first. Unless Segment is followed exactly
/// ([`Unsupported::Pass`]), values whose form alone is wrong are corrected first.
pub(super) fn validate<'a>(
    fields: &[Field],
    found: Fields<'a>,
    unsupported: Unsupported,
    warnings: &mut Vec<String>,
) -> Result<Entries<'a>, PlanFailure> {
    let mut found = match found {
        Fields::Object(found) => found,
        Fields::Other(value) => {
            let kind = value.as_deref().map_or("undefined", kind_of);
            let detail = format!("The root value must be an object but it was {kind}.");
            return Err(PlanFailure::invalid(detail));
        }
    };
    if unsupported != Unsupported::Pass {
        put_right(fields, &mut found, warnings);
    }
    found.retain(|(_, value)| !value.is_null() && value.as_str() != Some(""));
    let is_filled = |name: &str, found: &[(Cow<'a, str>, Cow<'a, Value>)]| {
        found.iter().any(|(key, _)| key == name)
    };
    for field in fields {
        if let Some(substitute) = field.substitute.filter(|_| is_filled(field.name, &found)) {
            found.retain(|(key, _)| key != substitute);
        }
    }
    let mut valid = Entries::with_capacity(fields.len());
    let mut missing = Vec::new();
    let mut wrong = Vec::new();
    for field in fields {
        let place = found.iter().position(|(key, _)| key == field.name);
        match place.map(|place| field.kind.coerce(found.swap_remove(place).1)) {
            Some(Ok(value)) => {
                valid.insert(Cow::Borrowed(field.name), value);
            }
            Some(Err(problems)) => {
                wrong.extend(problems.iter().map(|problem| format!("{} {problem}.", field.title)));
            }
            None if field.substitute.is_some_and(|name| valid.contains_key(name)) => {}
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
    if missing.is_empty() { Ok(valid) } else { Err(PlanFailure::invalid(missing.join(" "))) }
}

/// Corrects values whose form alone is wrong, each with a warning.
fn put_right(
    fields: &[Field],
    found: &mut [(Cow<'_, str>, Cow<'_, Value>)],
    warnings: &mut Vec<String>,
) {
    for (key, value) in found {
        let Some(field) = fields.iter().find(|field| key == field.name) else {
            continue;
        };
        let mended = match field.kind {
            FieldKind::Email => tidy::address(value, key, warnings),
            FieldKind::MailingLists => tidy::listed(value, warnings).map(Value::Object),
            FieldKind::Text | FieldKind::Boolean | FieldKind::Date | FieldKind::Object => None,
        };
        if let Some(mended) = mended {
            *value = Cow::Owned(mended);
        }
    }
}

impl FieldKind {
    /// Converts a value to this type, or returns everything that is wrong with it.
    fn coerce(self, value: Cow<'_, Value>) -> Result<Cow<'_, Value>, Vec<String>> {
        let kind = kind_of(match self {
            FieldKind::Object | FieldKind::MailingLists => &value,
            FieldKind::Text | FieldKind::Email | FieldKind::Boolean | FieldKind::Date => {
                unwrapped(&value)
            }
        });
        let wrong = |expected: &str| vec![format!("must be {expected} but it was {kind}")];
        match self {
            FieldKind::Text => as_text(value),
            FieldKind::Email => {
                let value = as_text(value)?;
                if value.as_str().is_some_and(is_email) {
                    return Ok(value);
                }
                Err(vec!["must be a valid email address string but it was not".to_owned()])
            }
            FieldKind::Boolean => match ajv::boolean(&value) {
                Some(flag) => Ok(Cow::Owned(Value::Bool(flag))),
                None => Err(wrong("a boolean")),
            },
            FieldKind::Date => as_date(value),
            FieldKind::Object | FieldKind::MailingLists => match value.as_ref() {
                Value::Object(_) => Ok(value),
                _ => Err(wrong("an object")),
            },
        }
    }
}

fn as_text(value: Cow<'_, Value>) -> Result<Cow<'_, Value>, Vec<String>> {
    if value.as_str().is_some() {
        return Ok(value);
    }
    match ajv::text(&value) {
        Some(text) => Ok(Cow::Owned(Value::String(text.into_owned()))),
        None => Err(vec![format!("must be a string but it was {}", kind_of(unwrapped(&value)))]),
    }
}

/// Accepts a string that is a date, or any finite number. Other values are converted to a string and judged
/// as such.
fn as_date(value: Cow<'_, Value>) -> Result<Cow<'_, Value>, Vec<String>> {
    match (value.as_ref(), value.as_array()) {
        (Value::Number(number), _) if number.is_finite() => return Ok(value),
        (Value::String(text), _) if is_date_like(text) => return Ok(value),
        (_, Some([Value::String(text)])) => {
            return listed_number(text).map(|number| Cow::Owned(Value::Number(number)));
        }
        _ => {}
    }
    match ajv::text(&value) {
        Some(text) if is_date_like(&text) => Ok(Cow::Owned(Value::String(text.into_owned()))),
        Some(_) => Err(vec![not_a_date()]),
        None => Err(vec![neither_text_nor_number(unwrapped(&value))]),
    }
}

/// A string in an array can only become a number, even an infinite one. Otherwise it has the wrong type to
/// Segment, which also reports it if it is not a date.
fn listed_number(text: &str) -> Result<f64, Vec<String>> {
    let number = number_of_text(text);
    if !text.is_empty() && !number.is_nan() {
        return Ok(number);
    }
    let mut problems = vec![neither_text_nor_number(&Value::from(text))];
    if !is_date_like(text) {
        problems.push(not_a_date());
    }
    Err(problems)
}

fn neither_text_nor_number(value: &Value) -> String {
    format!("must be a string or number but it was {}", kind_of(value))
}

fn not_a_date() -> String {
    "must be a valid date-like string but it was not".to_owned()
}

/// Whether Segment's validation accepts an address: ASCII, before the `@` parts separated by single dots,
/// after it at least two labels that neither begin nor end with a hyphen.
///
/// ```
/// use segment_loops::destination::is_email;
///
/// assert!(is_email("ada+news@example.co.uk"));
/// for text in ["ada@localhost", "ada@@example.com", "ada.@example.com", "ada@-example.com", "größe@example.com"] {
///     assert!(!is_email(text), "{text}");
/// }
/// ```
pub fn is_email(text: &str) -> bool {
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
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::Object;

    const TYPE: &str = "must be a string or number but it was";
    const DATE: &str = "must be a valid date-like string but it was not";

    #[test]
    fn dates_are_taken_as_segment_takes_them() {
        let list = |item: Value| Value::Array(vec![item]);
        let number = Value::Number;
        let cases = [
            (Value::from("2024-01-15"), Ok(Value::from("2024-01-15"))),
            (Value::from("5"), Ok(Value::from("5"))),
            (number(5.0), Ok(number(5.0))),
            (number(9_999_999_999_999.0), Ok(number(9_999_999_999_999.0))),
            (list(number(5.0)), Ok(Value::from("5"))),
            (list(number(0.0)), Ok(Value::from("0"))),
            (list(Value::from("5")), Ok(number(5.0))),
            (list(Value::from("0x10")), Ok(number(16.0))),
            (list(Value::from(" ")), Ok(number(0.0))),
            (list(Value::from("9999999999999")), Ok(number(9_999_999_999_999.0))),
            (list(Value::from("Infinity")), Ok(number(f64::INFINITY))),
            (Value::from("abc"), Err(vec![DATE.to_owned()])),
            (Value::Bool(true), Err(vec![DATE.to_owned()])),
            (number(f64::INFINITY), Err(vec![DATE.to_owned()])),
            (list(number(9_999_999_999_999.0)), Err(vec![DATE.to_owned()])),
            (list(number(f64::INFINITY)), Err(vec![DATE.to_owned()])),
            (list(Value::Bool(true)), Err(vec![DATE.to_owned()])),
            (list(Value::Null), Err(vec![DATE.to_owned()])),
            (list(Value::from("2024-01-15")), Err(vec![format!("{TYPE} a string")])),
            (list(Value::from("abc")), Err(vec![format!("{TYPE} a string"), DATE.to_owned()])),
            (list(Value::from("")), Err(vec![format!("{TYPE} a string"), DATE.to_owned()])),
            (list(list(number(5.0))), Err(vec![format!("{TYPE} an array")])),
            (Value::Array(Vec::new()), Err(vec![format!("{TYPE} an array")])),
            (Value::Array(vec![number(1.0), number(2.0)]), Err(vec![format!("{TYPE} an array")])),
            (Value::Object(Object::new()), Err(vec![format!("{TYPE} an object")])),
            (list(Value::Object(Object::new())), Err(vec![format!("{TYPE} an object")])),
        ];
        for (value, expected) in cases {
            let told = FieldKind::Date.coerce(Cow::Borrowed(&value)).map(Cow::into_owned);
            assert_eq!(told, expected, "{value:?}");
        }
    }
}
