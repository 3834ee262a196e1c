//! Reads the operands of expressions: literals, variables, ranges.

use super::expression::{Inputs, Operand, Path};
use super::read::Reader;
use super::text::{Text, is_word};
use super::val::Val;
use crate::js::from_utf16;

/// How deep values may be nested: `a[b[c]]` is three. LiquidJS has no bound but its stack.
const DEPTH_MAX: usize = 32;

impl Reader<'_> {
    /// Reads a literal, a variable with its properties, or a range.
    pub(super) fn value(&mut self) -> Result<Option<Operand>, String> {
        if self.depth >= DEPTH_MAX {
            return self.error(&format!("value nested more than {DEPTH_MAX} levels deep"));
        }
        self.depth += 1;
        let value = self.value_here();
        self.depth -= 1;
        value
    }

    fn value_here(&mut self) -> Result<Option<Operand>, String> {
        self.skip_blank();
        let start = match self.literal().or_else(|| self.quoted()) {
            Some(literal) => Some(Operand::Literal(literal)),
            None => self.range()?.or_else(|| self.number().map(Operand::Literal)),
        };
        let props = self.properties(start.is_none())?;
        if props.is_empty() {
            return Ok(start);
        }
        Ok(Some(Operand::Path(Path::new(start, props, self.inputs))))
    }

    fn literal(&mut self) -> Option<Val> {
        let literals = [
            ("true", Val::bool(true)),
            ("false", Val::bool(false)),
            ("nil", Val::Nil),
            ("null", Val::Nil),
            ("empty", Val::Empty),
            ("blank", Val::Blank),
        ];
        let (word, literal) = literals.into_iter().find(|(word, _)| self.is_at(word))?;
        self.at += word.len();
        Some(literal)
    }

    /// Reads a quoted string; one that is not closed extends to the end, without its last character.
    pub(super) fn quoted(&mut self) -> Option<Val> {
        self.peek(0).filter(|c| matches!(c, '"' | '\''))?;
        let begin = self.at;
        self.at = self.text.quoted_end(begin, self.end);
        Some(Val::from(unescape(self.text.units(begin + 1, self.at))))
    }

    fn range(&mut self) -> Result<Option<Operand>, String> {
        if !self.takes('(') {
            return Ok(None);
        }
        let low = self.value_or_error()?;
        self.skip_blank();
        for _ in 0..2 {
            self.range_sign('.')?;
        }
        let high = self.value_or_error()?;
        self.skip_blank();
        self.range_sign(')')?;
        Ok(Some(Operand::Range(Box::new((low, high)))))
    }

    fn range_sign(&mut self, sign: char) -> Result<(), String> {
        let is_there = self.peek(0) == Some(sign);
        self.at += 1;
        if is_there { Ok(()) } else { self.error("invalid range syntax") }
    }

    fn value_or_error(&mut self) -> Result<Operand, String> {
        match self.value()? {
            Some(value) => Ok(value),
            None => {
                let problem = format!("unexpected token {}, value expected", self.rest());
                self.error(&problem)
            }
        }
    }

    /// Reads a number that is not part of a word: `1`, `-1.5`, `1.`.
    fn number(&mut self) -> Option<Val> {
        let mut len = usize::from(matches!(self.peek(0), Some('-' | '+')));
        let (mut has_digit, mut has_point) = (false, false);
        loop {
            match self.peek(len) {
                Some('0'..='9') => has_digit = true,
                Some('.') if self.peek(len + 1) != Some('.') => {
                    if has_point || !has_digit {
                        return None;
                    }
                    has_point = true;
                }
                _ => break,
            }
            len += 1;
        }
        if !has_digit || self.peek_unit(len).is_some_and(is_word) {
            return None;
        }
        let number = self.text.slice(self.at, self.at + len).parse().ok()?;
        self.at += len;
        Some(Val::number(number))
    }

    /// Reads `a.b[c]["d"]`; the first word only where a variable starts.
    pub(super) fn properties(&mut self, mut begins: bool) -> Result<Vec<Operand>, String> {
        let mut props = Vec::new();
        loop {
            if self.takes('[') {
                let prop = self.value()?.unwrap_or_else(|| Operand::Literal(Val::from("")));
                // Whatever else is before the bracket is ignored, as in LiquidJS.
                if !self.skip_past(b']') {
                    return self.error("[ not closed");
                }
                props.push(prop);
            } else if begins || (self.peek(0) == Some('.') && self.peek(1) != Some('.')) {
                self.at += usize::from(!begins);
                let word = self.word();
                if word.is_empty() && !begins {
                    break;
                }
                if !word.is_empty() {
                    props.push(Operand::Literal(Val::from(word)));
                } else if self.peek(0) != Some('.') || self.peek(1) == Some('.') {
                    break;
                }
            } else {
                break;
            }
            begins = false;
        }
        Ok(props)
    }
}

/// Resolves the escapes of a quoted string, given behind its first quote, and drops its last character.
fn unescape(units: &[u16]) -> String {
    let mut out: Vec<u16> = Vec::with_capacity(units.len());
    let mut at = 0;
    // Returns the value of the digits that start at `from`, and where they end.
    let code = |from: usize, digits: usize, base: u32| {
        let digit = |unit: &u16| char::from_u32((*unit).into()).and_then(|c| c.to_digit(base));
        let read = units.iter().skip(from).take(digits).map_while(digit);
        read.fold((0u32, from), |(sum, end), digit| (sum * base + digit, end + 1))
    };
    while let [unit, next, ..] = units.get(at..).unwrap_or_default() {
        at += 1;
        if *unit != 92 {
            out.push(*unit);
            continue;
        }
        at += 1;
        let (code, end) = match u8::try_from(*next).unwrap_or_default() {
            b'b' => (8, at),
            b'f' => (12, at),
            b'n' => (10, at),
            b'r' => (13, at),
            b't' => (9, at),
            b'v' => (11, at),
            b'u' => code(at, 4, 16),
            b'0'..=b'7' => code(at - 1, 3, 8),
            _ => (u32::from(*next), at),
        };
        out.push(u16::try_from(code).unwrap_or(u16::MAX));
        at = end;
    }
    from_utf16(&out)
}

/// Parses the property that is an argument of `where`.
pub(super) fn property(property: &str, inputs: &mut Inputs) -> Result<Option<Operand>, String> {
    let text = Text::new(property);
    let mut reader = Reader::new(&text, (0, text.len()), inputs);
    reader.skip_blank();
    let props = reader.properties(true)?;
    Ok((!props.is_empty()).then(|| Operand::Path(Path::new(None, props, reader.inputs))))
}
