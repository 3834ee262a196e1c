//! The tokens of a date: numbers, words, signs, spaces.

use crate::js::is_space as is_trimmed;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token {
    /// Its value (of the first nine digits behind leading zeros) and its number of digits.
    Number(i64, usize),
    /// One of `: - + . )`.
    Symbol(char),
    Word(Word, usize),
    Space,
    /// Anything else, a string in parentheses included.
    Unknown,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Word {
    /// January is 1.
    Month(i64),
    /// Hours that PM adds.
    Half(i64),
    /// Hours east of Greenwich.
    Zone(i64),
    /// `T`
    TimeFollows,
    Garbage,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

const WORDS: [(&str, Word); 15] = [
    ("am", Word::Half(0)),
    ("pm", Word::Half(12)),
    ("ut", Word::Zone(0)),
    ("utc", Word::Zone(0)),
    ("z", Word::Zone(0)),
    ("gmt", Word::Zone(0)),
    ("cdt", Word::Zone(-5)),
    ("cst", Word::Zone(-6)),
    ("edt", Word::Zone(-4)),
    ("est", Word::Zone(-5)),
    ("mdt", Word::Zone(-6)),
    ("mst", Word::Zone(-7)),
    ("pdt", Word::Zone(-7)),
    ("pst", Word::Zone(-8)),
    ("t", Word::TimeFollows),
];

impl Token {
    pub(super) fn is_sign(self) -> bool {
        matches!(self, Token::Symbol('+' | '-'))
    }

    pub(super) fn is_z(self) -> bool {
        matches!(self, Token::Word(Word::Zone(0), 1))
    }

    /// Returns its value, if it is a number of exactly this many digits.
    pub(super) fn fixed(self, digits: usize) -> Option<i64> {
        match self {
            Token::Number(value, length) if length == digits => Some(value),
            _ => None,
        }
    }
}

/// Cuts a string into tokens, and looks one of them ahead.
pub(super) struct Scanner<'t> {
    rest: std::str::Chars<'t>,
    next: Token,
}

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        // V8 takes the character NUL for the end of the string.
        let text = text.split('\0').next().unwrap_or_default();
        let mut scanner = Self { rest: text.chars(), next: Token::End };
        scanner.next = scanner.scan();
        scanner
    }

    pub(super) fn peek(&self) -> Token {
        self.next
    }

    pub(super) fn next(&mut self) -> Token {
        let next = self.scan();
        std::mem::replace(&mut self.next, next)
    }

    /// Passes over `symbol` if it is the next token.
    pub(super) fn skip(&mut self, symbol: char) -> bool {
        let is_there = self.next == Token::Symbol(symbol);
        if is_there {
            self.next();
        }
        is_there
    }

    /// Passes over a number of two digits from `least` to `most`, if it is the next token.
    pub(super) fn two_digits(&mut self, least: i64, most: i64) -> Option<i64> {
        let value = self.next.fixed(2).filter(|value| (least..=most).contains(value))?;
        self.next();
        Some(value)
    }

    fn take_while(&mut self, is_in: impl Fn(char) -> bool) -> &'t str {
        let text = self.rest.as_str();
        let end = text.find(|c: char| !is_in(c)).unwrap_or(text.len());
        self.rest = text[end..].chars();
        &text[..end]
    }

    fn scan(&mut self) -> Token {
        let Some(first) = self.rest.clone().next() else {
            return Token::End;
        };
        match first {
            '0'..='9' => {
                let digits = self.take_while(|c| c.is_ascii_digit());
                let significant = digits.trim_start_matches('0').bytes().take(9);
                let value =
                    significant.fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
                Token::Number(value, digits.len())
            }
            // A word consists of every character from `A` on, white space excepted.
            'A'.. if !is_space(first) => {
                let word = self.take_while(|c| c >= 'A' && !is_space(c));
                Token::Word(known_word(word), word.encode_utf16().count())
            }
            '(' => {
                self.skip_parentheses();
                Token::Unknown
            }
            _ => {
                self.rest.next();
                match first {
                    ':' | '-' | '+' | '.' | ')' => Token::Symbol(first),
                    space if is_space(space) => Token::Space,
                    _ => Token::Unknown,
                }
            }
        }
    }

    fn skip_parentheses(&mut self) {
        let mut depth = 0_usize;
        for c in self.rest.by_ref() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }
}

/// Whether a character is white space between tokens. `trim` removes Unicode's line and paragraph separators,
/// but V8's parser of dates reads them as letters.
fn is_space(c: char) -> bool {
    is_trimmed(c) && !matches!(c, '\u{2028}' | '\u{2029}')
}

/// Returns what a word means: months go by their first three letters, other words by all of them. As V8 does,
/// case is ignored by setting the bit that ASCII has for it.
fn known_word(word: &str) -> Word {
    let mut lower = word.chars().map(|c| char::from_u32(u32::from(c) | 0x20).unwrap_or(c));
    let start: String = lower.by_ref().take(3).collect();
    if let Some((_, number)) = MONTHS.iter().zip(1..).find(|(month, _)| **month == start) {
        return Word::Month(number);
    }
    if lower.next().is_some() {
        return Word::Garbage;
    }
    WORDS.iter().find(|(known, _)| *known == start).map_or(Word::Garbage, |(_, word)| *word)
}
