//! Explains where the value of each field comes from.

use super::budget::Budget;
use super::made::View;
use super::node::{If, Mapping, Node, Test};
use super::path::Path;
use crate::js::Value;

/// The most characters of a literal that an explanation shows.
const LITERAL_CHARS_MAX: usize = 60;

impl Mapping {
    /// Returns, for each field in the mapping's order, the part of the mapping that decides its value for this message.
    /// Empty if the mapping is a single directive. Conditions are no longer evaluated once `stop`, which is called
    /// repeatedly, returns true.
    ///
    /// ```
    /// use segment_loops::js::decode::decode;
    /// use segment_loops::mapping::Mapping;
    ///
    /// let mapping = Mapping::compile(&decode(br#"{
    ///     "source": {"@if": {"exists": {"@path": "$.source"}, "then": {"@path": "$.source"}, "else": "Segment"}}
    /// }"#)?)?;
    /// for (message, from) in [
    ///     (r#"{"source": "app"}"#, "$.source ($.source exists)"),
    ///     ("{}", r#"the literal "Segment" ($.source does not exist)"#),
    /// ] {
    ///     let message = decode(message.as_bytes())?;
    ///     let origins = mapping.origins_until(&message, &|| false);
    ///     assert_eq!(origins, [("source".to_owned(), from.to_owned())]);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn origins_until(&self, message: &Value, stop: &dyn Fn() -> bool) -> Vec<(String, String)> {
        // One budget for all fields, since each condition on the way resolves its subject.
        let budget = &Budget::until(stop);
        let fields = match &self.root {
            Node::Object(fields) => {
                fields.iter().map(|(key, node)| (key, origin(node, message, budget))).collect()
            }
            Node::Literal(Value::Object(object)) => {
                let fields = object.iter();
                return fields.map(|(key, value)| (key.to_owned(), literal(value))).collect();
            }
            _ => Vec::new(),
        };
        fields.into_iter().map(|(key, from)| (key.clone(), from)).collect()
    }
}

fn origin(node: &Node, message: &Value, budget: &Budget) -> String {
    match node {
        Node::Literal(value) => literal(value),
        Node::Path(path) => shown(path),
        Node::If(condition) => condition_origin(condition, message, budget),
        Node::Case(case) => case.value.as_ref().map_or_else(
            || "@case of nothing".to_owned(),
            |value| format!("@case of {}", origin(value, message, budget)),
        ),
        Node::Replace(replace) => replace.value.as_ref().map_or_else(
            || "@replace of nothing".to_owned(),
            |value| format!("@replace in {}", origin(value, message, budget)),
        ),
        Node::ArrayPath(array) => format!("@arrayPath of {}", origin(&array.root, message, budget)),
        Node::Flatten(flatten) => {
            format!("@flatten of {}", origin(&flatten.value, message, budget))
        }
        Node::Json(json) => format!("@json of {}", origin(&json.value, message, budget)),
        Node::ExcludeWhenNull(node) => {
            format!("@excludeWhenNull of {}", origin(node, message, budget))
        }
        Node::Merge(merge) => {
            let parts: Vec<String> =
                merge.objects.iter().map(|node| origin(node, message, budget)).collect();
            format!("@merge of {}", parts.join(", "))
        }
        Node::Liquid(_) => "@liquid".to_owned(),
        Node::Transform(_) => "@transform".to_owned(),
        Node::PathOf(node) => format!("@path that {} names", origin(node, message, budget)),
        Node::Template(template) => {
            let paths: Vec<String> = template.paths().map(shown).collect();
            if paths.is_empty() {
                "@template".to_owned()
            } else {
                format!("@template of {}", paths.join(", "))
            }
        }
        Node::TemplateOf(node) => format!("@template that {} names", origin(node, message, budget)),
        Node::Object(fields) => {
            let parts: Vec<String> = fields
                .iter()
                .map(|(key, node)| format!("{key}: {}", origin(node, message, budget)))
                .collect();
            format!("{{{}}}", parts.join(", "))
        }
        Node::Array(nodes) => {
            let parts: Vec<String> =
                nodes.iter().map(|node| origin(node, message, budget)).collect();
            format!("[{}]", parts.join(", "))
        }
        Node::Fails(problem) => format!("an error: {problem}"),
    }
}

/// Describes the branch that is taken.
fn condition_origin(condition: &If, message: &Value, budget: &Budget) -> String {
    let Ok(holds) = condition.holds(View::Value(message), budget) else {
        return "@if, which fails".to_owned();
    };
    let subject = origin(&condition.subject, message, budget);
    let test = match (condition.test, holds) {
        (Test::Exists, true) => "exists",
        (Test::Exists, false) => "does not exist",
        (Test::NotBlank, true) => "is not blank",
        (Test::NotBlank, false) => "is blank",
    };
    let branch = if holds { &condition.then } else { &condition.otherwise };
    let branch = branch.as_ref().map_or("nothing".to_owned(), |node| origin(node, message, budget));
    format!("{branch} ({subject} {test})")
}

fn literal(value: &Value) -> String {
    let text = value.to_json();
    if text.chars().count() <= LITERAL_CHARS_MAX {
        return format!("the literal {text}");
    }
    format!("the literal {}…", text.chars().take(LITERAL_CHARS_MAX).collect::<String>())
}

fn shown(path: &Path) -> String {
    if path.0.is_empty() {
        "$ (the whole message)".to_owned()
    } else {
        format!("$.{}", path.0.join("."))
    }
}
