//! The source of a template in UTF-16 code units, in which LiquidJS counts lengths and positions.

use crate::js::{Value, from_utf16};

/// The longest excerpt in an error, as LiquidJS cuts it.
const EXCERPT_UNITS: usize = 32;

/// The source of a template.
#[derive(Debug)]
pub(super) struct Text(Vec<u16>);

/// Whether a code unit is part of a word, by LiquidJS' table: letters, digits, `-`, `_`, `?`, and everything beyond ASCII
/// but spaces and curly quotes.
pub(super) fn is_word(unit: u16) -> bool {
    match u8::try_from(unit) {
        Ok(byte) if byte < 128 => {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'?')
        }
        _ => !is_blank(unit) && !matches!(unit, 8220 | 8221),
    }
}

pub(super) fn is_blank(unit: u16) -> bool {
    matches!(unit, 9..=13 | 32 | 160 | 5760 | 6158 | 8192..=8202 | 8232 | 8233 | 8239 | 8287 | 12288)
}

pub(super) fn is_quote(unit: u16) -> bool {
    matches!(unit, 34 | 39)
}

impl Text {
    pub(super) fn new(text: &str) -> Self {
        Self(text.encode_utf16().collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn unit(&self, at: usize) -> Option<u16> {
        self.0.get(at).copied()
    }

    pub(super) fn slice(&self, from: usize, to: usize) -> String {
        from_utf16(self.units(from, to))
    }

    pub(super) fn units(&self, from: usize, to: usize) -> &[u16] {
        self.0.get(from..to.min(self.0.len())).unwrap_or_default()
    }

    /// Returns `, line:1, col:1`, which LiquidJS appends to each of its errors.
    pub(super) fn place(&self, at: usize) -> String {
        let before = &self.0[..at.min(self.0.len())];
        let line = before.iter().filter(|unit| **unit == 10).count() + 1;
        let line_begin =
            before.iter().rposition(|unit| *unit == 10).map_or(0, |newline| newline + 1);
        format!(", line:{line}, col:{}", at - line_begin + 1)
    }

    pub(super) fn error(&self, problem: &str, at: usize) -> String {
        format!("{problem}{}", self.place(at))
    }

    /// Returns the source from `from` to `to` as errors quote it.
    pub(super) fn excerpt(&self, from: usize, to: usize) -> String {
        let units = self.units(from, to);
        let text = match units.get(..EXCERPT_UNITS - 3) {
            Some(start) if units.len() > EXCERPT_UNITS => from_utf16(start) + "...",
            _ => from_utf16(units),
        };
        Value::String(text).to_json()
    }

    pub(super) fn has(&self, at: usize, pattern: [u8; 2]) -> bool {
        self.unit(at) == Some(pattern[0].into()) && self.unit(at + 1) == Some(pattern[1].into())
    }

    /// Whether `pattern` ends at `at`.
    pub(super) fn ends(&self, at: usize, pattern: [u8; 2]) -> bool {
        at.checked_sub(2).is_some_and(|begin| self.has(begin, pattern))
    }

    pub(super) fn skip_blank(&self, mut at: usize, end: usize) -> usize {
        while at < end && self.unit(at).is_some_and(is_blank) {
            at += 1;
        }
        at
    }

    /// Returns the end of the word that starts at `at`.
    pub(super) fn word_end(&self, mut at: usize, end: usize) -> usize {
        while at < end && self.unit(at).is_some_and(is_word) {
            at += 1;
        }
        at
    }

    /// Returns the end of the quoted string that starts at `begin`; `end` if it is not closed.
    pub(super) fn quoted_end(&self, begin: usize, end: usize) -> usize {
        let quote = self.unit(begin);
        let mut is_escaped = false;
        for at in begin + 1..end {
            let unit = self.unit(at);
            if unit == quote && !is_escaped {
                return at + 1;
            }
            is_escaped = !is_escaped && unit == Some(92);
        }
        end.max(begin + 1)
    }
}
