//! What a list is about.

use crate::queue::Filter;
use crate::store::sqlite::recent::Known;

/// A resolved filter: the filter, and the newest messages about its persons.
#[derive(Debug)]
pub(in crate::store::sqlite) struct Sought {
    pub(in crate::store::sqlite) filter: Filter,
    pub(in crate::store::sqlite) known: Known,
}
