//! A message as a row of a list.

use super::parts::{Badge, Time};
use crate::console::numbers::count;
use crate::console::reasons::why;
use crate::queue::{DeliveryRecord, DeliveryState, MessageRecord, MessageState, cause};

/// A message in a list.
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) received_at: Time,
    pub(super) badge: Badge,
    /// The name of the event, or the kind of call.
    pub(super) title: String,
    pub(super) kind: &'static str,
    pub(super) message_id: String,
    /// The outcome, in a few words.
    pub(super) outcome: String,
    pub(super) source: String,
}

impl From<&MessageRecord> for Row {
    fn from(record: &MessageRecord) -> Self {
        let kind = record.kind.as_str();
        Self {
            seq: record.seq.0,
            received_at: Time(record.received_at),
            badge: record.state().into(),
            title: record.event.clone().unwrap_or_else(|| kind.to_owned()),
            kind,
            message_id: record.message_id.clone(),
            outcome: outcome(record),
            source: record.source.clone(),
        }
    }
}

/// Describes the outcome of a message, without any of its values.
fn outcome(record: &MessageRecord) -> String {
    let of_state = |state| {
        let counts = record.deliveries.iter().filter(|delivery| !delivery.is_superseded);
        counts.filter(move |delivery| delivery.state == state)
    };
    match record.state() {
        MessageState::Unmatched => {
            let detail = record.unmatched.as_ref().map(|unmatched| unmatched.detail.as_str());
            format!("no subscription took it: {}", cause(detail.unwrap_or_default()))
        }
        MessageState::Failed => {
            let mut failures =
                of_state(DeliveryState::Failed).filter_map(|delivery| delivery.failure.as_ref());
            failures.next().map(|failure| why(failure, cause)).unwrap_or_default()
        }
        MessageState::Delivered => {
            let by = |delivery: &DeliveryRecord| {
                let name = delivery.subscription.clone()?;
                Some(if delivery.not_needed.is_some() { name + " (not needed)" } else { name })
            };
            of_state(DeliveryState::Delivered).filter_map(by).collect::<Vec<_>>().join(", ")
        }
        MessageState::Shadowed => {
            let names =
                of_state(DeliveryState::Shadowed).filter_map(|one| one.subscription.clone());
            format!("not sent, in shadow mode: {}", names.collect::<Vec<_>>().join(", "))
        }
        MessageState::Pending if let Some(held) = &record.held => match held.is_behind {
            true => "waits behind a held message of the same person".to_owned(),
            false => "is held: it would create another contact".to_owned(),
        },
        MessageState::Pending => {
            let retry = of_state(DeliveryState::Pending)
                .filter_map(|delivery| delivery.request.as_ref())
                .find(|request| !request.attempts.is_empty());
            match retry {
                Some(request) => {
                    format!(
                        "waits for its next attempt, after {}",
                        count(request.attempts.len(), "attempt")
                    )
                }
                None => "waits for its turn".to_owned(),
            }
        }
    }
}
