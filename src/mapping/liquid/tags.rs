//! The tags that stand alone, texts and outputs among them: what they say.

use liquid_core::runtime::Interrupt;
use liquid_core::{Language, Result};

use super::compile::Source;
use super::read::Reader;
use super::render::Action;
use super::scan::{Kind, Token};
use super::val::Val;
use crate::js::is_space;

/// Reads what a tag says.
pub(super) type ReadTag = fn(&Source, &Token, &Language) -> Result<Action>;

/// The name that the crate knows tags by which LiquidJS does not know.
pub(super) const UNKNOWN: &str = "unknown";

/// The tags, by the names that the crate knows them by. `remark` is `#`.
pub(super) const ALL: [(&str, ReadTag); 13] = [
    ("text", |_, token, _| match &token.kind {
        Kind::Text(text) => Ok(Action::Text(text.clone())),
        _ => Ok(Action::Text(String::new())),
    }),
    ("output", |source, token, _| {
        Ok(Action::Output(source.read(token, token, |reader| reader.chain())?))
    }),
    ("remark", remark),
    ("disabled", |source, token, _| {
        source.fail_at(&format!("tag \"{}\" is disabled", token.name()), token)
    }),
    (UNKNOWN, not_found),
    ("assign", assign),
    ("echo", |source, token, _| {
        let chain = |reader: &mut Reader<'_>| match reader.is_end() {
            true => Ok(None),
            false => reader.chain().map(Some),
        };
        let chain = source.read(token, token, chain)?;
        Ok(chain.map_or(Action::Text(String::new()), Action::Output))
    }),
    ("increment", |source, token, _| count(source, token, 0.0, 1.0)),
    ("decrement", |source, token, _| count(source, token, -1.0, 0.0)),
    ("cycle", cycle),
    ("break", |_, _, _| Ok(Action::Stop(Interrupt::Break))),
    ("continue", |_, _, _| Ok(Action::Stop(Interrupt::Continue))),
    ("liquid", |source, token, language| {
        let lines = match source.text.lines(token.args) {
            Ok(lines) => lines,
            Err(error) => return source.fail(error),
        };
        Ok(Action::Group(source.parse_within(lines, language)?))
    }),
];

pub(super) fn not_found(source: &Source, token: &Token, _: &Language) -> Result<Action> {
    source.fail_at(&format!("tag \"{}\" not found", token.name()), token)
}

/// `{% # … %}`, of which each line must begin with the sign.
fn remark(source: &Source, token: &Token, _: &Language) -> Result<Action> {
    let text = source.text.slice(token.args.0, token.args.1);
    let mut lines = text.split('\n').skip(1).map(|line| line.trim_start_matches(is_space));
    if lines.any(|line| !line.is_empty() && !line.starts_with('#')) {
        let problem = "every line of an inline comment must start with a '#' character";
        return source.fail_at(problem, token);
    }
    Ok(Action::Text(String::new()))
}

fn assign(source: &Source, token: &Token, _: &Language) -> Result<Action> {
    let (name, chain) = source.read(token, token, |reader| {
        let name = reader.word();
        if name.is_empty() {
            return Err(source.text.error("expected variable name", reader.at));
        }
        reader.skip_blank();
        if !reader.takes('=') {
            return Err(source.text.error("expected \"=\"", reader.at));
        }
        Ok((name, reader.chain()?))
    })?;
    Ok(Action::Assign(name, chain))
}

/// `increment` prints and then adds, `decrement` takes away and then prints.
fn count(source: &Source, token: &Token, before: f64, after: f64) -> Result<Action> {
    let (name, input) = source.read(token, token, |reader| {
        let name = reader.word();
        let input = reader.inputs.add(vec![Val::from(name.as_str())]);
        Ok((name, input))
    })?;
    Ok(Action::Count { name, input, before, after })
}

fn cycle(source: &Source, token: &Token, _: &Language) -> Result<Action> {
    let (group, candidates) = source.read(token, token, |reader| {
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
            let tag = source.text.slice(token.begin, token.end);
            return Err(source.text.error(&format!("empty candidates: \"{tag}\""), reader.at));
        }
        Ok((group, candidates))
    })?;
    Ok(Action::Cycle { group, candidates })
}
