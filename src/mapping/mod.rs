//! Segment's mapping kit: what each field of an action is filled with. Pure: no I/O, no clock; ends
//! with an untyped value and knows nothing of Loops.
//!
//! A mapping is compiled once, when it is loaded, and resolved for each message. This release reads
//! `@path`, `@if`, `@literal` and plain literals; other directives are refused when it is compiled.

mod compile;
#[allow(dead_code, reason = "the compiler of mappings does not read it yet")]
mod liquid;
mod path;
mod resolve;

use crate::segment::Value;
use path::Path;

/// How deep a mapping may be nested.
const DEPTH_MAX: usize = 64;

/// A compiled mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping(Node);

/// A place in a mapping. A closed enum, so that every directive is handled wherever nodes are.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// A value as it is written.
    Literal(Value),
    /// An object whose values are nodes.
    Object(Vec<(String, Node)>),
    /// A list of nodes.
    Array(Vec<Node>),
    /// `@path`
    Path(Path),
    /// `@if`
    If(Box<If>),
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

/// Why a mapping cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at `{pointer}`: {problem}")]
pub struct MappingError {
    /// JSON pointer to the place.
    pub pointer: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}
