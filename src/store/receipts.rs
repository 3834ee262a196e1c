//! What the engines share about receipts of erasures.

use std::time::Duration;

use jiff::Timestamp;

use crate::queue::{
    Consequence, DeliveryState, RECEIPT_CLOCKS_DIFFER, Settlement, UNSUBSCRIBED_BESIDE,
};

/// How long after a deletion an unsubscription that Loops reports is taken to be the one beside the deletion. If Loops is
/// known to have the contact again, it may as well be the person's wish, who must not be subscribed again.
pub(super) fn unsubscribed_beside(is_back: bool) -> Duration {
    if is_back { RECEIPT_CLOCKS_DIFFER } else { UNSUBSCRIBED_BESIDE }
}

/// What an attempt to delete a contact means for its receipt: why Loops has not deleted it, the status of the answer, and
/// when Loops deleted it. `None`: nothing.
pub(super) fn settled(
    settlement: &Settlement,
) -> Option<(Option<&'static str>, Option<u16>, Option<Timestamp>)> {
    let attempt = settlement.attempt.as_ref();
    let status = attempt.and_then(|attempt| attempt.status);
    match &settlement.consequence {
        Consequence::Delivered => Some((None, status, Some(settlement.now))),
        // The person's contents are still here, and so is whatever Loops holds.
        Consequence::Shadowed => Some((Some(DeliveryState::Shadowed.as_str()), None, None)),
        Consequence::Failed(failure) => Some((Some(failure.reason.as_str()), status, None)),
        Consequence::Retry(_) | Consequence::Hold { .. } => {
            Some((attempt.map(|attempt| attempt.outcome.as_str()), status, None))
        }
        Consequence::Begin
        | Consequence::TakenApart
        | Consequence::EventDelivered
        | Consequence::EventFailed(_) => None,
    }
}
