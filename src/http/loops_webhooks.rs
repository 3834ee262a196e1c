//! What the webhooks of Loops need, by destination.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::feedback::Key;

/// The destinations, with what their webhooks need.
#[derive(Debug, Default)]
pub struct LoopsWebhooks(pub BTreeMap<String, LoopsWebhook>);

/// The webhook of a destination.
#[derive(Debug, Default)]
pub struct LoopsWebhook {
    /// The keys with any of which it may be signed; none: it is off.
    pub keys: Vec<Key>,
    /// Wakes the task that hands webhooks on; `None`: they are not handed on.
    pub forward: Option<Arc<Notify>>,
}
