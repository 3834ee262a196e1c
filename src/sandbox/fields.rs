//! The contact fields of a request body, checked against the contract.

use serde_json::{Map, Value};

use super::answer::Refusal;

/// The longest string that a property can hold, in characters, by Loops' documentation.
const PROPERTY_CHARS_MAX: usize = 500;
/// The longest e-mail address that mail servers accept (RFC 5321's path without its brackets).
const EMAIL_CHARS_MAX: usize = 254;

/// The fields of a contact in a request body.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ContactFields {
    pub(super) email: Option<String>,
    pub(super) user_id: Option<String>,
    pub(super) subscribed: Option<bool>,
    pub(super) mailing_lists: Vec<(String, bool)>,
    /// All other members, unchanged: the other fields that Loops knows, and custom properties.
    pub(super) properties: Map<String, Value>,
}

impl ContactFields {
    /// Reads the top level of a body.
    pub(super) fn parse(body: Map<String, Value>) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        for (key, value) in body {
            match key.as_str() {
                "email" => fields.email = parse_email(value)?,
                "userId" => fields.user_id = parse_id("userId", value)?,
                "subscribed" => fields.subscribed = parse_subscribed(value)?,
                "mailingLists" => fields.mailing_lists = parse_mailing_lists(value)?,
                _ => {
                    check_property(&key, &value)?;
                    fields.properties.insert(key, value);
                }
            }
        }
        Ok(fields)
    }
}

/// Reads the string `email` or `userId` of a body or a query; `None` if it is null or empty.
pub(super) fn parse_id(key: &str, value: Value) -> Result<Option<String>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::String(id) => {
            check_length(&|| key.to_owned(), &id)?;
            Ok(Some(id).filter(|id| !id.is_empty()))
        }
        other => Err(wrong_type(key, "a string", &other)),
    }
}

/// Reads an e-mail address; `None` if it is null or empty.
pub(super) fn parse_email(value: Value) -> Result<Option<String>, Refusal> {
    let email = parse_id("email", value)?;
    match email {
        Some(email) if !is_email(&email) => Err(Refusal::bad_request("Invalid email address.")),
        email => Ok(email),
    }
}

/// Reads `eventProperties`: an object of the types that Loops' documentation allows there. Unlike contact properties,
/// they cannot be null.
pub(super) fn parse_event_properties(value: Value) -> Result<Map<String, Value>, Refusal> {
    let Value::Object(properties) = value else {
        return Err(wrong_type("eventProperties", "an object", &value));
    };
    for (key, value) in &properties {
        let key = || format!("eventProperties.{key}");
        match value {
            Value::String(text) => check_length(&key, text)?,
            Value::Bool(_) | Value::Number(_) => {}
            Value::Null | Value::Array(_) | Value::Object(_) => {
                return Err(wrong_type(&key(), "a string, number, boolean or date", value));
            }
        }
    }
    Ok(properties)
}

/// Returns the refusal of a value of the wrong type. It names the key and the type, never the value.
pub(super) fn wrong_type(key: &str, expected: &str, value: &Value) -> Refusal {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Refusal::bad_request(format!("`{key}` must be {expected}, not {found}."))
}

fn parse_subscribed(value: Value) -> Result<Option<bool>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(subscribed) => Ok(Some(subscribed)),
        other => Err(wrong_type("subscribed", "a boolean", &other)),
    }
}

fn parse_mailing_lists(value: Value) -> Result<Vec<(String, bool)>, Refusal> {
    let Value::Object(lists) = value else {
        return Err(wrong_type("mailingLists", "an object", &value));
    };
    let parse = |(id, value): (String, Value)| match value {
        Value::Bool(wanted) => Ok((id, wanted)),
        other => Err(wrong_type(&format!("mailingLists.{id}"), "a boolean", &other)),
    };
    lists.into_iter().map(parse).collect()
}

fn check_length(key: &dyn Fn() -> String, text: &str) -> Result<(), Refusal> {
    if text.chars().count() > PROPERTY_CHARS_MAX {
        let message = format!("`{}` must be at most {PROPERTY_CHARS_MAX} characters.", key());
        return Err(Refusal::bad_request(message));
    }
    Ok(())
}

fn check_property(key: &str, value: &Value) -> Result<(), Refusal> {
    let must_be_string = matches!(key, "firstName" | "lastName" | "source" | "userGroup");
    match value {
        Value::Null => Ok(()),
        Value::String(text) => check_length(&|| key.to_owned(), text),
        other if must_be_string => Err(wrong_type(key, "a string", other)),
        Value::Bool(_) | Value::Number(_) => Ok(()),
        Value::Array(_) | Value::Object(_) => {
            Err(wrong_type(key, "a string, number, boolean, date or null", value))
        }
    }
}

/// Returns whether this looks like an e-mail address. Only the form is checked, because Loops cannot check more.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    !local.is_empty()
        && !local.contains('@')
        && text.chars().count() <= EMAIL_CHARS_MAX
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
        && domain.split('.').count() >= 2
        && domain.split('.').all(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_email_addresses_by_their_shape() {
        let long = format!("{}@example.com", "a".repeat(250));
        let cases = [
            ("alex@example.com", true),
            ("alex+tag@mail.example.co.uk", true),
            ("ünï@exämple.com", true),
            ("alex", false),
            ("alex@", false),
            ("@example.com", false),
            ("alex@example", false),
            ("alex@example.", false),
            ("alex@.com", false),
            ("a@b@example.com", false),
            ("alex @example.com", false),
            (long.as_str(), false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_email(text), expected, "{text}");
        }
    }
}
