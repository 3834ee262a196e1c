//! `@template`: a string with `{{path}}` in it.

use super::budget::{Budget, MappingFailure};
use super::made::View;
use super::path::Path;
use crate::js::is_space;

/// A compiled template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
    /// Whether triple braces are replaced, so that double ones must be looked for in the result.
    is_first_pass: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Path(Path),
}

impl Template {
    /// Segment replaces `{{{path}}}` first, then `{{path}}` over the result.
    pub(super) fn parse(text: &str) -> Self {
        let parts = cut(text, 3);
        if parts.iter().any(|part| matches!(part, Part::Path(_))) {
            return Self { parts, is_first_pass: true };
        }
        Self { parts: cut(text, 2), is_first_pass: false }
    }

    /// Iterates over the paths of the first pass.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().filter_map(|part| match part {
            Part::Path(path) => Some(path),
            Part::Text(_) => None,
        })
    }

    /// Returns all parts, those of the second pass included.
    pub(super) fn all_parts(&self) -> Vec<Part> {
        let parts = self.parts.iter().flat_map(|part| match part {
            Part::Text(text) if self.is_first_pass => cut(text, 2),
            part => vec![part.clone()],
        });
        parts.collect()
    }

    pub(super) fn render(
        &self,
        payload: View<'_>,
        budget: &Budget,
    ) -> Result<String, MappingFailure> {
        let text = render(&self.parts, payload, budget)?;
        if self.is_first_pass { render(&cut(&text, 2), payload, budget) } else { Ok(text) }
    }
}

fn render(parts: &[Part], payload: View<'_>, budget: &Budget) -> Result<String, MappingFailure> {
    let mut rendered = String::new();
    for part in parts {
        let before = rendered.len();
        match part {
            Part::Text(text) => rendered.push_str(text),
            Part::Path(path) => payload.find(path).write_text(&mut rendered),
        }
        budget.spend_text(rendered.len() - before)?;
    }
    Ok(rendered)
}

/// Splits a template at paths within `braces` braces on either side, in linear time. A path does not contain `}`.
fn cut(text: &str, braces: usize) -> Vec<Part> {
    let (open, close) = if braces == 3 { ("{{{", "}}}") } else { ("{{", "}}") };
    let mut parts = Vec::new();
    let mut plain_from = 0;
    let mut at = 0;
    let mut closing = None;
    while let Some(found) = text[at..].find(open) {
        let start = at + found;
        let inner = start + braces;
        if closing.is_none_or(|closing| closing < inner) {
            match text[inner..].find('}') {
                Some(found) => closing = Some(inner + found),
                None => break,
            }
        }
        let end = closing.unwrap_or(inner);
        if end > inner && text[end..].starts_with(close) {
            push_text(&mut parts, &text[plain_from..start]);
            parts.push(Part::Path(Path::parse_plain(text[inner..end].trim_matches(is_space))));
            at = end + braces;
            plain_from = at;
        } else {
            at = start + 1;
        }
    }
    push_text(&mut parts, &text[plain_from..]);
    parts
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}
