//! Triggers: which messages a subscription takes. Pure; knows messages only as values.
//!
//! This release reads the triggers of Segment's default subscriptions, `type = "…"`. Anything else is
//! refused when it is compiled, never passed over.

use crate::segment::{MessageType, Value};

/// A compiled trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger(Test);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    /// `type = "…"`
    TypeIs(MessageType),
}

/// Why a trigger cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no trigger that this release reads: allowed is type = \"identify\", with any of Segment's message types"
)]
pub struct TriggerError(String);

impl Trigger {
    /// Compiles a trigger.
    pub fn compile(text: &str) -> Result<Self, TriggerError> {
        let error = || TriggerError(text.chars().take(100).collect());
        let (name, value) = text.split_once('=').ok_or_else(error)?;
        let value = value.trim().strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        match (name.trim(), value.and_then(MessageType::parse)) {
            ("type", Some(kind)) => Ok(Self(Test::TypeIs(kind))),
            _ => Err(error()),
        }
    }

    /// Whether it takes a message.
    pub fn matches(&self, message: &Value) -> bool {
        match self.0 {
            Test::TypeIs(kind) => {
                message.get("type").and_then(Value::as_str) == Some(kind.as_str())
            }
        }
    }

    /// Whether it may take some message of this type.
    pub fn may_match(&self, kind: MessageType) -> bool {
        match self.0 {
            Test::TypeIs(wanted) => wanted == kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_type_it_names() {
        let trigger = Trigger::compile(" type = \"track\" ").unwrap();
        let message = |kind: &str| {
            Value::Object([("type".to_owned(), Value::from(kind))].into_iter().collect())
        };
        assert!(trigger.matches(&message("track")));
        assert!(!trigger.matches(&message("identify")));
        assert!(!trigger.matches(&Value::Null));
        assert!(trigger.may_match(MessageType::Track) && !trigger.may_match(MessageType::Page));
    }

    #[test]
    fn refuses_what_it_does_not_read() {
        for text in [
            "",
            "type",
            "type = track",
            "type = \"nope\"",
            "event = \"x\"",
            "type = \"track\" and event = \"x\"",
        ] {
            assert!(Trigger::compile(text).is_err(), "{text}");
        }
    }
}
