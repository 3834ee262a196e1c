//! Rules for receipts of erasures, shared by the engines.

use std::time::Duration;

use jiff::Timestamp;

use crate::queue::{
    Consequence, DeliveryState, RECEIPT_CLOCKS_DIFFER, Settlement, UNSUBSCRIBED_BESIDE,
};

/// How long after a deletion a `contact.unsubscribed` event from Loops counts as a part of the deletion. If Loops is
/// known to have the contact again, the report may be the person's own wish, so the time is short: nobody who left may
/// be resubscribed.
pub(super) fn unsubscribed_beside(is_back: bool) -> Duration {
    if is_back { RECEIPT_CLOCKS_DIFFER } else { UNSUBSCRIBED_BESIDE }
}

/// Returns what an attempt to delete a contact means for its receipt: why Loops has not deleted the contact, the status
/// of the response, and when Loops deleted it. `None` means that the receipt stays as it is.
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
