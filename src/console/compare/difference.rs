//! The difference between two requests, line by line. Keys are compared by name, so a key that moves is no difference.
//! The number of steps grows only with the length of the requests.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json};

use crate::console::preview::PreviewedRequest;

/// Whether a line is in both requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// In both.
    Same,
    /// In the request after the change alone.
    Added,
    /// In the request before the change alone.
    Removed,
}

/// A line of a difference, written as `+ text`, `- text` or `  text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it is.
    pub mark: Mark,
    /// The line, indented.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.mark {
            Mark::Same => ' ',
            Mark::Added => '+',
            Mark::Removed => '-',
        };
        write!(out, "{mark} {}", self.text)
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Returns the difference between two requests, either of which may be missing.
pub fn difference(
    before: Option<&PreviewedRequest>,
    after: Option<&PreviewedRequest>,
) -> Vec<Line> {
    let mut lines = Lines::default();
    let head = |request: &PreviewedRequest| format!("{} {}", request.method, request.path);
    match (before, after) {
        (Some(before), Some(after)) if head(before) == head(after) => {
            lines.add(Mark::Same, 0, &head(after));
            lines.compare(0, "", &before.body, &after.body);
        }
        (before, after) => {
            for (mark, request) in [(Mark::Removed, before), (Mark::Added, after)] {
                let Some(request) = request else { continue };
                lines.add(mark, 0, &head(request));
                lines.whole(mark, 0, "", &request.body);
            }
        }
    }
    lines.0
}

#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    fn add(&mut self, mark: Mark, depth: usize, text: &str) {
        self.0.push(Line { mark, text: format!("{:width$}{text}", "", width = depth * 2) });
    }

    /// `name` comes before the value: a key with its colon, or nothing.
    fn compare(&mut self, depth: usize, name: &str, before: &Json, after: &Json) {
        match (before, after) {
            (Json::Object(before), Json::Object(after)) => {
                self.add(Mark::Same, depth, &format!("{name}{{"));
                self.compare_members(depth + 1, before, after);
                self.add(Mark::Same, depth, "}");
            }
            (Json::Array(before), Json::Array(after)) => {
                self.add(Mark::Same, depth, &format!("{name}["));
                self.compare_items(depth + 1, before, after);
                self.add(Mark::Same, depth, "]");
            }
            (before, after) if before == after => self.whole(Mark::Same, depth, name, after),
            (before, after) => {
                self.whole(Mark::Removed, depth, name, before);
                self.whole(Mark::Added, depth, name, after);
            }
        }
    }

    fn compare_members(
        &mut self,
        depth: usize,
        before: &Map<String, Json>,
        after: &Map<String, Json>,
    ) {
        for (key, value) in before {
            match after.get(key) {
                Some(other) => self.compare(depth, &name(key), value, other),
                None => self.whole(Mark::Removed, depth, &name(key), value),
            }
        }
        for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
            self.whole(Mark::Added, depth, &name(key), value);
        }
    }

    /// Items that both arrays begin or end with are the same. Those in between are compared in pairs.
    fn compare_items(&mut self, depth: usize, before: &[Json], after: &[Json]) {
        let shorter = before.len().min(after.len());
        let pairs = before.iter().zip(after);
        let start = pairs.take_while(|(one, other)| one == other).count();
        let pairs = before.iter().rev().zip(after.iter().rev());
        let end = pairs.take(shorter - start).take_while(|(one, other)| one == other).count();
        let middle = |items: &'_ [Json]| start..items.len() - end;
        let (old, new) = (&before[middle(before)], &after[middle(after)]);
        before[..start].iter().for_each(|item| self.whole(Mark::Same, depth, "", item));
        old.iter().zip(new).for_each(|(one, other)| self.compare(depth, "", one, other));
        let both = old.len().min(new.len());
        old[both..].iter().for_each(|item| self.whole(Mark::Removed, depth, "", item));
        new[both..].iter().for_each(|item| self.whole(Mark::Added, depth, "", item));
        let same = &before[before.len() - end..];
        same.iter().for_each(|item| self.whole(Mark::Same, depth, "", item));
    }

    fn whole(&mut self, mark: Mark, depth: usize, name: &str, value: &Json) {
        match value {
            Json::Object(members) if !members.is_empty() => {
                self.add(mark, depth, &format!("{name}{{"));
                for (key, value) in members {
                    self.whole(mark, depth + 1, &self::name(key), value);
                }
                self.add(mark, depth, "}");
            }
            Json::Array(items) if !items.is_empty() => {
                self.add(mark, depth, &format!("{name}["));
                items.iter().for_each(|item| self.whole(mark, depth + 1, "", item));
                self.add(mark, depth, "]");
            }
            value => self.add(mark, depth, &format!("{name}{value}")),
        }
    }
}

fn name(key: &str) -> String {
    format!("{}: ", Json::from(key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(before: Option<Json>, after: Option<Json>) -> Vec<String> {
        let request = |body| PreviewedRequest { method: "PUT", path: "/p", body };
        let (before, after) = (before.map(request), after.map(request));
        let lines = difference(before.as_ref(), after.as_ref());
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_differs_is_marked() {
        let before =
            json!({"a": 1, "gone": {"x": []}, "o": {"same": "s", "n": null}, "l": [1, 2, 3, 5]});
        let after =
            json!({"o": {"n": true, "same": "s"}, "l": [1, 4, 2, 3, 5], "a": 1, "new": "\"q\""});
        assert_eq!(
            lines(Some(before), Some(after)),
            [
                "  PUT /p",
                "  {",
                "    \"a\": 1",
                "-   \"gone\": {",
                "-     \"x\": []",
                "-   }",
                "    \"o\": {",
                "      \"same\": \"s\"",
                "-     \"n\": null",
                "+     \"n\": true",
                "    }",
                "    \"l\": [",
                "      1",
                "+     4",
                "      2",
                "      3",
                "      5",
                "    ]",
                "+   \"new\": \"\\\"q\\\"\"",
                "  }",
            ]
        );
    }

    #[test]
    fn a_request_that_comes_or_goes_is_marked_as_a_whole() {
        assert_eq!(lines(None, Some(json!({}))), ["+ PUT /p", "+ {}"]);
        assert_eq!(lines(Some(json!({"a": 1})), None), ["- PUT /p", "- {", "-   \"a\": 1", "- }"]);
        assert_eq!(lines(None, None), Vec::<String>::new());
    }

    #[test]
    fn equal_items_are_not_taken_for_both_ends() {
        let lines = lines(Some(json!([1, 1])), Some(json!([1, 1, 1])));
        assert_eq!(lines, ["  PUT /p", "  [", "    1", "    1", "+   1", "  ]"]);
    }
}
