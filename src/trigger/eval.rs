//! Evaluates a trigger for a message.

use std::borrow::Cow;

use super::Trigger;
use super::condition::{Condition, Expected, Group, Join, Operator, Path, Subject, Test};
use super::error::TriggerFailure;
use crate::js::Value;
use crate::segment::MessageType;

impl Trigger {
    /// Whether it matches a message. Fails where Segment's runtime fails: at an empty group.
    ///
    /// ```
    /// use segment_loops::js::decode::decode;
    /// use segment_loops::trigger::Trigger;
    ///
    /// let trigger = Trigger::compile(r#"type = "track" and ()"#)?;
    /// // The first test decides, so the empty group is not reached.
    /// assert_eq!(trigger.matches(&decode(br#"{"type": "page"}"#)?), Ok(false));
    /// let failure = trigger.matches(&decode(br#"{"type": "track"}"#)?).unwrap_err();
    /// assert_eq!(failure.to_string(), "the trigger fails for this message: a group `()` is empty");
    /// // Loading a subscription finds this before any message does.
    /// assert_eq!(trigger.latent_problem(), Some(failure));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn matches(&self, message: &Value) -> Result<bool, TriggerFailure> {
        self.0.holds(message, &|| false)
    }

    /// Like [`Trigger::matches`], but fails once `stop`, which is called before each test, returns true.
    pub fn matches_until(
        &self,
        message: &Value,
        stop: &dyn Fn() -> bool,
    ) -> Result<bool, TriggerFailure> {
        self.0.holds(message, stop)
    }

    /// Returns what makes it fail for the messages that reach it.
    pub fn latent_problem(&self) -> Option<TriggerFailure> {
        self.0.latent_problem()
    }

    /// Returns why it does not match a message: the tests that failed, and the values that they found.
    pub fn why_not(&self, message: &Value) -> String {
        let mut failed = Vec::new();
        self.0.tell_failed(message, &mut failed);
        failed.truncate(FAILED_TOLD_MAX);
        failed.join("; ")
    }

    /// Returns a warning, a sentence for people, for each test that does not do what it looks like.
    ///
    /// ```
    /// use segment_loops::trigger::Trigger;
    ///
    /// let trigger = Trigger::compile(r#"type = "Track""#)?;
    /// assert!(trigger.warnings()[0].starts_with("a test of `type` with `Track` is never true"));
    /// # Ok::<(), segment_loops::trigger::TriggerError>(())
    /// ```
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        self.0.each_test(&mut |test| {
            let outcome = match test.operator {
                Operator::Equals => "never true",
                Operator::NotEquals => "true for every message",
                _ => "",
            };
            let text = &test.expected.text;
            if test.subject == Subject::Type
                && !outcome.is_empty()
                && MessageType::parse(text).is_none()
            {
                let types = MessageType::ALL.map(MessageType::as_str).join(", ");
                warnings.push(format!(
                    "a test of `type` with `{text}` is {outcome}: the types are {types}"
                ));
            }
            if test.operator == Operator::NotEquals && test.expected.is_flag {
                let (subject, flag) = (&test.subject, &test.expected.text);
                let other = if flag == "true" { "false" } else { "true" };
                warnings.push(format!(
                    "`{subject} != {flag}` is true for every message, also where {subject} is {flag}: FQL compares strings there; write `{subject} = {other}`, or leave the test out"
                ));
            }
        });
        warnings
    }

    /// Returns the names of events, and the parts of names, that its tests contain literally.
    pub fn event_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.0.each_test(&mut |test| {
            if test.subject != Subject::Event {
                return;
            }
            match test.operator {
                Operator::Equals
                | Operator::StartsWith
                | Operator::EndsWith
                | Operator::Contains => names.push(test.expected.text.as_str()),
                _ => {}
            }
        });
        names
    }

    /// Whether it matches only messages whose event has a certain name, or a certain part of one.
    pub fn needs_event_name(&self) -> bool {
        self.0.needs_event_name()
    }

    /// Whether it may match some message of this type: false only if none can match.
    pub fn may_match(&self, kind: MessageType) -> bool {
        self.0.may_hold(kind, None)
    }

    /// Whether it may match some message of this type with this `event`.
    pub fn may_match_event(&self, kind: MessageType, event: &str) -> bool {
        self.0.may_hold(kind, Some(event))
    }
}

/// How many failed tests an explanation names.
const FAILED_TOLD_MAX: usize = 5;

/// The most characters of a value that an explanation shows.
const VALUE_CHARS_MAX: usize = 60;

const EMPTY_GROUP: TriggerFailure = TriggerFailure("a group `()` is empty");
const STOPPED: TriggerFailure = TriggerFailure("it was stopped");
const EMPTY_PATH: TriggerFailure = TriggerFailure("a path has no names");

