//! What is wrong with a mapping, in Segment's words.

/// A problem in a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is: `/` and the keys from the outside in, as Segment writes it.
    pub pointer: String,
    /// What is wrong, in Segment's words.
    pub problem: String,
    /// What is allowed, if Segment's words do not say it; otherwise empty.
    pub allowed: String,
    /// Whether Segment's error says where it is.
    pub(super) names_place: bool,
}

impl Problem {
    /// Returns the error of Segment's runtime.
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
    /// Returns the error of Segment's runtime, one line for each problem.
    pub fn segment_text(&self) -> String {
        self.problems.iter().map(Problem::segment_text).collect::<Vec<_>>().join("\n")
    }
}
