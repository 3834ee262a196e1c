//! JavaScript values, and how JavaScript converts, reads and writes them.
//!
//! Segment's runtime is JavaScript, so a message means what JavaScript makes of it: every number is a
//! double, `1e400` is infinite, keys have JavaScript's order, string lengths count UTF-16 code units,
//! and `week 3` is a date. Everything that reproduces such behaviour is here, once:
//!
//! - the values ([`Value`], [`Object`]) and how keys are looked up in them;
//! - JSON, read leniently or strictly ([`decode`]) and written as `JSON.stringify` writes it
//!   ([`Value::to_json`]);
//! - the conversions between numbers, strings and booleans ([`to_text`], [`to_number`], [`number_text`],
//!   [`number_of_text`]) and the parts of strings ([`utf16_length`], [`from_utf16`], [`is_space`]);
//! - dates ([`date`]);
//! - the coercions of Ajv, the validator that Segment runs over an action's fields ([`ajv`]).
//!
//! The source of truth is ECMA-262, and V8 where the standard leaves the choice to the engine (dates).
//! LiquidJS is a language of its own: `mapping::liquid` has it.
//!
//! No I/O, no clock; knows neither messages nor mappings nor Loops.

pub mod ajv;
mod convert;
pub mod date;
pub mod decode;
mod encode;
mod number;
mod object;
pub(crate) mod plain;
mod string;
mod value;

pub use convert::{
    equals_empty_text, joined_text, joins_to_nothing, push_joined, to_number, to_text, type_name,
};
pub use encode::object_json;
pub use number::{count, number_of_text, number_text};
pub use object::{array_index, sort_entries};
pub use string::{clamp_index, from_utf16, is_space, utf16_length};
pub use value::{Object, Value};
