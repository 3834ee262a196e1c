//! A position in a template that advances as things are read: words, single characters, white space.

use super::expression::Inputs;
use super::text::{Text, is_word};

/// Reads what a tag or an output says.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    pub(super) text: &'t Text,
    pub(super) at: usize,
    pub(super) end: usize,
    pub(super) inputs: &'t mut Inputs,
    /// How many values the position is within.
    pub(super) depth: usize,
    /// The name of the first filter that is disabled.
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

    /// Returns what is left, as errors quote it.
    pub(super) fn rest(&self) -> String {
        self.text.excerpt(self.at, self.end)
    }

    pub(super) fn peek_unit(&self, ahead: usize) -> Option<u16> {
        if self.at + ahead < self.end { self.text.unit(self.at + ahead) } else { None }
    }

    /// Returns the next character, if it is ASCII.
    pub(super) fn peek(&self, ahead: usize) -> Option<char> {
        self.peek_unit(ahead).and_then(|unit| u8::try_from(unit).ok()).map(char::from)
    }

    pub(super) fn skip_blank(&mut self) {
        self.at = self.text.skip_blank(self.at, self.end);
    }

    /// Passes over `c` if it is next; returns whether it was.
    pub(super) fn takes(&mut self, c: char) -> bool {
        let is_next = self.peek(0) == Some(c);
        self.at += usize::from(is_next);
        is_next
    }

    /// Passes over everything up to the next `c`, or up to the end if there is none; returns whether there was one.
    pub(super) fn skip_past(&mut self, c: u8) -> bool {
        let found = (self.at..self.end).find(|at| self.text.unit(*at) == Some(c.into()));
        self.at = found.map_or(self.end.max(self.at), |index| index + 1);
        found.is_some()
    }

    /// Reads a word; it is empty if there is none.
    pub(super) fn word(&mut self) -> String {
        self.skip_blank();
        let begin = self.at;
        self.at = self.text.word_end(self.at, self.end);
        self.text.slice(begin, self.at)
    }

    /// Whether `word` is next and, if it ends in a letter, ends there.
    pub(super) fn is_at(&self, word: &str) -> bool {
        let is_same =
            word.encode_utf16().enumerate().all(|(n, unit)| self.peek_unit(n) == Some(unit));
        let is_open = word.ends_with(|c: char| c.is_ascii_alphabetic())
            && self.peek_unit(word.len()).is_some_and(is_word);
        is_same && !is_open
    }
}
