//! Paths into a message, read as Segment's runtime reads them.

use std::borrow::Cow;

use crate::segment::Value;

/// A compiled path: keys from the outside in. Empty: the whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(Vec<String>);

impl Path {
    /// Takes the first `$.` out, wherever it stands; cuts at dots and at brackets that hold a number
    /// or a quoted key; drops empty parts and all quotes.
    pub(super) fn parse(text: &str) -> Self {
        let text = text.replacen("$.", "", 1);
        let mut parts = Vec::new();
        let mut part = String::new();
        let chars: Vec<char> = text.chars().collect();
        let is_inner =
            |c: Option<&char>| c.is_some_and(|c| c.is_ascii_digit() || matches!(c, '"' | '\''));
        for (place, c) in chars.iter().enumerate() {
            let before = place.checked_sub(1).and_then(|before| chars.get(before));
            let closes =
                *c == ']' && (is_inner(before) || (before == Some(&']') && part.is_empty()));
            if *c == '.' || (*c == '[' && is_inner(chars.get(place + 1))) || closes {
                parts.push(std::mem::take(&mut part));
            } else {
                part.push(*c);
            }
        }
        parts.push(part);
        parts.retain(|part| !part.is_empty());
        let unquoted = parts.into_iter().map(|part| part.replace(['"', '\''], ""));
        Self(unquoted.collect())
    }

    /// What is at the path. Looking into a falsy value gives that value back.
    pub(super) fn find<'a>(&self, root: &'a Value) -> Option<Cow<'a, Value>> {
        let mut found = Cow::Borrowed(root);
        for key in &self.0 {
            if !found.is_truthy() {
                return Some(found);
            }
            found = match found {
                Cow::Borrowed(value) => member(value, key)?,
                Cow::Owned(value) => Cow::Owned(member(&value, key)?.into_owned()),
            };
        }
        Some(found)
    }
}

fn member<'a>(value: &'a Value, key: &str) -> Option<Cow<'a, Value>> {
    match value {
        Value::Object(object) => object.get(key).map(Cow::Borrowed),
        Value::Array(items) if key == "length" => Some(Cow::Owned(length(items.len()))),
        Value::Array(items) => items.get(index(key)?).map(Cow::Borrowed),
        Value::String(text) if key == "length" => {
            Some(Cow::Owned(length(text.encode_utf16().count())))
        }
        Value::String(text) => {
            let unit = text.encode_utf16().nth(index(key)?)?;
            Some(Cow::Owned(Value::String(String::from_utf16_lossy(&[unit]))))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

#[allow(clippy::cast_precision_loss, reason = "no list has 2^53 items")]
fn length(count: usize) -> Value {
    Value::Number(count as f64)
}

/// A place in a list, in its shortest form: `1`, not `01`.
fn index(key: &str) -> Option<usize> {
    let index: usize = key.parse().ok()?;
    (index.to_string() == key).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::decode::decode;

    #[test]
    fn finds_what_segment_finds() {
        let message = decode(br#"{"a":{"b":[{"c":1},"xyz"],"$":2,"":3},"zero":0,"no":null,"text":"h\u00e9","[odd] k":4,"n":7}"#).unwrap();
        let cases = [
            ("$.a.b[0].c", Some("1")),
            ("a.b.0.c", Some("1")),
            ("a..b[1]", Some("\"xyz\"")),
            ("a['b'][0][\"c\"]", Some("1")),
            ("a.b.length", Some("2")),
            ("a.b[01]", None),
            ("a.b[-1]", None),
            ("a.b[9]", None),
            ("text.length", Some("2")),
            ("text[1]", Some("\"é\"")),
            ("zero.x.y", Some("0")),
            ("no.x", Some("null")),
            ("n.x", None),
            ("[odd] k", Some("4")),
            ("a.$", Some("2")),
            ("nothing", None),
        ];
        for (path, expected) in cases {
            let found = Path::parse(path).find(&message).map(|value| value.to_json());
            assert_eq!(found.as_deref(), expected, "{path}");
        }
        for whole in ["", ".", "$."] {
            assert_eq!(Path::parse(whole).find(&message).as_deref(), Some(&message), "{whole}");
        }
    }
}
