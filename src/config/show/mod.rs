//! The configuration in force, key by key, with the origin of each value and without secrets.
//!
//! It is put together from what is written, before any check, so that a configuration with errors can be shown as well.
//! No part of a secret is ever shown. The value of an unknown key is not shown either, because it may be a secret whose
//! key is misspelt.

mod documented;
mod effective;
mod hiding;
mod tables;
#[cfg(test)]
mod tests;
mod values;
mod written;

pub use effective::Effective;
