//! Finds the name that was probably meant by one that Loops does not know.

use std::collections::{HashMap, HashSet};

/// Names are compared letter by letter only if there are at most this many, and only names of at most this many
/// characters: each comparison takes about a microsecond, and a message may hold many names.
const COMPARED_MAX: usize = 2_000;
const COMPARED_CHARS_MAX: usize = 60;

/// The largest distance at which one name may be a misspelling of another.
const DISTANCE_MAX: usize = 2;

/// The names that Loops has.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    names: HashSet<String>,
    /// By their folded forms; of several names with the same one, the first in order counts.
    folded: HashMap<String, String>,
}

impl Names {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let names: HashSet<String> = names.map(str::to_owned).collect();
        let mut folded: HashMap<String, String> = HashMap::with_capacity(names.len());
        for name in &names {
            let first = folded.entry(fold(name)).or_insert_with(|| name.clone());
            if name < first {
                first.clone_from(name);
            }
        }
        Self { names, folded }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Returns the name that differs only in casing, `_`, `-` and spaces; otherwise the nearest one, if it is near.
    pub(super) fn like(&self, name: &str) -> Option<&str> {
        let given = fold(name);
        if let Some(same) = self.folded.get(&given) {
            return Some(same);
        }
        let length = given.chars().count();
        if self.folded.len() > COMPARED_MAX || length > COMPARED_CHARS_MAX {
            return None;
        }
        // In a short name, two changes may make any other.
        let allowed = DISTANCE_MAX.min(length / 3);
        let near = self.folded.iter().filter_map(|(folded, name)| {
            if folded.chars().count().abs_diff(length) > allowed {
                return None;
            }
            let distance = strsim::damerau_levenshtein(folded, &given);
            (distance <= allowed).then_some((distance, name))
        });
        near.min().map(|(_, name)| name.as_str())
    }
}

/// Folds a name: without what people write in different ways.
fn fold(name: &str) -> String {
    let kept = name.chars().filter(|c| !matches!(c, '_' | '-' | ' '));
    kept.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_probably_meant() {
        let names = ["planName", "plan", "age", "Signed Up", "signed-up", "companyName", "id"];
        let names = Names::new(names.into_iter());
        for (given, expected) in [
            ("plan_name", Some("planName")),
            ("PlanName", Some("planName")),
            ("Plan Name", Some("planName")),
            ("planNmae", Some("planName")),
            ("planNam", Some("planName")),
            ("palnNam", Some("planName")),
            ("plna", Some("plan")),
            ("signed_up", Some("Signed Up")),
            ("Sgined Up", Some("Signed Up")),
            ("compnayname", Some("companyName")),
            ("cmpnyname", Some("companyName")),
            // Too far, or so short that it could be anything.
            ("cmpnynam", None),
            ("plan2024", None),
            ("pa", None),
            ("ag", None),
            ("", None),
            ("ages", Some("age")),
        ] {
            assert_eq!(names.like(given), expected, "{given}");
        }
    }

    #[test]
    fn many_names_are_not_compared_letter_by_letter() {
        let many: Vec<String> = (0..COMPARED_MAX).map(|n| format!("property{n}")).collect();
        let names = |count: usize| Names::new(many[..count].iter().map(String::as_str));
        assert_eq!(names(COMPARED_MAX).like("proprety7"), Some("property7"));
        let more = many.iter().map(String::as_str).chain(["one"]);
        let more = Names::new(more);
        assert_eq!((more.like("proprety7"), more.like("property_7")), (None, Some("property7")));
    }
}
