//! Groups failures by cause.

use std::collections::HashMap;

use crate::queue::{FailureGroup, FailureReason};

/// Failures, grouped by cause.
#[derive(Default)]
pub(super) struct Groups {
    /// Keyed by what the failures have in common: destination, subscription, reason, cause.
    groups: HashMap<(String, Option<String>, FailureReason, String), FailureGroup>,
}

impl Groups {
    /// Adds a failure. Failures must be added newest first: the first of a group stays its example.
    pub(super) fn add(&mut self, one: FailureGroup) {
        let in_common =
            (one.destination.clone(), one.subscription.clone(), one.reason, one.cause.clone());
        self.groups
            .entry(in_common)
            .and_modify(|group| {
                group.deliveries += 1;
                group.first_at = group.first_at.min(one.first_at);
                group.last_at = group.last_at.max(one.last_at);
            })
            .or_insert(one);
    }

    /// Returns the groups, largest first; of equal ones, the one with the latest example first.
    pub(super) fn into_sorted(self) -> Vec<FailureGroup> {
        let mut groups: Vec<FailureGroup> = self.groups.into_values().collect();
        groups.sort_by(|a, b| {
            let size = |group: &FailureGroup| (group.deliveries, group.example_seq);
            size(b).cmp(&size(a)).then_with(|| a.subscription.cmp(&b.subscription))
        });
        groups
    }
}
