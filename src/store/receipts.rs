//! What the engines share about receipts of erasures.

use jiff::Timestamp;

use crate::queue::{Consequence, DeliveryState, Settlement};

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
