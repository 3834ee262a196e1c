//! A filter's name, and how it reads its arguments.

use super::super::expression::Filter;
use super::super::val::Val;

/// A filter and its name.
pub(super) type Named = (&'static str, Filter);

/// Returns the argument at `index`; undefined if it is missing.
pub(super) fn arg(args: &[Val], index: usize) -> &Val {
    args.get(index).unwrap_or(&Val::Undefined)
}

/// Returns the argument at `index` as a string, or `default` if it is undefined.
pub(super) fn text_or(args: &[Val], index: usize, default: &str) -> String {
    match arg(args, index) {
        Val::Undefined => default.to_owned(),
        given => given.text(),
    }
}
