//! Resolves a mapping for a message. Borrows from the message where it can.

use std::borrow::Cow;

use super::{If, Mapping, Node, Test};
use crate::segment::value::{Object, Value};

impl Mapping {
    /// What the mapping gives for a message; `None` when it finds nothing as a whole.
    ///
    /// A value that is not found takes its key with it, null stays; in a list it becomes null.
    pub fn resolve<'a>(&'a self, message: &'a Value) -> Option<Cow<'a, Value>> {
        resolve(&self.0, message)
    }
}

fn resolve<'a>(node: &'a Node, message: &'a Value) -> Option<Cow<'a, Value>> {
    match node {
        Node::Literal(value) => Some(Cow::Borrowed(value)),
        Node::Path(path) => path.find(message),
        Node::If(condition) => resolve_if(condition, message),
        Node::Object(fields) => {
            let found = fields.iter().filter_map(|(key, node)| {
                Some((key.clone(), resolve(node, message)?.into_owned()))
            });
            Some(Cow::Owned(Value::Object(found.collect::<Object>())))
        }
        Node::Array(nodes) => {
            let found =
                nodes.iter().map(|node| resolve(node, message).unwrap_or_default().into_owned());
            Some(Cow::Owned(Value::Array(found.collect())))
        }
    }
}

fn resolve_if<'a>(condition: &'a If, message: &'a Value) -> Option<Cow<'a, Value>> {
    let subject = resolve(&condition.subject, message);
    let holds = match condition.test {
        Test::Exists => subject.is_some_and(|value| !value.is_null()),
        Test::NotBlank => subject.is_some_and(|value| !is_blank(&value)),
    };
    let branch = if holds { &condition.then } else { &condition.otherwise };
    resolve(branch.as_ref()?, message)
}

/// Whether JavaScript's `value == ''` (or null) holds: lists of nothing count as nothing.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Object(_) => false,
        Value::Number(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => match items.as_slice() {
            [] => true,
            [Value::Array(_) | Value::Null] => is_blank(&items[0]),
            [Value::String(text)] => text.is_empty(),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::decode::decode;

    fn value(text: &str) -> Value {
        decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn resolves_as_segment_does() {
        let message = value(r#"{"a":1,"no":null,"empty":"","zero":0,"t":{"x":[1,2]}}"#);
        let cases = [
            (
                r#"{"k":{"@path":"$.a"},"l":"text","n":null,"m":{"@path":"$.missing"}}"#,
                r#"{"k":1,"l":"text","n":null}"#,
            ),
            (
                r#"{"o":{"i":{"@path":"$.missing"}},"l":[{"@path":"$.missing"},{"@path":"$.t.x"}]}"#,
                r#"{"o":{},"l":[null,[1,2]]}"#,
            ),
            (r#"{"k":{"@if":{"exists":{"@path":"$.empty"},"then":1,"else":2}}}"#, r#"{"k":1}"#),
            (r#"{"k":{"@if":{"exists":{"@path":"$.no"},"then":1,"else":2}}}"#, r#"{"k":2}"#),
            (r#"{"k":{"@if":{"exists":{"@path":"$.no"},"then":1,"else":0}}}"#, "{}"),
            (
                r#"{"k":{"@if":{"exists":{"@path":"$.no"},"then":1,"else":{"@literal":0}}}}"#,
                r#"{"k":0}"#,
            ),
            (r#"{"k":{"@if":{"exists":{"@path":"$.a"},"then":null}}}"#, r#"{"k":null}"#),
            (r#"{"k":{"@if":{"blank":{"@path":"$.zero"},"then":1,"else":2}}}"#, r#"{"k":2}"#),
            (r#"{"k":{"@if":{"blank":{"@path":"$.a"},"then":1,"else":2}}}"#, r#"{"k":1}"#),
            (r#"{"k":{"@literal":{"@path":"$.a"},"_metadata":{}}}"#, r#"{"k":{"@path":"$.a"}}"#),
        ];
        for (mapping, expected) in cases {
            let compiled = Mapping::compile(&value(mapping)).unwrap();
            assert_eq!(compiled.resolve(&message).unwrap().to_json(), expected, "{mapping}");
        }
    }

    #[test]
    fn mistakes_are_found_at_load_with_their_place() {
        let deep = format!("{}1{}", r#"{"k":"#.repeat(70), "}".repeat(70));
        let cases = [
            (r#"{"a/b":{"@nope":1}}"#, "/a~1b/@nope"),
            (r#"{"a":[{"@path":1}]}"#, "/a/0/@path"),
            (r#"{"a":{"@path":"x","b":1}}"#, "/a"),
            (r#"{"a":{"@if":{"then":1}}}"#, "/a/@if"),
            (r#"{"a":{"@if":7}}"#, "/a/@if"),
        ];
        for (mapping, pointer) in cases {
            assert_eq!(
                Mapping::compile(&value(mapping)).unwrap_err().pointer,
                pointer,
                "{mapping}"
            );
        }
        assert!(Mapping::compile(&value(&deep)).is_err());
    }
}
