//! `@liquid`: texts made from a message by a Liquid template, as Segment's LiquidJS 10 makes them.
//!
//! The crate `liquid-core` nests the blocks of a template and runs the tree; what LiquidJS does its
//! own way is ours: how a text is cut (`scan`), what an expression is (`read`, `operand`) and gives
//! (`expression`, `val`, `lookup`), the tags (`tags`, `blocks`, `render`) and the filters. The crate's
//! standard library is not registered: Segment disables `for` and its kin, and prints numbers as
//! JavaScript does.
//!
//! A template is compiled once; a rendering copies only what the template reads. Times are shown in
//! UTC, as on Segment's servers. Other than LiquidJS:
//!
//! - no clock and no lots: a date of "now" or "today" is an error, `sample` takes the first items;
//! - a disabled filter is an error even where the template never comes to it;
//! - bounds are narrower: 1 MiB a value, 32 values within values;
//! - no half of a character beyond U+FFFF stands alone, no date is beyond the year 9999;
//! - objects are equal by what they hold, and `nil` in a list is the value that it stands for.

mod blocks;
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

use liquid_core::{Renderable as _, Template, runtime};

use crate::js::Value;
use expression::{Inputs, Scope};
use scan::Kind;
use text::Text;
use val::Val;

/// Longest template, in UTF-16 code units: Segment's bound.
const TEMPLATE_UNITS_MAX: usize = 1_000;
/// Longest text that a template may give, and largest value that it may build.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most that all values of one rendering may take together.
const RENDER_BYTES_MAX: usize = 16 << 20;
/// What an item of a list counts in these bounds, beside its text.
const ITEM_BYTES: usize = 32;

/// LiquidJS' words for a value beyond its bounds (which are wider: Segment allows 100 MB).
const TOO_LARGE: &str = "memory alloc limit exceeded";

/// A compiled template.
#[derive(Clone)]
pub(super) struct Liquid {
    text: Arc<str>,
    template: Arc<Template>,
    inputs: Arc<Inputs>,
}

impl Liquid {
    /// Compiles a template. The error is LiquidJS' own text.
    ///
    /// A disabled filter is an error even where LiquidJS would never come to it.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        if text.encode_utf16().count() > TEMPLATE_UNITS_MAX {
            return Err(format!(
                "liquid template values are limited to {TEMPLATE_UNITS_MAX} characters"
            ));
        }
        let (template, inputs) = compile::compile(text)?;
        Ok(Self { text: text.into(), template: Arc::new(template), inputs: Arc::new(inputs) })
    }

    /// What the template, and each text and output in it, gives for a message: also those in branches that
    /// the message does not reach. Captured texts and comments are left out.
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

    /// Renders the template; the variables are the message's members: none if it is no object.
    pub(super) fn render(&self, message: &Value) -> Result<String, String> {
        let runtime = runtime::RuntimeBuilder::new().build();
        let is_object = message.as_object().is_some();
        let inputs = self.inputs.of(if is_object { message } else { &Value::Null });
        *runtime::Runtime::registers(&runtime).get_mut::<Scope>() =
            Scope { inputs, ..Scope::default() };
        let mut out = render::Bounded::default();
        let rendered = self.template.render_to(&mut out, &runtime);
        let error = runtime::Runtime::registers(&runtime).get_mut::<Scope>().error.take();
        match (rendered, error) {
            (Ok(()), _) => Ok(out.into_text()),
            (Err(_), Some(error)) => Err(error),
            (Err(error), None) => Err(error.to_string()),
        }
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

/// Why a value cannot be had.
#[derive(Debug)]
enum Fault {
    /// Without a place: that of the tag is to be added.
    Here(String),
    /// With its place.
    Placed(String),
}

impl Fault {
    fn new(problem: impl Into<String>) -> Self {
        Fault::Here(problem.into())
    }
}

/// What a rendering has taken of its bounds.
#[derive(Debug, Default)]
struct Budget {
    used: usize,
}

impl Budget {
    /// Takes `bytes` of memory, or as many steps of work.
    fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.used = self.used.saturating_add(bytes);
        if bytes > VALUE_BYTES_MAX || self.used > RENDER_BYTES_MAX {
            return Err(Fault::new(TOO_LARGE));
        }
        Ok(())
    }

    fn spend_items(&mut self, items: usize) -> Result<(), Fault> {
        self.spend(items.saturating_mul(ITEM_BYTES))
    }

    fn spend_val(&mut self, val: &Val) -> Result<(), Fault> {
        match val {
            Val::Is(value) => self.spend(bytes(value)),
            _ => Ok(()),
        }
    }
}

fn bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| ITEM_BYTES + bytes(item)).sum(),
        Value::Object(object) => {
            object.iter().map(|(key, item)| ITEM_BYTES + key.len() + bytes(item)).sum()
        }
    }
}
