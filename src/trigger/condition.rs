//! What a compiled trigger consists of: groups of tests.

/// Conditions that are joined.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) join: Join,
    pub(super) conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    And,
    Or,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    Test(Test),
    Group(Group),
    /// An empty group: evaluation fails when it is reached.
    Nothing,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Test {
    pub(super) subject: Subject,
    pub(super) operator: Operator,
    pub(super) expected: Expected,
}

impl Test {
    pub(super) fn new(subject: Subject, operator: Operator, text: &str) -> Self {
        let expected = Expected::of(text.to_owned(), f64::NAN);
        Self { subject, operator, expected }
    }
}

/// What a test looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Type,
    Event,
    Name,
    UserId,
    Properties(Path),
    Traits(Path),
    Context(Path),
}

/// Keys from the outside in; `None` for a path without any, on which Segment's runtime fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(pub(super) Option<Vec<String>>);

impl Path {
    pub(super) fn parse(text: &str) -> Self {
        let keys = text.split(['.', '[', ']']).filter(|key| !key.is_empty());
        Self(Some(keys.map(str::to_owned).collect::<Vec<_>>()).filter(|keys| !keys.is_empty()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
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
    pub(super) fn parse(text: &str) -> Self {
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
pub(super) struct Expected {
    pub(super) text: String,
    /// What JavaScript's `Number` makes of it; NaN if it is not a number.
    pub(super) number: f64,
    /// The second half of a character beyond U+FFFF whose first half `match` dropped.
    pub(super) lost_half: Option<u16>,
    /// Whether it is `true` or `false` without quotes.
    pub(super) is_flag: bool,
}

impl Expected {
    pub(super) fn of(text: String, number: f64) -> Self {
        Self { text, number, lost_half: None, is_flag: false }
    }
}
