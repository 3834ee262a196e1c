//! Triggers: which messages a subscription takes. Pure; knows messages only as values.
//!
//! A trigger is written in Segment's FQL and read exactly as Segment's runtime reads it, oddities
//! included, since what people paste over must go on taking the same messages: unknown words are
//! passed over, within a group the last `and` or `or` counts for all, `match` drops a character.

mod eval;
mod lexer;
mod parser;

/// The longest trigger that is read, in bytes.
pub const TRIGGER_BYTES_MAX: usize = 64 * 1024;

/// The most patterns that [`Trigger::events`] takes.
pub const EVENTS_MAX: usize = 1000;

/// A compiled trigger.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger(Group);

/// Why a trigger cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {}: {problem}", at + 1)]
pub struct TriggerError {
    /// Place of the problem in the text, in characters from 0.
    pub at: usize,
    /// What is wrong and what is allowed.
    pub problem: String,
}

/// Why a trigger failed when it was evaluated: Segment's runtime fails there with an error of the
/// JavaScript engine, and sends nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the trigger fails for this message: {0}")]
pub struct TriggerFailure(pub(crate) &'static str);

impl Trigger {
    /// Compiles an FQL text.
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

    /// Takes track messages by the name of their event: `Order Completed` is that name, `Order *`
    /// every name that begins so, `* Completed` every name that ends so, `*` every event.
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

/// Conditions that are joined.
#[derive(Debug, Clone, PartialEq)]
struct Group {
    join: Join,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    And,
    Or,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Test(Test),
    Group(Group),
    /// An empty group: evaluation fails when it is reached.
    Nothing,
}

#[derive(Debug, Clone, PartialEq)]
struct Test {
    subject: Subject,
    operator: Operator,
    expected: Expected,
}

impl Test {
    fn new(subject: Subject, operator: Operator, text: &str) -> Self {
        let expected = Expected::of(text.to_owned(), f64::NAN);
        Self { subject, operator, expected }
    }
}

/// What a test looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Type,
    Event,
    Name,
    UserId,
    Properties(Path),
    Traits(Path),
    Context(Path),
}

/// Keys from the outside in; `None` for a path without any, over which the runtime stumbles.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Path(Option<Vec<String>>);

impl Path {
    fn parse(text: &str) -> Self {
        let keys = text.split(['.', '[', ']']).filter(|key| !key.is_empty());
        Self(Some(keys.map(str::to_owned).collect::<Vec<_>>()).filter(|keys| !keys.is_empty()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equals,
    NotEquals,
    NumberEquals,
    NumberNotEquals,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Contains,
    NotContains,
    StartsWith,
    NotStartsWith,
    EndsWith,
    NotEndsWith,
    Exists,
    NotExists,
    IsTrue,
    IsFalse,
    /// Anything else: never true.
    Unknown,
}

impl Operator {
    fn parse(text: &str) -> Self {
        match text {
            "=" => Operator::Equals,
            "!=" => Operator::NotEquals,
            "number_equals" => Operator::NumberEquals,
            "number_not_equals" => Operator::NumberNotEquals,
            "<" => Operator::Less,
            "<=" => Operator::LessOrEqual,
            ">" => Operator::Greater,
            ">=" => Operator::GreaterOrEqual,
            "contains" => Operator::Contains,
            "not_contains" => Operator::NotContains,
            "starts_with" => Operator::StartsWith,
            "not_starts_with" => Operator::NotStartsWith,
            "ends_with" => Operator::EndsWith,
            "not_ends_with" => Operator::NotEndsWith,
            "exists" => Operator::Exists,
            "not_exists" => Operator::NotExists,
            "is_true" => Operator::IsTrue,
            "is_false" => Operator::IsFalse,
            _ => Operator::Unknown,
        }
    }
}

/// What a test compares with.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    text: String,
    /// The same as JavaScript's `Number` reads it; not a number if it cannot.
    number: f64,
    /// Second half of a character beyond U+FFFF whose first half `match` dropped.
    lost_half: Option<u16>,
    /// Whether it is `true` or `false` without quotes.
    is_flag: bool,
}

impl Expected {
    fn of(text: String, number: f64) -> Self {
        Self { text, number, lost_half: None, is_flag: false }
    }
}

#[cfg(test)]
mod tests;
