//! Splits a trigger into tokens, as the lexer of Segment's FQL does, oddities included.

use super::error::TriggerError;

/// A token and where it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    /// As Segment's runtime keeps it: a string with its quotes, a name without its escapes.
    pub(super) value: String,
    /// Position of its first character, in characters from 0.
    pub(super) at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Name,
    Dot,
    Operator,
    Conditional,
    Text,
    Number,
    Null,
    ParenLeft,
    ParenRight,
    /// Commas and brackets, which have no meaning of their own.
    Other,
    End,
}

/// Splits a trigger into tokens; the last one is always [`TokenKind::End`].
pub(super) fn lex(text: &str) -> Result<Vec<Token>, TriggerError> {
    Lexer { chars: text.chars().collect(), at: 0 }.run()
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
}

impl Lexer {
    fn run(mut self) -> Result<Vec<Token>, TriggerError> {
        let mut tokens = Vec::new();
        loop {
            let at = self.at;
            let Some(c) = self.next() else {
                tokens.push(Token { kind: TokenKind::End, value: "eos".to_owned(), at });
                return Ok(tokens);
            };
            if is_space(c) {
                continue;
            }
            let (kind, value) = self.token(c, at)?;
            tokens.push(Token { kind, value, at });
        }
    }

    fn token(&mut self, c: char, at: usize) -> Result<(TokenKind, String), TriggerError> {
        let one = |kind| Ok((kind, c.to_string()));
        match c {
            '!' if self.peek().is_some_and(|c| c.is_ascii_alphabetic() || c == '(') => {
                one(TokenKind::Operator)
            }
            '!' if self.accept("=") => Ok((TokenKind::Operator, "!=".to_owned())),
            '!' => {
                Err(self.error(at, "`!` must be followed by `= ` (with the space), a name or `(`"))
            }
            '=' => one(TokenKind::Operator),
            '<' | '>' if self.accept("=") => Ok((TokenKind::Operator, format!("{c}="))),
            '<' | '>' => one(TokenKind::Operator),
            'a' if self.accept("nd") => Ok((TokenKind::Conditional, "and".to_owned())),
            'o' if self.accept("r") => Ok((TokenKind::Conditional, "or".to_owned())),
            'n' if self.accept("ull") => Ok((TokenKind::Null, "null".to_owned())),
            'a'..='z' | 'A'..='Z' | '\\' | '_' => Ok((TokenKind::Name, self.name(c, at)?)),
            '0'..='9' | '-' | '+' => Ok((TokenKind::Number, self.number(c, at)?)),
            '"' | '\'' => Ok((TokenKind::Text, self.text(c, at)?)),
            '.' => one(TokenKind::Dot),
            '(' => one(TokenKind::ParenLeft),
            ')' => one(TokenKind::ParenRight),
            '[' | ']' | ',' => one(TokenKind::Other),
            _ => Err(self.error(at, "a character that has no meaning here; put strings in quotes")),
        }
    }

    /// Reads the rest of a name: letters, digits, `_`, `-`, and anything behind a backslash.
    fn name(&mut self, first: char, at: usize) -> Result<String, TriggerError> {
        let mut name = String::new();
        let mut c = first;
        loop {
            if c == '\\' {
                c = self.next().ok_or_else(|| self.error(at, "nothing follows the backslash"))?;
                if c.len_utf16() > 1 {
                    // Segment's runtime takes half of such a character and fails on the other.
                    return Err(self.error(at, "a character beyond U+FFFF cannot be in a name"));
                }
            }
            name.push(c);
            match self.peek() {
                Some(next) if next.is_ascii_alphanumeric() || matches!(next, '_' | '-' | '\\') => {
                    self.at += 1;
                    c = next;
                }
                Some('.' | '(' | '=' | '!') => return Ok(name),
                next if ends_word(next) => return Ok(name),
                _ => {
                    let problem =
                        "a name must be followed by a space, `.`, `(`, `=`, `!`, `,` or `)`";
                    return Err(self.error(self.at, problem));
                }
            }
        }
    }

    fn number(&mut self, first: char, at: usize) -> Result<String, TriggerError> {
        let mut number = String::from(first);
        let mut has_point = false;
        while let Some(c @ ('0'..='9' | '.')) = self.peek() {
            self.at += 1;
            number.push(c);
            if c == '.' && (has_point || ends_word(self.peek())) {
                return Err(
                    self.error(at, "a number has digits and at most one point between them")
                );
            }
            has_point |= c == '.';
        }
        Ok(number)
    }

    /// Reads the rest of a string, with both quotes. A closing quote that is not followed by a space, `,`, `]` or `)`
    /// is left to open the next string.
    fn text(&mut self, quote: char, at: usize) -> Result<String, TriggerError> {
        let mut text = String::from(quote);
        loop {
            match self.peek() {
                None => return Err(self.error(at, "the string has no closing quote")),
                Some(c) if c == quote => break,
                Some(c) => text.push(c),
            }
            self.at += 1;
        }
        text.push(quote);
        self.accept(&quote.to_string());
        Ok(text)
    }

    /// Reads the rest of a word, if it is there and complete. At the end of the trigger, Segment's runtime does not go
    /// back over what it has looked at, and neither do we (`event = an` reads as `event = a`).
    fn accept(&mut self, rest: &str) -> bool {
        let from = self.at;
        for wanted in rest.chars() {
            match self.next() {
                None => return false,
                Some(c) if c == wanted => {}
                Some(c) => {
                    // Segment's lexer reads up to the length of the word, or up to a terminator, before it goes back.
                    let left = rest.chars().count() - (self.at - from);
                    return self.reject(from, c, left);
                }
            }
        }
        if ends_word(self.peek()) {
            return true;
        }
        self.at = from;
        false
    }

    fn reject(&mut self, from: usize, mut c: char, left: usize) -> bool {
        for _ in 0..left {
            if ends_word(Some(c)) {
                break;
            }
            match self.next() {
                None => return false,
                Some(next) => c = next,
            }
        }
        self.at = from;
        false
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn error(&self, at: usize, problem: &str) -> TriggerError {
        TriggerError { at, problem: problem.to_owned() }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n')
}

fn ends_word(c: Option<char>) -> bool {
    c.is_none_or(|c| is_space(c) || matches!(c, ',' | ']' | ')'))
}
