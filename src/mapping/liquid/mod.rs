//! `@liquid`: strings made from a message by a Liquid template, as LiquidJS 10 makes them at Segment.
//!
//! A template is cut into tokens (`scan`), whose expressions are read (`read`, `chain`, `operand`) and nested into
//! a tree (`compile`, `tags`, `blocks`). Rendering walks the tree (`render`), evaluating expressions
//! (`expression`, `val`, `lookup`) and filters (`filters`) within bounds (`budget`). All of it is ours, since the
//! crates for Liquid follow Ruby's: their grammar, their errors and how they print numbers differ.
//!
//! A template is compiled once; a rendering copies only what the template reads. Times are shown in UTC, as on
//! Segment's servers. The differences from LiquidJS:
//!
//! - no clock and no chance: a date of "now" or "today" is an error, `sample` takes the first items;
//! - a disabled filter is an error even where the template never reaches it;
//! - narrower bounds: 1 MiB a value, 32 values within values;
//! - no half of a character beyond U+FFFF stands alone, no date is beyond the year 9999;
//! - objects are equal if their members are, and `nil` in an array is the value that it stands for.

mod blocks;
mod budget;
mod chain;
mod compile;
mod expression;
mod filters;
mod lookup;
mod operand;
mod read;
mod render;
mod scan;
mod tags;
#[cfg(test)]
mod tests;
mod text;
mod val;

use std::fmt;
use std::sync::Arc;

use crate::js::Value;
use expression::{Inputs, Scope};
use render::{Node, Output, render};
use scan::Kind;
use text::Text;

/// A compiled template.
#[derive(Clone)]
pub(super) struct Liquid {
    text: Arc<str>,
    nodes: Arc<[Node]>,
    inputs: Arc<Inputs>,
}

impl Liquid {
    /// Compiles a template. The error is LiquidJS' own.
    ///
    /// A disabled filter is an error even where LiquidJS would never reach it.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        let (nodes, inputs) = compile::compile(text)?;
        Ok(Self { text: text.into(), nodes: nodes.into(), inputs: Arc::new(inputs) })
    }

    /// Returns what the template gives for a message, and what each text and output in it gives alone, also in
    /// branches that the message does not reach. What is captured and comments are left out.
    pub(super) fn texts(&self, message: &Value) -> Vec<String> {
        let text = Text::new(&self.text);
        let mut texts: Vec<String> = self.render(message).into_iter().collect();
        let mut assigned = String::new();
        let mut hidden = 0_usize;
        let tokens = text.tokens().unwrap_or_default();
        if tokens.len() == 1 {
            return texts;
        }
        for token in &tokens {
            let source = text.slice(token.begin, token.end);
            match (&token.kind, token.name()) {
                (_, "comment" | "capture") => hidden += 1,
                (_, "endcomment" | "endcapture") => hidden = hidden.saturating_sub(1),
                _ if hidden > 0 => {}
                (Kind::Text(text), _) => texts.push(text.clone()),
                (_, "assign") => assigned.push_str(&source),
                (Kind::Output, _) | (_, "echo" | "cycle") => {
                    let alone = Self::compile(&format!("{assigned}{source}"));
                    texts.extend(alone.and_then(|alone| alone.render(message)));
                }
                _ => {}
            }
        }
        texts
    }

    /// Renders the template; its variables are the message's members, none if the message is not an object.
    pub(super) fn render(&self, message: &Value) -> Result<String, String> {
        let is_object = message.as_object().is_some();
        let inputs = self.inputs.of(if is_object { message } else { &Value::Null });
        let mut scope = Scope { inputs, ..Scope::default() };
        let mut out = Output::default();
        let _ends_early = render(&self.nodes, &mut scope, &mut out)?;
        Ok(out.into_text())
    }
}

impl PartialEq for Liquid {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Liquid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Liquid").field(&self.text).finish()
    }
}
