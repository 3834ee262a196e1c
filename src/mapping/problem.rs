//! What is wrong with a mapping, in Segment's words.

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
    pub(super) names_place: bool,
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
