//! The responses: each struct is the JSON of a response, its schema, and what a page shows. None of them contains the
//! contents of messages.

mod audit;
mod event_names;
mod failures;
mod feedback;
mod message;
mod reload;
mod replay;
mod replicas;
mod report;
mod tallies;

pub use audit::{AuditEntry, AuditList};
pub use event_names::{EventName, EventNames};
pub use failures::{Example, FailureGroup, Failures};
pub use feedback::{Feedback, FeedbackEvent, FeedbackOrigin};
pub use message::{AttemptFate, Delivery, HeldFate, MessageFate, Messages, RequestFate};
pub use reload::{BadConfiguration, ChangedKey, ReloadProblem, Reloaded};
pub use replay::{ReplayPosition, Replayed};
pub use replicas::{Lease, Replica, Replicas};
pub use report::{MessageReport, MessageReports, Person, Verdict};
pub use tallies::{Tallies, Tally};
