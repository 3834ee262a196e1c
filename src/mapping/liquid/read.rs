//! Reads expressions out of tags and outputs, with LiquidJS' grammar and its errors.

use super::expression::{Call, Chain, Inputs, Operand, Operator, Term};
use super::filters;
use super::text::{Text, is_word};

/// A place in a text that moves on as things are read.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    pub(super) text: &'t Text,
    pub(super) at: usize,
    pub(super) end: usize,
    pub(super) inputs: &'t mut Inputs,
    /// How many values it is within.
    pub(super) depth: usize,
    /// The first filter that is disabled.
    pub(super) disabled: Option<String>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t Text, (at, end): (usize, usize), inputs: &'t mut Inputs) -> Self {
        Self { text, at, end, inputs, depth: 0, disabled: None }
    }

    pub(super) fn is_end(&self) -> bool {
        self.at >= self.end
    }

    pub(super) fn error<T>(&self, problem: &str) -> Result<T, String> {
        Err(self.text.error(problem, self.at))
    }

    pub(super) fn rest(&self) -> String {
        self.text.excerpt(self.at, self.end)
    }

    pub(super) fn peek_unit(&self, ahead: usize) -> Option<u16> {
        if self.at + ahead < self.end { self.text.unit(self.at + ahead) } else { None }
    }

    /// The next character if it is ASCII.
    pub(super) fn peek(&self, ahead: usize) -> Option<char> {
        self.peek_unit(ahead).and_then(|unit| u8::try_from(unit).ok()).map(char::from)
    }

    pub(super) fn skip_blank(&mut self) {
        self.at = self.text.skip_blank(self.at, self.end);
    }

    /// Passes over `c` if it is next.
    pub(super) fn takes(&mut self, c: char) -> bool {
        let is_next = self.peek(0) == Some(c);
        self.at += usize::from(is_next);
        is_next
    }

    /// Goes behind the next `c`, or to the end if there is none.
    pub(super) fn skip_past(&mut self, c: u8) -> bool {
        let found = (self.at..self.end).find(|at| self.text.unit(*at) == Some(c.into()));
        self.at = found.map_or(self.end.max(self.at), |place| place + 1);
        found.is_some()
    }

    /// A word; empty if there is none.
    pub(super) fn word(&mut self) -> String {
        self.skip_blank();
        let begin = self.at;
        self.at = self.text.word_end(self.at, self.end);
        self.text.slice(begin, self.at)
    }

    /// An expression and its filters.
    pub(super) fn chain(&mut self) -> Result<Chain, String> {
        let terms = self.terms()?;
        if terms.is_empty() {
            let problem = format!("invalid value expression: {}", self.rest());
            return self.error(&problem);
        }
        let mut filters = Vec::new();
        while let Some(call) = self.filter()? {
            // A name that LiquidJS does not know passes the value on.
            filters.extend(call);
        }
        Ok(Chain { terms, filters })
    }

    /// The expression in postfix order. Equal precedence binds to the right.
    fn terms(&mut self) -> Result<Vec<Term>, String> {
        let mut terms = Vec::new();
        let mut waiting: Vec<Operator> = Vec::new();
        while !self.is_end() {
            if let Some(operator) = self.operator() {
                let binds_tighter =
                    |above: &mut Operator| above.precedence() > operator.precedence();
                while let Some(above) = waiting.pop_if(binds_tighter) {
                    terms.push(Term::Operator(above));
                }
                waiting.push(operator);
            } else if let Some(operand) = self.value()? {
                terms.push(Term::Operand(operand));
            } else {
                break;
            }
        }
        terms.extend(waiting.into_iter().rev().map(Term::Operator));
        Ok(terms)
    }

    fn operator(&mut self) -> Option<Operator> {
        self.skip_blank();
        let (word, operator) = Operator::ALL.iter().find(|(word, _)| self.is_at(word))?;
        self.at += word.len();
        Some(*operator)
    }

    /// Whether `word` is next and, if it ends in a letter, ends there.
    pub(super) fn is_at(&self, word: &str) -> bool {
        let is_same =
            word.encode_utf16().enumerate().all(|(n, unit)| self.peek_unit(n) == Some(unit));
        let is_open = word.ends_with(|c: char| c.is_ascii_alphabetic())
            && self.peek_unit(word.len()).is_some_and(is_word);
        is_same && !is_open
    }

    /// The next filter; `Some(None)` if its name is not known.
    fn filter(&mut self) -> Result<Option<Option<Call>>, String> {
        self.skip_blank();
        if self.is_end() {
            return Ok(None);
        }
        let is_pipe = self.peek(0) == Some('|');
        self.at += 1;
        if !is_pipe {
            return self.error("expected \"|\" before filter");
        }
        let name = self.word();
        if name.is_empty() {
            return if self.is_end() { Ok(None) } else { self.error("expected filter name") };
        }
        let mut args = Vec::new();
        self.skip_blank();
        if self.peek(0) == Some(':') {
            self.arguments(&mut args)?;
        } else if self.peek(0) != Some('|') && !self.is_end() {
            return self.error("expected \":\" after filter name");
        }
        if filters::DISABLED.contains(&name.as_str()) {
            self.disabled.get_or_insert(name);
            return Ok(Some(None));
        }
        Ok(Some(filters::find(&name).map(|filter| Call { filter, args })))
    }

    fn arguments(
        &mut self,
        args: &mut Vec<(Option<String>, Option<Operand>)>,
    ) -> Result<(), String> {
        loop {
            self.at += 1;
            self.skip_blank();
            let begin = self.at;
            if let Some(value) = self.value()? {
                let key = self.text.slice(begin, self.at);
                self.skip_blank();
                if self.takes(':') {
                    args.push((Some(key), self.value()?));
                } else {
                    args.push((None, Some(value)));
                }
            }
            self.skip_blank();
            match self.peek(0) {
                Some(',') => {}
                Some('|') => return Ok(()),
                _ if self.is_end() => return Ok(()),
                _ => {
                    let problem = format!("unexpected character {}", self.rest());
                    return self.error(&problem);
                }
            }
        }
    }
}
