//! The tags that hold others up to their end: what they say and hold.

use liquid_core::parser::{BlockElement, TagBlock};
use liquid_core::{Language, Renderable, Result, Template};

use super::compile::Source;
use super::render::{Action, Branch};
use super::scan::Token;
use super::val::Val;
use crate::js::Value;

/// Reads what a block says and holds.
pub(super) type ReadBlock = fn(&Source, &Token, &mut TagBlock<'_, '_>, &Language) -> Result<Action>;

/// Tags that mean something only within their block.
pub(super) const MARKS: [&str; 8] =
    ["else", "elsif", "endif", "endunless", "endcapture", "endcomment", "endraw", "endblock"];

/// The blocks by their names.
pub(super) const ALL: [(&str, ReadBlock); 6] = [
    ("if", condition),
    ("unless", condition),
    ("capture", capture),
    ("comment", |source, token, block, _| {
        verbatim(source, token, block, "endcomment")?;
        Ok(Action::Text(String::new()))
    }),
    ("raw", |source, token, block, _| Ok(Action::Text(verbatim(source, token, block, "endraw")?))),
    ("block", |source, token, block, language| {
        Ok(Action::Group(contents(source, token, block, language, "endblock")?))
    }),
];

/// The next token of a block, and its element; an error if the template ends first.
fn next<'a>(
    source: &Source,
    opening: &Token,
    block: &mut TagBlock<'a, '_>,
) -> Result<(Token, BlockElement<'a>)> {
    match block.next() {
        Ok(Some(element)) => {
            let place = element.as_str().split_whitespace().nth(2);
            Ok((source.token(place)?, element))
        }
        Ok(None) | Err(_) => {
            let tag = source.text.slice(opening.begin, opening.end);
            source.fail_at(&format!("tag {tag} not closed"), opening)
        }
    }
}

/// What stands between a block's tags, as it is written.
fn verbatim(
    source: &Source,
    opening: &Token,
    block: &mut TagBlock<'_, '_>,
    end: &str,
) -> Result<String> {
    let mut text = String::new();
    loop {
        let (token, _) = next(source, opening, block)?;
        if token.name() == end {
            return Ok(text);
        }
        text.push_str(&source.text.slice(token.begin, token.end));
    }
}

fn contents(
    source: &Source,
    opening: &Token,
    block: &mut TagBlock<'_, '_>,
    language: &Language,
    end: &str,
) -> Result<Template> {
    let mut elements = Vec::new();
    loop {
        let (token, element) = next(source, opening, block)?;
        if token.name() == end {
            return Ok(Template::new(elements));
        }
        elements.push(element.parse(block, language)?);
    }
}

fn capture(
    source: &Source,
    opening: &Token,
    block: &mut TagBlock<'_, '_>,
    language: &Language,
) -> Result<Action> {
    let name = source.read(opening, opening, |reader| {
        let name = reader.word();
        let quoted = if name.is_empty() { reader.quoted() } else { Some(Val::from(name)) };
        quoted.ok_or_else(|| source.text.error("invalid capture name", reader.at))
    })?;
    let body = contents(source, opening, block, language, "endcapture")?;
    Ok(Action::Capture(name.js_text(), body))
}

/// `if` and `unless`. The former wants its `else` alone and last; the latter passes over what is more.
fn condition(
    source: &Source,
    opening: &Token,
    block: &mut TagBlock<'_, '_>,
    language: &Language,
) -> Result<Action> {
    let is_if = opening.name() == "if";
    let wants_nothing = |token: &Token| match source.text.slice(token.args.0, token.args.1) {
        args if args.is_empty() || !is_if => Ok(()),
        args => source.fail_at(&format!("unexpected {}", Value::String(args).to_json()), opening),
    };
    let mut tests = vec![(source.read(opening, opening, |reader| reader.chain())?, is_if)];
    // One body for each test and, behind them, those of each `else`.
    let mut bodies: Vec<Vec<Box<dyn Renderable>>> = vec![Vec::new()];
    loop {
        let (token, element) = next(source, opening, block)?;
        let has_else = bodies.len() > tests.len();
        match token.name() {
            "elsif" if has_else && is_if => {
                return source.fail_at("unexpected elsif after else", opening);
            }
            "elsif" if has_else => bodies.push(Vec::new()),
            "elsif" => {
                tests.push((source.read(&token, opening, |reader| reader.chain())?, true));
                bodies.push(Vec::new());
            }
            "else" => {
                wants_nothing(&token)?;
                if has_else && is_if {
                    return source.fail_at("duplicated else", opening);
                }
                bodies.push(Vec::new());
            }
            end if (end == "endif" && is_if) || (end == "endunless" && !is_if) => {
                wants_nothing(&token)?;
                break;
            }
            _ => {
                let node = element.parse(block, language)?;
                if let Some(body) = bodies.last_mut() {
                    body.push(node);
                }
            }
        }
    }
    let mut bodies = bodies.into_iter().map(Template::new);
    let branches = tests.into_iter().zip(bodies.by_ref());
    let branches = branches.map(|((test, wanted), body)| Branch { test, wanted, body }).collect();
    Ok(Action::If { branches, otherwise: bodies.next() })
}
