//! The settings of Loops' webhooks, by destination.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::feedback::Key;

/// The settings of Loops' webhooks, by the name of the destination.
#[derive(Debug, Default)]
pub struct LoopsWebhooks(pub BTreeMap<String, LoopsWebhook>);

/// The settings of a destination's webhook.
#[derive(Debug, Default)]
pub struct LoopsWebhook {
    /// The keys that may sign it; empty: the webhook is off.
    pub keys: Vec<Key>,
    /// Wakes the task that hands webhooks on; `None`: they are not handed on.
    pub forward: Option<Arc<Notify>>,
}
