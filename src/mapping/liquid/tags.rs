//! The tags that stand alone: what they say.

use super::compile::Compiler;
use super::render::Action;
use super::scan::Token;
use super::val::Val;
use crate::js::is_space;

impl Compiler<'_> {
    /// `{% # … %}`: each line must begin with the sign.
    pub(super) fn remark(&self, token: &Token) -> Result<Action, String> {
        let text = self.text.slice(token.args.0, token.args.1);
        let mut lines = text.split('\n').skip(1).map(|line| line.trim_start_matches(is_space));
        if lines.any(|line| !line.is_empty() && !line.starts_with('#')) {
            let problem = "every line of an inline comment must start with a '#' character";
            return Err(self.error(problem, token));
        }
        Ok(Action::Nothing)
    }

    /// `{% liquid … %}`: one tag a line.
    pub(super) fn lines(&mut self, token: &Token) -> Result<Action, String> {
        let lines = self.text.lines(token.args)?;
        self.nodes(&lines).map(Action::Group)
    }

    /// `{% echo chain %}`
    pub(super) fn echo(&mut self, token: &Token) -> Result<Action, String> {
        let chain = self.read(token, token, |reader| match reader.is_end() {
            true => Ok(None),
            false => reader.chain().map(Some),
        })?;
        Ok(chain.map_or(Action::Nothing, Action::Output))
    }

    /// `{% assign name = chain %}`
    pub(super) fn assign(&mut self, token: &Token) -> Result<Action, String> {
        let (name, chain) = self.read(token, token, |reader| {
            let name = reader.word();
            if name.is_empty() {
                return reader.error("expected variable name");
            }
            reader.skip_blank();
            if !reader.takes('=') {
                return reader.error("expected \"=\"");
            }
            Ok((name, reader.chain()?))
        })?;
        Ok(Action::Assign(name, chain))
    }

    /// `{% increment name %}`: prints, then adds.
    pub(super) fn increment(&mut self, token: &Token) -> Result<Action, String> {
        self.count(token, 0.0, 1.0)
    }

    /// `{% decrement name %}`: subtracts, then prints.
    pub(super) fn decrement(&mut self, token: &Token) -> Result<Action, String> {
        self.count(token, -1.0, 0.0)
    }

    fn count(&mut self, token: &Token, before: f64, after: f64) -> Result<Action, String> {
        let (name, input) = self.read(token, token, |reader| {
            let name = reader.word();
            let input = reader.inputs.add(vec![Val::from(name.as_str())]);
            Ok((name, input))
        })?;
        Ok(Action::Count { name, input, before, after })
    }

    /// `{% cycle group: candidate, … %}`
    pub(super) fn cycle(&mut self, token: &Token) -> Result<Action, String> {
        let (group, candidates) = self.read(token, token, |reader| {
            let mut first = reader.value()?;
            let mut candidates = Vec::new();
            reader.skip_blank();
            let group = if first.is_some() && reader.takes(':') { first.take() } else { None };
            candidates.extend(first);
            while !reader.is_end() {
                candidates.extend(reader.value()?);
                reader.skip_past(b',');
            }
            if candidates.is_empty() {
                let tag = reader.text.slice(token.begin, token.end);
                return reader.error(&format!("empty candidates: \"{tag}\""));
            }
            Ok((group, candidates))
        })?;
        Ok(Action::Cycle { group, candidates })
    }
}
