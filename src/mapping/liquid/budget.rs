//! The bounds of a rendering, and why one fails.

use super::val::Val;
use crate::js::Value;

/// The longest template, in UTF-16 code units: Segment's bound.
pub(super) const TEMPLATE_UNITS_MAX: usize = 1_000;
/// The longest output of a template, and the largest value that it may build.
pub(super) const VALUE_BYTES_MAX: usize = 1 << 20;
/// What all values of one rendering may take together.
const RENDER_BYTES_MAX: usize = 16 << 20;
/// What an item of an array counts in these bounds, beside its strings.
const ITEM_BYTES: usize = 32;

/// LiquidJS' words for a value beyond its bounds (which are wider: Segment allows 100 MB).
const TOO_LARGE: &str = "memory alloc limit exceeded";

/// Why a value cannot be computed or printed, in LiquidJS' words.
#[derive(Debug)]
pub(super) enum RenderError {
    /// A problem without its position: that of the tag is to be added.
    Here(String),
    /// A problem with its position.
    Placed(String),
}

impl RenderError {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        RenderError::Here(problem.into())
    }

    /// A value beyond the bounds.
    pub(super) fn too_large() -> Self {
        RenderError::new(TOO_LARGE)
    }

    /// Returns the message of the error, for a tag at this position.
    pub(super) fn at(self, place: &str) -> String {
        match self {
            RenderError::Here(problem) => problem + place,
            RenderError::Placed(message) => message,
        }
    }
}

/// How much of its bounds a rendering has used.
#[derive(Debug, Default)]
pub(super) struct Budget {
    used: usize,
}

impl Budget {
    /// Takes `bytes` of memory, or as many steps of work.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), RenderError> {
        self.used = self.used.saturating_add(bytes);
        if bytes > VALUE_BYTES_MAX || self.used > RENDER_BYTES_MAX {
            return Err(RenderError::too_large());
        }
        Ok(())
    }

    /// Takes what this many items of an array count, without their strings.
    pub(super) fn spend_items(&mut self, items: usize) -> Result<(), RenderError> {
        self.spend(items.saturating_mul(ITEM_BYTES))
    }

    /// Takes what a value counts.
    pub(super) fn spend_val(&mut self, val: &Val) -> Result<(), RenderError> {
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
