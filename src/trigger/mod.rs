//! Triggers: which messages a subscription takes. Pure; knows messages only as values.
//!
//! A trigger is written in Segment's FQL and parsed exactly as Segment's runtime parses it, oddities included, since a
//! trigger that is pasted from there must keep matching the same messages: unknown words are ignored, within a group
//! the last `and` or `or` applies to all tests, `match` drops a character.

mod condition;
mod error;
mod eval;
mod lexer;
mod parser;

use condition::{Condition, Group, Join, Operator, Subject, Test};
pub use error::{TriggerError, TriggerFailure};

/// The longest trigger, in bytes.
pub const TRIGGER_BYTES_MAX: usize = 64 * 1024;

/// The most patterns that [`Trigger::events`] takes.
pub const EVENTS_MAX: usize = 1000;

/// A compiled trigger.
///
/// ```
/// use segment_loops::js::decode::decode;
/// use segment_loops::trigger::Trigger;
///
/// let trigger = Trigger::compile(r#"type = "track" and properties.total >= 100"#)?;
/// let small = decode(br#"{"type": "track", "event": "Order Completed", "properties": {"total": 20}}"#)?;
/// let large = decode(br#"{"type": "track", "event": "Order Completed", "properties": {"total": 250}}"#)?;
/// assert!(trigger.matches(&large)?);
/// assert!(!trigger.matches(&small)?);
/// assert_eq!(trigger.why_not(&small), "properties.total is 20, which is not a number from 100");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger(Group);

impl Trigger {
    /// Compiles a trigger from FQL.
    ///
    /// ```
    /// use segment_loops::trigger::Trigger;
    ///
    /// let error = Trigger::compile(r#"type = "track"#).unwrap_err();
    /// assert_eq!(error.at, 7);
    /// assert_eq!(error.to_string(), "at character 8: the string has no closing quote");
    /// ```
    pub fn compile(text: &str) -> Result<Self, TriggerError> {
        if text.len() > TRIGGER_BYTES_MAX {
            let problem = format!(
                "the trigger has {} bytes; at most {TRIGGER_BYTES_MAX} are read",
                text.len()
            );
            return Err(TriggerError { at: 0, problem });
        }
        parser::parse(text).map(Self)
    }

    /// Compiles a trigger that matches track messages by the name of their event: `Order Completed` is that name,
    /// `Order *` every name that starts with it, `* Completed` every name that ends with it, `*` every event.
    ///
    /// ```
    /// use segment_loops::segment::MessageType;
    /// use segment_loops::trigger::Trigger;
    ///
    /// let trigger = Trigger::events(["Signed Up", "Order *"])?;
    /// assert!(trigger.may_match_event(MessageType::Track, "Signed Up"));
    /// assert!(trigger.may_match_event(MessageType::Track, "Order Completed"));
    /// assert!(!trigger.may_match_event(MessageType::Track, "Reorder"));
    /// assert!(!trigger.may_match(MessageType::Page));
    /// # Ok::<(), segment_loops::trigger::TriggerError>(())
    /// ```
    pub fn events<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, TriggerError> {
        let mut names = Vec::new();
        for (place, pattern) in patterns.into_iter().enumerate() {
            let error = |problem: String| Err(TriggerError { at: 0, problem });
            if place >= EVENTS_MAX {
                return error(format!("more than {EVENTS_MAX} event names"));
            }
            let (operator, name) = match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
                (_, Some(start)) => (Operator::StartsWith, start),
                (Some(end), None) => (Operator::EndsWith, end),
                (None, None) => (Operator::Equals, pattern),
            };
            if pattern.is_empty() || name.contains('*') {
                return error(format!(
                    "event name {} is empty or has more than one star: allowed is one `*`, at the \
                     beginning or at the end (for a star in a name use trigger = 'event = \"…\"')",
                    place + 1
                ));
            }
            names.push(Condition::Test(Test::new(Subject::Event, operator, name)));
        }
        if names.is_empty() {
            let problem = "no event name is given: name one, or \"*\" for every event".to_owned();
            return Err(TriggerError { at: 0, problem });
        }
        let is_track = Condition::Test(Test::new(Subject::Type, Operator::Equals, "track"));
        let by_name = Condition::Group(Group { join: Join::Or, conditions: names });
        Ok(Self(Group { join: Join::And, conditions: vec![is_track, by_name] }))
    }
}

#[cfg(test)]
mod tests;
