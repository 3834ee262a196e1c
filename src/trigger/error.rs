//! Why a trigger cannot be compiled, or fails for a message.

/// Why a trigger cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {}: {problem}", at + 1)]
pub struct TriggerError {
    /// Position of the problem, in characters from 0.
    pub at: usize,
    /// What is wrong and what is allowed.
    pub problem: String,
}

/// Why the evaluation of a trigger failed: Segment's runtime fails there with an error of the JavaScript engine, and
/// sends nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the trigger fails for this message: {0}")]
pub struct TriggerFailure(pub(crate) &'static str);
