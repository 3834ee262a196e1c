//! Dates in strings, as JavaScript's `Date` reads them.
//!
//! ECMAScript fixes the ISO forms and leaves everything else to the engine. We follow V8 (its `dateparser`),
//! with UTC as the local time: first the ISO forms, then whatever its lenient parser accepts, such as
//! `week 3`.

mod draft;
mod like;
mod moment;
mod scan;

use draft::{Draft, Iso};
use scan::Scanner;

pub use like::is_date_like;

/// The latest moment that a `Date` holds, in milliseconds since 1970.
pub const MILLISECONDS_MAX: f64 = 8.64e15;

/// Returns the moment that a string names, in milliseconds since 1970; `None` where `Date.parse` returns NaN.
pub fn parse_date(text: &str) -> Option<f64> {
    let mut scanner = Scanner::new(text);
    let mut draft = Draft::default();
    match draft.read_iso(&mut scanner) {
        Iso::Broken => return None,
        Iso::Whole => {}
        Iso::GoOnWith(token) => draft.read_lenient(token, &mut scanner)?,
    }
    draft.milliseconds().filter(|moment| moment.abs() <= MILLISECONDS_MAX)
}

#[cfg(test)]
mod tests;
