//! The present state of the service, for the page Now and `GET /api/status`. It is the same from every process, because
//! each publishes its own part in the store.

mod depths;
mod found;
mod read;
mod reported;
#[cfg(test)]
mod tests;
mod view;

pub use depths::Depths;
pub(super) use read::{delivery, read, rejected};
pub(super) use reported::Rejected;
pub use view::{Conflict, DestinationNow, Funnel, SourceNow, Status};
#[cfg(test)]
pub(super) use view::{Paused, Waiting};
