//! The daily limit of new contacts: rules shared by the engines.

use jiff::Timestamp;

use crate::queue::{Failure, FailureReason};

/// Returns the failure of a held message that a person discarded.
pub(super) fn discarded(now: Timestamp) -> Failure {
    let detail = format!(
        "new_contacts_per_day held it back, since it would create a contact, and somebody discarded it at {now:.0}; a replay brings it back"
    );
    Failure { reason: FailureReason::Discarded, detail }
}

/// Computes how many contacts may still be created.
pub(super) mod room {
    use jiff::Timestamp;

    use crate::queue::{TallyStep, day_of};
    use crate::store::values::to_ms;

    /// The interval of the tallies that a day's contacts are summed from.
    pub(in crate::store) const STEP: TallyStep = TallyStep::Hour;

    /// Returns when today's tallies begin, and when tomorrow's do.
    pub(in crate::store) fn hours(now: Timestamp) -> (i64, i64) {
        let day = to_ms(day_of(now));
        (day, day.saturating_add(24 * STEP.ms()))
    }

    /// Returns how many more contacts may be created today. `released` raises today's limit, `created` counts the
    /// contacts created today, and `expected` those that frozen requests may still create.
    pub(in crate::store) fn left(per_day: u32, released: i64, created: i64, expected: i64) -> u64 {
        let allowed = i64::from(per_day).saturating_add(released);
        let left = allowed.saturating_sub(created).saturating_sub(expected);
        u64::try_from(left).unwrap_or(0)
    }

    /// Returns the room as the limit of a statement.
    pub(in crate::store) fn rows(room: u64) -> i64 {
        i64::try_from(room).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::room::left;

    #[test]
    fn what_was_created_and_what_may_be_leaves_less_room() {
        for (per_day, released, created, expected, room) in [
            (2, 0, 0, 0, 2),
            (2, 0, 1, 0, 1),
            (2, 0, 1, 1, 0),
            (2, 1, 1, 1, 1),
            (2, 0, 5, 0, 0),
            (u32::MAX, i64::MAX, 0, 0, i64::MAX as u64),
        ] {
            let left = left(per_day, released, created, expected);
            assert_eq!(left, room, "{per_day} {released} {created} {expected}");
        }
    }
}
