//! Splits a template into tokens: text, outputs and tags, delimited and trimmed as in LiquidJS.

use super::text::{Text, is_blank, is_quote};

/// A piece of a template and its position in the source.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) begin: usize,
    pub(super) end: usize,
    /// Where expressions are: the arguments of a tag, the inside of an output.
    pub(super) args: (usize, usize),
    trims_left: bool,
    trims_right: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text between tags, trimmed.
    Text(String),
    /// `{{ … }}`
    Output,
    /// `{% name … %}`
    Tag(String),
}

impl Text {
    /// Returns all tokens of the template.
    pub(super) fn tokens(&self) -> Result<Vec<Token>, String> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut at = 0;
        let mut raw_begin = None;
        while at < self.len() {
            let token = if let Some(begin) = raw_begin {
                let token = self.raw_or_end(at, begin)?;
                if token.kind != Kind::Text(String::new()) {
                    raw_begin = None;
                }
                token
            } else if self.has(at, *b"{%") {
                let token = self.tag(at)?;
                if token.kind == Kind::Tag("raw".to_owned()) {
                    raw_begin = Some(at);
                }
                token
            } else if self.has(at, *b"{{") {
                self.output(at)?
            } else {
                let ends = |at: &usize| self.has(*at, *b"{%") || self.has(*at, *b"{{");
                let end = (at..self.len()).find(ends).unwrap_or(self.len());
                Token::text(at, end)
            };
            at = token.end;
            tokens.push(token);
        }
        self.trim(&mut tokens);
        Ok(tokens)
    }

    fn delimited(&self, begin: usize, end: usize, content: (usize, usize)) -> Token {
        const HYPHEN: Option<u16> = Some(45);
        let trims_left = self.unit(content.0) == HYPHEN;
        let trims_right = content.1.checked_sub(1).is_some_and(|last| self.unit(last) == HYPHEN);
        let (mut from, mut to) =
            (content.0 + usize::from(trims_left), content.1 - usize::from(trims_right));
        from = self.skip_blank(from, to);
        while to > from && self.unit(to - 1).is_some_and(is_blank) {
            to -= 1;
        }
        Token { kind: Kind::Output, begin, end, args: (from, to), trims_left, trims_right }
    }

    fn tag(&self, begin: usize) -> Result<Token, String> {
        let ends = |end: &usize| self.ends(*end, *b"%}");
        let end = (begin + 1..=self.len()).find(ends).ok_or_else(|| {
            self.error(&format!("tag {} not closed", self.excerpt(begin, self.len())), begin)
        })?;
        let token = self.delimited(begin, end, (begin + 2, end - 2));
        self.named(token, "illegal tag syntax, tag name expected")
    }

    /// Reads the name of a tag; the rest are its arguments.
    fn named(&self, mut token: Token, problem: &str) -> Result<Token, String> {
        let (from, to) = token.args;
        let from = self.skip_blank(from, to);
        let name_end = if self.unit(from) == Some(35) { from + 1 } else { self.word_end(from, to) };
        if name_end == from {
            return Err(self.error(problem, from));
        }
        token.kind = Kind::Tag(self.slice(from, name_end));
        token.args = (self.skip_blank(name_end, to), to);
        Ok(token)
    }

    fn output(&self, begin: usize) -> Result<Token, String> {
        let mut at = begin;
        while at < self.len() {
            if self.unit(at).is_some_and(is_quote) {
                at = self.quoted_end(at, self.len());
                continue;
            }
            at += 1;
            if self.ends(at, *b"}}") {
                return Ok(self.delimited(begin, at, (begin + 2, at - 2)));
            }
        }
        Err(self.error(&format!("output {} not closed", self.excerpt(begin, self.len())), begin))
    }

    /// Reads inside `raw`: the text up to `endraw`, or `endraw` itself if it starts here.
    fn raw_or_end(&self, begin: usize, raw_begin: usize) -> Result<Token, String> {
        let mut at = begin;
        while let Some(open) = (at + 1..=self.len()).find(|at| self.ends(*at, *b"{%")) {
            let word = self.skip_blank(open, self.len());
            at = self.word_end(word, self.len());
            if self.slice(word, at) != "endraw" {
                continue;
            }
            while at <= self.len() {
                if self.ends(at, *b"%}") {
                    if begin == open - 2 {
                        return self.tag(begin);
                    }
                    return Ok(Token {
                        kind: Kind::Text(String::new()),
                        ..Token::text(begin, open - 2)
                    });
                }
                if self.ends(at, *b"{%") {
                    at -= 1;
                    break;
                }
                at += 1;
            }
        }
        Err(self.error(&format!("raw {} not closed", self.excerpt(raw_begin, self.len())), begin))
    }

    /// Sets the contents of text tokens, without the white space that `{%-` and the like remove.
    fn trim(&self, tokens: &mut [Token]) {
        let mut cuts: Vec<(usize, usize)> =
            tokens.iter().map(|token| (token.begin, token.end)).collect();
        let mut is_raw = false;
        for (place, token) in tokens.iter().enumerate() {
            if !is_raw && token.trims_left && place > 0 {
                let (begin, end) = &mut cuts[place - 1];
                while end > begin && self.unit(*end - 1).is_some_and(is_blank) {
                    *end -= 1;
                }
            }
            match &token.kind {
                Kind::Tag(name) if name == "raw" => is_raw = true,
                Kind::Tag(name) if name == "endraw" => is_raw = false,
                _ => {}
            }
            if let Some((begin, end)) = cuts.get_mut(place + 1)
                && !is_raw
                && token.trims_right
            {
                *begin = self.skip_blank(*begin, *end);
            }
        }
        for (token, (begin, end)) in tokens.iter_mut().zip(cuts) {
            if let Kind::Text(text) = &mut token.kind {
                *text = self.slice(begin, end);
            }
        }
    }

    /// Returns the tags within `{% liquid %}`, one a line.
    pub(super) fn lines(&self, (mut at, end): (usize, usize)) -> Result<Vec<Token>, String> {
        let mut tokens = Vec::new();
        loop {
            at = self.skip_blank(at, end);
            if at >= end {
                return Ok(tokens);
            }
            let line_end =
                (at..end).find(|at| self.unit(*at) == Some(10)).map_or(end, |newline| newline + 1);
            let token = self.delimited(at, line_end, (at, line_end));
            tokens.push(self.named(token, "illegal liquid tag syntax")?);
            at = line_end;
        }
    }
}

impl Token {
    /// Returns the name of a tag; empty for text and outputs.
    pub(super) fn name(&self) -> &str {
        match &self.kind {
            Kind::Tag(name) => name,
            _ => "",
        }
    }

    fn text(begin: usize, end: usize) -> Self {
        let kind = Kind::Text(String::new());
        Token { kind, begin, end, args: (begin, end), trims_left: false, trims_right: false }
    }
}
