//! The verdict: what became of the messages that a person should have got, in one sentence of a closed list, with one
//! next step.
//!
//! Pure: the caller gathers the facts, and the first kind of [`VerdictKind::ALL`] that applies is the verdict.

mod at_loops;
mod facts;
mod judge;
mod kind;
#[cfg(test)]
mod tests;

pub(super) use facts::Facts;
pub(super) use judge::{Verdict, again_by_itself, judge, rejections};
pub use kind::VerdictKind;
