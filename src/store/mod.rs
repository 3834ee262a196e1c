//! Stores the queue. This is the only module that knows SQL. [`open`] picks the engine and returns a
//! [`Store`](crate::queue::Store); no other module names an engine, its files or its errors.
//!
//! There are two engines: `sqlite`, for one machine, and `postgres`, for several. [`crate::queue`] has the guarantees
//! and the test suite that each engine runs.

mod backlog;
mod contacts;
mod copies;
mod engine;
mod error;
mod feedback;
mod groups;
mod meters;
mod moving;
mod new_contacts;
mod order;
mod postgres;
mod receipts;
#[cfg(test)]
mod released;
mod replay;
mod room;
mod schema;
mod sqlite;
mod tally;
mod values;

pub use copies::{BackedUp, BackupTo, CopyError, ReErased, Restored};
pub use engine::{back_up, exists, open, schema};
pub use error::StoreError;
pub use moving::{MoveError, Moved, Watch, keep_queue, move_queue};
pub use schema::Schema;
pub use sqlite::restore::Restore;
