//! Compares what a changed subscription would do to messages, for programs (JSON), for pages and for the command line.
//! Changes nothing, and logs nothing about a message.
//!
//! * `draft`: reads the changed subscription, and says where it is wrong.
//! * `work`: compares batches of messages within a budget, a batch at a time.
//! * `received`: the messages to compare, from the store.
//! * `case`: a message as a case for `check --cases`.
//! * `view`: the result. `difference`: two requests line by line.

pub mod case;
pub mod difference;
pub mod draft;
pub mod received;
pub mod view;
pub mod work;

pub use draft::Draft;
pub use received::Ask;
pub use view::Compared;
pub use work::{Comparing, Given, Turn};

/// How many messages are compared by default, and the most that are shown.
pub const SHOWN_MAX: usize = 20;

/// The most messages of one comparison.
pub const LAST_MAX: usize = 1000;
