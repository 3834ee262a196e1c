//! Paths into a message, parsed as Segment's runtime parses them.

/// A compiled path: keys from the outside in. An empty one is the whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<String>);

impl Path {
    /// Parses the path of `@path` or `@arrayPath`: removes the first `$.`, wherever it is.
    pub(super) fn parse(text: &str) -> Self {
        Self::parse_plain(&text.replacen("$.", "", 1))
    }

    /// Parses the path of a template. Splits at dots and at brackets around a number or a quoted key, and drops empty
    /// parts and all quotes.
    pub(super) fn parse_plain(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut part = String::new();
        let mut before = None;
        let mut chars = text.chars().peekable();
        let is_inner =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || matches!(c, '"' | '\''));
        while let Some(c) = chars.next() {
            let closes = c == ']' && (is_inner(before) || (before == Some(']') && part.is_empty()));
            if c == '.' || (c == '[' && is_inner(chars.peek().copied())) || closes {
                parts.push(std::mem::take(&mut part));
            } else {
                part.push(c);
            }
            before = Some(c);
        }
        parts.push(part);
        parts.retain(|part| !part.is_empty());
        let unquoted = parts.into_iter().map(|part| part.replace(['"', '\''], ""));
        Self(unquoted.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::decode::decode;

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
            ("a['']", Some("3")),
            ("nothing", None),
        ];
        for (path, expected) in cases {
            let found = message.at(&Path::parse(path).0).map(|value| value.to_json());
            assert_eq!(found.as_deref(), expected, "{path}");
        }
        for whole in ["", ".", "$."] {
            assert_eq!(message.at(&Path::parse(whole).0).as_deref(), Some(&message), "{whole}");
        }
    }
}
