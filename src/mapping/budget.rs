//! How much a mapping may make of one message, and the failure that ends it.

use std::cell::Cell;

use crate::js::Value;

/// Why a mapping fails for a message, in the words of Segment's runtime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MappingFailure(pub(super) String);

/// How much a mapping may still make of one message. It is needed since mappings can double what they find repeatedly.
pub(super) struct Budget<'s> {
    left: Cell<usize>,
    /// Called at each expense; the budget ends once it returns true.
    stop: Option<&'s dyn Fn() -> bool>,
    is_stopped: Cell<bool>,
}

impl Default for Budget<'_> {
    fn default() -> Self {
        Self { left: Cell::new(BUDGET_MAX), stop: None, is_stopped: Cell::new(false) }
    }
}

/// In bytes of strings; a value counts as [`NODE_BYTES`].
const BUDGET_MAX: usize = 64 * 1024 * 1024;
const NODE_BYTES: usize = 32;

impl<'s> Budget<'s> {
    /// A budget that also ends once `stop` returns true.
    pub(super) fn until(stop: &'s dyn Fn() -> bool) -> Self {
        Self { stop: Some(stop), ..Self::default() }
    }

    /// Whether `stop` ended it.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.get()
    }

    fn spend(&self, amount: usize) -> Result<(), MappingFailure> {
        if self.stop.is_some_and(|stop| stop()) {
            self.is_stopped.set(true);
            return Err(MappingFailure("the mapping was stopped".to_owned()));
        }
        let left = self.left.get().checked_sub(amount).ok_or_else(|| {
            MappingFailure(
                "the mapping makes too much of this message (more than 64 MiB)".to_owned(),
            )
        })?;
        self.left.set(left);
        Ok(())
    }

    pub(super) fn spend_text(&self, bytes: usize) -> Result<(), MappingFailure> {
        self.spend(bytes)
    }

    pub(super) fn spend_node(&self) -> Result<(), MappingFailure> {
        self.spend(NODE_BYTES)
    }

    pub(super) fn spend_value(&self, value: &Value) -> Result<(), MappingFailure> {
        self.spend_node()?;
        match value {
            Value::String(text) => self.spend(text.len()),
            Value::Array(items) => items.iter().try_for_each(|item| self.spend_value(item)),
            Value::Object(object) => object.iter().try_for_each(|(key, item)| {
                self.spend(key.len())?;
                self.spend_value(item)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }
}
