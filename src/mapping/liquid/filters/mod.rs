//! LiquidJS' filters, except those that Segment disables.

mod args;
mod date;
mod general;
mod list;
mod math;
mod strftime;
mod text;
mod web;

use super::expression::Filter;
use args::Named;

/// The filters that Segment disables.
pub(super) const DISABLED: [&str; 20] = [
    "array_to_sentence_string",
    "concat",
    "find",
    "find_exp",
    "find_index",
    "find_index_exp",
    "group_by",
    "group_by_exp",
    "has",
    "has_exp",
    "map",
    "newline_to_br",
    "reject",
    "reject_exp",
    "reverse",
    "sort",
    "sort_natural",
    "type",
    "uniq",
    "where_exp",
];

fn all() -> impl Iterator<Item = Named> {
    let all = [math::ALL, text::ALL, list::ALL, web::ALL, date::ALL, general::ALL];
    all.into_iter().flatten().copied()
}

/// Returns the filter of that name.
pub(super) fn find(name: &str) -> Option<Filter> {
    all().find(|(known, _)| *known == name).map(|(_, filter)| filter)
}

/// Returns the names of all filters that are not disabled.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    all().map(|(name, _)| name)
}
