//! Segment's mapping kit: what each field of an action is filled with. Pure: no I/O, no clock. The result is an
//! untyped value; nothing here knows of Loops.
//!
//! A mapping is checked and compiled once, when it is loaded, and resolved for each message. Its result is that of
//! Segment's runtime, which validates a mapping first and resolves it then. That validation does not look into
//! arrays, so the runtime finds some problems only when it evaluates them: those are kept beside the mapping as
//! [`Mapping::latent_problems`], so that loading can reject them.

mod budget;
mod check;
mod compile;
mod explain;
mod liquid;
mod made;
mod node;
mod path;
mod possible;
mod problem;
mod replace;
mod resolve;
mod template;

pub use budget::MappingFailure;
pub use node::Mapping;
pub use possible::Possible;
pub use problem::{MappingErrors, Problem};
pub use resolve::{Fields, Unresolved};

/// How deep a mapping may be nested.
pub const DEPTH_MAX: usize = 100;

/// The most values, nested ones included, that a mapping may contain.
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

#[cfg(test)]
mod tests;
