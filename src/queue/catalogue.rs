//! The catalogue of a team at Loops, as a store keeps it: its contact properties, mailing lists and event names.

use jiff::Timestamp;

/// The catalogue of a destination, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCatalogue {
    /// Identifies the team at Loops. A catalogue of another team is ignored.
    pub account: i64,
    /// When it was stored.
    pub kept_at: Timestamp,
    /// The catalogue as JSON. Holds no personal data.
    pub record: String,
}
