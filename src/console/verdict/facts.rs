//! The facts that a verdict is based on.

use crate::console::asker::{Events, Held};
use crate::console::status::{DestinationNow, Rejected};
use crate::queue::{DeliveryRecord, FeedbackRecord, MessageRecord};

/// The facts to judge.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::console) struct Facts<'a> {
    /// The messages of a person, or a single one, newest first.
    pub(in crate::console) messages: &'a [MessageRecord],
    /// What Loops reported about the person, newest first.
    pub(in crate::console) feedback: &'a [FeedbackRecord],
    /// Whether Loops has ever reported anything to the destination.
    pub(in crate::console) has_heard: bool,
    /// What Loops holds of the person, if it was asked.
    pub(in crate::console) held: Option<&'a Held>,
    /// The name of the event as it was sent, and the names that Loops lists, if it was asked.
    pub(in crate::console) events: Option<(&'a str, &'a Events)>,
    /// The state of delivery at the destinations of waiting messages.
    pub(in crate::console) destinations: &'a [DestinationNow],
    /// What was rejected in the last hour. It matters only if there are no messages.
    pub(in crate::console) rejected: Option<&'a Rejected>,
}

pub(super) fn standing(message: &MessageRecord) -> impl Iterator<Item = &DeliveryRecord> {
    message.deliveries.iter().filter(|delivery| !delivery.is_superseded)
}

/// Returns whether a message was delivered without any request.
pub(super) fn is_not_needed(message: &MessageRecord) -> bool {
    standing(message).next().is_some()
        && standing(message).all(|delivery| delivery.not_needed.is_some())
}
