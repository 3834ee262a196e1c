//! Segment's mapping kit: what each field of an action is filled with. Pure: no I/O, no clock; ends
//! with an untyped value and knows nothing of Loops.
//!
//! A mapping is checked and compiled once, when it is loaded, and resolved for each message. It gives
//! what Segment's runtime gives, which checks first and resolves afterwards.
//! That runtime does not look into lists beforehand, so it finds some problems only when it evaluates them: these
//! are kept beside the mapping as [`Mapping::latent_problems`], so that loading can reject them.

mod check;
mod compile;
mod explain;
mod liquid;
mod made;
mod path;
mod possible;
mod replace;
mod resolve;
mod template;

pub use possible::Possible;
pub use resolve::{Fields, MappingFailure, Unresolved};

use crate::js::Value;
use liquid::Liquid;
use path::Path;
use template::Template;

/// How deep a mapping may be nested.
pub const DEPTH_MAX: usize = 100;

/// The most values, nested ones included, that a mapping may hold.
pub const VALUES_MAX: usize = 100_000;

/// The longest path or template, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// The most parts that a path may have.
pub const PATH_PARTS_MAX: usize = 1000;

/// The names of all directives.
pub const DIRECTIVES: [&str; 13] = [
    "@path",
    "@template",
    "@literal",
    "@if",
    "@case",
    "@replace",
    "@arrayPath",
    "@merge",
    "@transform",
    "@flatten",
    "@json",
    "@excludeWhenNull",
    "@liquid",
];

/// A compiled mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    root: Node,
    latent: Vec<Problem>,
}

/// A place in a mapping. A closed enum, so that every directive is handled wherever nodes are.
#[derive(Debug, Clone, PartialEq)]
enum Node {
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
struct If {
    test: Test,
    subject: Node,
    then: Option<Node>,
    /// `None` also for an `else` that is falsy as written: Segment's `@if` drops it; so do we.
    otherwise: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    /// There and not null.
    Exists,
    /// Segment's "blank" holds its `then` for values that are *not* blank.
    NotBlank,
}

#[derive(Debug, Clone, PartialEq)]
struct Case {
    /// `None` for an operator that fails as soon as it meets a text.
    operator: Option<Letters>,
    /// `None` for a value that is falsy as written: it gives nothing.
    value: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Letters {
    Lower,
    Upper,
}

#[derive(Debug, Clone, PartialEq)]
struct Replace {
    /// `None` for a value that is falsy as written: it gives nothing.
    value: Option<Node>,
    /// `None` if some option is of a wrong kind: the result is then an empty text.
    how: Option<replace::How>,
}

#[derive(Debug, Clone, PartialEq)]
struct ArrayPath {
    root: Node,
    /// Only a shape that is an object with keys counts.
    shape: Option<Node>,
}

#[derive(Debug, Clone, PartialEq)]
struct Merge {
    direction: Node,
    objects: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq)]
struct Transform {
    apply: Node,
    mapping: Node,
}

#[derive(Debug, Clone, PartialEq)]
struct Flatten {
    separator: Node,
    value: Node,
    omits_lists: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Json {
    mode: Option<JsonMode>,
    value: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JsonMode {
    Encode,
    Decode,
}

/// A problem in a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is: `/` and the keys from the outside in, as Segment writes it.
    pub pointer: String,
    /// What is wrong, in Segment's words.
    pub problem: String,
    /// What is allowed, where Segment's words do not say it; else empty.
    pub allowed: String,
    /// Whether Segment's text for it names the place.
    names_place: bool,
}

impl Problem {
    /// The text that Segment's runtime has for it.
    pub fn segment_text(&self) -> String {
        if self.names_place {
            format!("{} {}.", self.pointer, self.problem)
        } else {
            self.problem.clone()
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "at `{}`: {}", self.pointer, self.problem)?;
        if !self.allowed.is_empty() {
            write!(out, "; {}", self.allowed)?;
        }
        Ok(())
    }
}

/// Why a mapping cannot be compiled: all its problems, in Segment's order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct MappingErrors {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl MappingErrors {
    /// The text that Segment's runtime has for them.
    pub fn segment_text(&self) -> String {
        self.problems.iter().map(Problem::segment_text).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests;
