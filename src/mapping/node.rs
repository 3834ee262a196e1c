//! The compiled form of a mapping.

use super::liquid::Liquid;
use super::path::Path;
use super::problem::Problem;
use super::replace::How;
use super::template::Template;
use crate::js::Value;

/// A compiled mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    pub(super) root: Node,
    pub(super) latent: Vec<Problem>,
}

/// A place in a mapping. A closed enum, so that every directive is handled wherever nodes are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A value as it is written.
    Literal(Value),
    /// An object whose values are nodes, in JavaScript's order of keys.
    Object(Vec<(String, Node)>),
    /// A list of nodes.
    Array(Vec<Node>),
    /// `@path` with a text.
    Path(Path),
    /// `@path` with a directive that finds the path.
    PathOf(Box<Node>),
    /// `@template` with a text.
    Template(Template),
    /// `@template` with a directive that finds the template.
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
    /// `None` also for an `else` that is falsy as written: Segment's `@if` drops it; so do we.
    pub(super) otherwise: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    /// There and not null.
    Exists,
    /// Segment's "blank" holds its `then` for values that are *not* blank.
    NotBlank,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Case {
    /// `None` for an operator that fails as soon as it meets a text.
    pub(super) operator: Option<Letters>,
    /// `None` for a value that is falsy as written: it gives nothing.
    pub(super) value: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letters {
    Lower,
    Upper,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Replace {
    /// `None` for a value that is falsy as written: it gives nothing.
    pub(super) value: Option<Node>,
    /// `None` if some option is of a wrong kind: the result is then an empty text.
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