impl Group {
    fn latent_problem(&self) -> Option<TriggerFailure> {
        self.conditions.iter().find_map(|condition| match condition {
            Condition::Group(group) => group.latent_problem(),
            Condition::Nothing => Some(EMPTY_GROUP),
            Condition::Test(Test { subject, .. }) => match subject {
                Subject::Properties(path) | Subject::Traits(path) | Subject::Context(path) => {
                    path.0.is_none().then_some(EMPTY_PATH)
                }
                Subject::Type | Subject::Event | Subject::Name | Subject::UserId => None,
            },
        })
    }

    fn each_test<'t>(&'t self, visit: &mut impl FnMut(&'t Test)) {
        for condition in &self.conditions {
            match condition {
                Condition::Test(test) => visit(test),
                Condition::Group(group) => group.each_test(visit),
                Condition::Nothing => {}
            }
        }
    }

    /// With `and` the first failed test decides, with `or` all of them do.
    fn tell_failed(&self, message: &Value, failed: &mut Vec<String>) {
        for condition in &self.conditions {
            let holds = match condition {
                Condition::Test(test) => test.holds(message).unwrap_or(false),
                Condition::Group(group) => group.holds(message, &|| false).unwrap_or(false),
                Condition::Nothing => false,
            };
            if holds {
                continue;
            }
            match condition {
                Condition::Test(test) => failed.push(test.told(message)),
                Condition::Group(group) => group.tell_failed(message, failed),
                Condition::Nothing => failed.push(EMPTY_GROUP.to_string()),
            }
            if self.join == Join::And {
                return;
            }
        }
    }

    fn holds(&self, message: &Value, stop: &dyn Fn() -> bool) -> Result<bool, TriggerFailure> {
        let decided_by = self.join == Join::Or;
        for condition in &self.conditions {
            if stop() {
                return Err(STOPPED);
            }
            let holds = match condition {
                Condition::Test(test) => test.holds(message)?,
                Condition::Group(group) => group.holds(message, stop)?,
                Condition::Nothing => return Err(EMPTY_GROUP),
            };
            if holds == decided_by {
                return Ok(decided_by);
            }
        }
        Ok(!decided_by)
    }

    fn needs_event_name(&self) -> bool {
        let needs = |condition: &Condition| match condition {
            Condition::Test(test) => test.needs_event_name(),
            Condition::Group(group) => group.needs_event_name(),
            Condition::Nothing => false,
        };
        match self.join {
            Join::And => self.conditions.iter().any(needs),
            Join::Or => !self.conditions.is_empty() && self.conditions.iter().all(needs),
        }
    }

    fn may_hold(&self, kind: MessageType, event: Option<&str>) -> bool {
        let may = |condition: &Condition| match condition {
            Condition::Test(test) => test.may_hold(kind, event),
            Condition::Group(group) => group.may_hold(kind, event),
            Condition::Nothing => false,
        };
        match self.join {
            Join::And => self.conditions.iter().all(may),
            Join::Or => self.conditions.iter().any(may),
        }
    }
}

impl Test {
    fn holds(&self, message: &Value) -> Result<bool, TriggerFailure> {
        Ok(self.operator.holds(self.subject.find(message)?.as_deref(), &self.expected))
    }

    /// Describes the test and the value that it found, for people.
    fn told(&self, message: &Value) -> String {
        let met = match self.subject.find(message) {
            Ok(Some(value)) => {
                let text = value.to_json();
                let cut: String = text.chars().take(VALUE_CHARS_MAX).collect();
                if cut.len() < text.len() { format!("{cut}…") } else { cut }
            }
            Ok(None) => "not there".to_owned(),
            Err(failure) => failure.to_string(),
        };
        format!("{} is {met}, which is not {}", self.subject, self.operator.told(&self.expected))
    }

    fn needs_event_name(&self) -> bool {
        let is_positive = matches!(
            self.operator,
            Operator::Equals | Operator::StartsWith | Operator::EndsWith | Operator::Contains
        );
        self.subject == Subject::Event && is_positive && !self.expected.text.is_empty()
    }

    fn may_hold(&self, kind: MessageType, event: Option<&str>) -> bool {
        let known = match self.subject {
            Subject::Type => Some(kind.as_str()),
            Subject::Event => event,
            _ => None,
        };
        known.is_none_or(|known| self.operator.holds(Some(&Value::from(known)), &self.expected))
    }
}

