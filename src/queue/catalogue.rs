//! What was read of a team at Loops: its contact properties, mailing lists and event names, as a store keeps it.

use jiff::Timestamp;

/// The catalogue of a destination, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCatalogue {
    /// Differs between teams at Loops: the catalogue of another one does not count.
    pub account: i64,
    /// When it was stored.
    pub kept_at: Timestamp,
    /// What was read, as JSON. Holds no personal data.
    pub record: String,
}
