//! The tokens of a batch that the reader looks at.

use super::super::list::short_text;

/// The names of the members that the reader looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Batch,
    Context,
    Integrations,
    SentAt,
    WriteKey,
    Type,
    MessageId,
    /// Another member of messages that envelopes do not have.
    OfMessage,
    Other,
}

impl Name {
    /// Reads the name of a member, with its quotes.
    pub(super) fn of(quoted: &[u8]) -> Self {
        let of = |name: &[u8]| match name {
            b"batch" => Name::Batch,
            b"context" => Name::Context,
            b"integrations" => Name::Integrations,
            b"sentAt" => Name::SentAt,
            b"writeKey" => Name::WriteKey,
            b"type" => Name::Type,
            b"messageId" => Name::MessageId,
            b"userId" | b"anonymousId" | b"event" | b"properties" | b"traits" => Name::OfMessage,
            _ => Name::Other,
        };
        if !quoted.contains(&b'\\') {
            return of(&quoted[1..quoted.len() - 1]);
        }
        short_text(quoted).map_or(Name::Other, |name| of(name.as_bytes()))
    }
}

/// Returns the end of a run of bytes that are neither blank nor structural in JSON: a number, `true`, `NaN`, or
/// something that is not JSON at all. `None` if there is no such byte.
pub(super) fn word_end(bytes: &[u8], start: usize) -> Option<usize> {
    let is_word =
        |byte: &u8| !matches!(byte, 0..=b' ' | b'"' | b',' | b':' | b'[' | b']' | b'{' | b'}');
    let length = bytes.get(start..)?.iter().take_while(|byte| is_word(byte)).count();
    (length > 0).then_some(start + length)
}

/// Returns the position of the first byte from `from` on that is not blank.
pub(super) fn skip_blank(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| **byte <= b' ').count()
}

/// Returns the first write key anywhere in a damaged body, as far as it can be told.
pub(super) fn loose_write_key(bytes: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"writeKey\"";
    const KEY_BYTES_MAX: usize = 1_024;
    let starts = bytes.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    starts
        .filter_map(|(at, _)| {
            let from = skip_blank(bytes, at + NAME.len());
            let rest = bytes.get(from..)?.strip_prefix(b":")?;
            let rest = rest.get(skip_blank(rest, 0)..)?.strip_prefix(b"\"")?;
            let length = rest.iter().take(KEY_BYTES_MAX).take_while(|byte| **byte != b'"').count();
            let key = std::str::from_utf8(rest.get(..length)?).ok()?;
            (!key.is_empty()).then(|| key.to_owned())
        })
        .next()
}