impl Subject {
    fn find<'a>(&self, message: &'a Value) -> Result<Option<Cow<'a, Value>>, TriggerFailure> {
        match self {
            Subject::Type => Ok(message.get("type").map(Cow::Borrowed)),
            Subject::Event => Ok(message.get("event").map(Cow::Borrowed)),
            Subject::Name => Ok(message.get("name").map(Cow::Borrowed)),
            Subject::UserId => Ok(message.get("userId").map(Cow::Borrowed)),
            Subject::Properties(path) => path.find(message.get("properties")),
            Subject::Traits(path) => path.find(message.get("traits")),
            Subject::Context(path) => path.find(message.get("context")),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, path) = match self {
            Subject::Type => return out.write_str("type"),
            Subject::Event => return out.write_str("event"),
            Subject::Name => return out.write_str("name"),
            Subject::UserId => return out.write_str("userId"),
            Subject::Properties(path) => ("properties", path),
            Subject::Traits(path) => ("traits", path),
            Subject::Context(path) => ("context", path),
        };
        write!(out, "{first}.{}", path.0.as_deref().unwrap_or_default().join("."))
    }
}

impl Path {
    /// Returns what is at the path. A falsy value on the way is itself the result.
    fn find<'a>(&self, root: Option<&'a Value>) -> Result<Option<Cow<'a, Value>>, TriggerFailure> {
        let keys = self.0.as_ref().ok_or(EMPTY_PATH)?;
        Ok(root.and_then(|root| root.at(keys)))
    }
}

impl Operator {
    fn holds(self, actual: Option<&Value>, expected: &Expected) -> bool {
        let text = actual.and_then(Value::as_str);
        let number = actual.and_then(Value::as_f64);
        let flag = actual.and_then(Value::as_bool);
        match self {
            Operator::Equals => text == Some(&expected.text),
            Operator::NotEquals => text != Some(&expected.text),
            Operator::NumberEquals => number.is_some_and(|number| number == expected.number),
            Operator::NumberNotEquals => number.is_some_and(|number| number != expected.number),
            Operator::Less => number.is_some_and(|number| number < expected.number),
            Operator::LessOrEqual => number.is_some_and(|number| number <= expected.number),
            Operator::Greater => number.is_some_and(|number| number > expected.number),
            Operator::GreaterOrEqual => number.is_some_and(|number| number >= expected.number),
            Operator::Contains => text.is_some_and(|text| text.contains(&expected.text)),
            Operator::NotContains => text.is_some_and(|text| !text.contains(&expected.text)),
            Operator::StartsWith => text.is_some_and(|text| text.starts_with(&expected.text)),
            Operator::NotStartsWith => text.is_some_and(|text| !text.starts_with(&expected.text)),
            Operator::EndsWith => text.is_some_and(|text| expected.ends(text)),
            Operator::NotEndsWith => text.is_some_and(|text| !expected.ends(text)),
            Operator::Exists => actual.is_some_and(|actual| !actual.is_null()),
            Operator::NotExists => actual.is_none_or(Value::is_null),
            Operator::IsTrue => flag == Some(true),
            Operator::IsFalse => flag == Some(false),
            Operator::Unknown => false,
        }
    }
}

impl Operator {
    /// Describes what it expects, for people.
    fn told(self, expected: &Expected) -> String {
        let text = &expected.text;
        match self {
            Operator::Equals => format!("the string \"{text}\""),
            Operator::NotEquals => format!("anything but the string \"{text}\""),
            Operator::NumberEquals => format!("the number {text}"),
            Operator::NumberNotEquals => format!("a number other than {text}"),
            Operator::Less => format!("a number below {text}"),
            Operator::LessOrEqual => format!("a number up to {text}"),
            Operator::Greater => format!("a number above {text}"),
            Operator::GreaterOrEqual => format!("a number from {text}"),
            Operator::Contains => format!("a string that contains \"{text}\""),
            Operator::NotContains => format!("a string that does not contain \"{text}\""),
            Operator::StartsWith => format!("a string that starts with \"{text}\""),
            Operator::NotStartsWith => format!("a string that does not start with \"{text}\""),
            Operator::EndsWith => format!("a string that ends with \"{text}\""),
            Operator::NotEndsWith => format!("a string that does not end with \"{text}\""),
            Operator::Exists => "there with a value".to_owned(),
            Operator::NotExists => "missing or null".to_owned(),
            Operator::IsTrue => "the boolean true".to_owned(),
            Operator::IsFalse => "the boolean false".to_owned(),
            Operator::Unknown => "compared by an operator that FQL has".to_owned(),
        }
    }
}

impl Expected {
    /// Whether a string ends with it, in UTF-16 code units.
    fn ends(&self, text: &str) -> bool {
        match (text.strip_suffix(&self.text), self.lost_half) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(before), Some(low)) => before.chars().next_back().is_some_and(
                |last| matches!(last.encode_utf16(&mut [0; 2]), [_, own] if *own == low),
            ),
        }
    }
}
