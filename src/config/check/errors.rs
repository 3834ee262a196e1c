//! Collects the errors, so that one run of the check finds them all.

use std::collections::BTreeMap;

use crate::config::{ConfigError, Problem, Stage};

/// A check of the whole tree, which collects every error.
pub(super) struct Check<'a> {
    /// The file; the environment if there is no file.
    pub(super) place: &'a str,
    problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    pub(super) fn new(place: &'a str) -> Self {
        Self { place, problems: Vec::new() }
    }

    /// Returns an error if any problem was recorded.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        if self.problems.is_empty() { Ok(()) } else { Err(ConfigError(self.problems)) }
    }

    /// Records an error of a key.
    pub(super) fn report(&mut self, key: &str, problem: impl Into<String>) {
        self.report_at(Stage::Compile, key, problem);
    }

    /// Records errors that were found elsewhere.
    pub(super) fn report_all(&mut self, mut problems: Vec<Problem>) {
        self.problems.append(&mut problems);
    }

    /// Records that something is missing, such as a key or the file of a secret.
    pub(super) fn missing(&mut self, key: &str, problem: impl Into<String>) {
        self.report_at(Stage::Environment, key, problem);
    }

    fn report_at(&mut self, stage: Stage, key: &str, problem: impl Into<String>) {
        self.problems.push(Problem {
            stage,
            place: self.place.to_owned(),
            key: key.to_owned(),
            problem: problem.into(),
        });
    }

    /// Checks the name of each entry of a table, and the entry itself with `one`. Returns the usable entries.
    pub(super) fn each<T, U>(
        &mut self,
        trees: BTreeMap<String, T>,
        table: &str,
        mut one: impl FnMut(&mut Self, &str, T) -> Option<U>,
    ) -> BTreeMap<String, U> {
        let mut checked = BTreeMap::new();
        for (name, tree) in trees {
            let key = format!("{table}.{name}");
            let is_plain = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
            };
            if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
                self.report(&key, "a name has 1 to 64 lower-case letters, digits, - and _");
            }
            if let Some(value) = one(self, &key, tree) {
                checked.insert(name, value);
            }
        }
        checked
    }
}
