//! The compiled form of a mapping.

use super::liquid::Liquid;
use super::path::Path;
use super::problem::Problem;
use super::replace::How;
use super::template::Template;
use crate::js::Value;

/// A compiled mapping.
///
/// ```
/// use segment_loops::js::decode::decode;
/// use segment_loops::mapping::Mapping;
///
/// let mapping = Mapping::compile(&decode(br#"{
///     "email": {"@path": "$.traits.email"},
///     "greeting": {"@template": "Hello {{traits.name}}"},
///     "source": {"@if": {"exists": {"@path": "$.traits.source"}, "then": "known", "else": "Segment"}},
///     "phone": {"@path": "$.traits.phone"}
/// }"#)?)?;
/// let message = decode(br#"{"traits": {"email": "ada@example.com", "name": "Ada"}}"#)?;
/// // `phone` is missing in the message, so the result has no such key.
/// let expected = decode(br#"{"email": "ada@example.com", "greeting": "Hello Ada", "source": "Segment"}"#)?;
/// assert_eq!(mapping.resolve(&message)?, Some(expected));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    pub(super) root: Node,
    pub(super) latent: Vec<Problem>,
}

/// A part of a mapping. A closed enum, so that every directive is handled wherever nodes are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A value as it is written.
    Literal(Value),
    /// An object whose values are nodes, in JavaScript's order of keys.
    Object(Vec<(String, Node)>),
    /// An array of nodes.
    Array(Vec<Node>),
    /// `@path` with a string.
    Path(Path),
    /// `@path` with a directive that yields the path.
    PathOf(Box<Node>),
    /// `@template` with a string.
    Template(Template),
    /// `@template` with a directive that yields the template.
    TemplateOf(Box<Node>),
    If(Box<If>),
    Case(Box<Case>),
    Replace(Box<Replace>),
    ArrayPath(Box<ArrayPath>),
    Merge(Box<Merge>),
    Transform(Box<Transform>),
    Flatten(Box<Flatten>),
    Json(Box<Json>),
    ExcludeWhenNull(Box<Node>),
    Liquid(Box<Liquid>),
    /// A problem that Segment's runtime finds only when it evaluates this node.
    Fails(String),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct If {
    pub(super) test: Test,
    pub(super) subject: Node,
    pub(super) then: Option<Node>,
    /// `None` also for an `else` that is falsy as written: Segment's `@if` drops it, and so do we.
    pub(super) otherwise: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    /// The subject is there and not null.
    Exists,
    /// The subject is not blank: Segment's "blank" takes its `then` for values that are *not* blank.
    NotBlank,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Case {
    /// `None` for an unknown operator, which fails as soon as the value is a string.
    pub(super) operator: Option<Letters>,
    /// `None` for a value that is falsy as written: it yields nothing.
    pub(super) value: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letters {
    Lower,
    Upper,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Replace {
    /// `None` for a value that is falsy as written: it yields nothing.
    pub(super) value: Option<Node>,
    /// `None` if some option has the wrong type: the result is then an empty string.
    pub(super) how: Option<How>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ArrayPath {
    pub(super) root: Node,
    /// Only a shape that is an object with keys counts.
    pub(super) shape: Option<Node>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Merge {
    pub(super) direction: Node,
    pub(super) objects: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Transform {
    pub(super) apply: Node,
    pub(super) mapping: Node,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Flatten {
    pub(super) separator: Node,
    pub(super) value: Node,
    pub(super) omits_lists: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Json {
    pub(super) mode: Option<JsonMode>,
    pub(super) value: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonMode {
    Encode,
    Decode,
}
