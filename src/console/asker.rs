//! Questions to Loops that people ask from the console. The console has no client of Loops; the composition root
//! implements [`Asker`] with one.

use async_trait::async_trait;
use serde_json::{Map, Value};

/// Asks Loops what it holds. Each call makes at most two requests, and waits its turn for the rate.
#[async_trait]
pub trait Asker: Send + Sync {
    /// What Loops holds of a contact.
    async fn contact(&self, destination: &str, key: &ContactKey) -> Result<Held, AskError>;

    /// The events that workflows at Loops can start with.
    async fn events(&self, destination: &str) -> Result<Events, AskError>;
}

/// By what Loops finds a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContactKey {
    /// By its `userId`.
    UserId(String),
    /// By its e-mail address.
    Email(String),
}

/// What Loops holds of a contact.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Held {
    /// The contact; `None`: Loops has none with this key.
    pub contact: Option<Map<String, Value>>,
    /// Whether Loops sends nothing to its address any more, since mails bounced or were reported as spam; `None`: Loops
    /// did not say.
    pub is_suppressed: Option<bool>,
}

/// The names of events that Loops knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// The names.
    pub names: Vec<String>,
    /// Whether these are all.
    pub is_complete: bool,
}

/// Why Loops gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The destination is not configured, or not any more.
    #[error("the destination is no longer configured, so Loops cannot be asked")]
    NoDestination,
    /// The rate is used up by deliveries.
    #[error(
        "deliveries use all of the rate at the moment, so there was no room to ask: try again later"
    )]
    Busy,
    /// Loops was not reached.
    #[error("Loops was not reached ({0}): try again later")]
    NoAnswer(String),
    /// Loops answered with an error.
    #[error("Loops answered with the status {0}: see the destination on the page Now")]
    Refused(u16),
    /// The answer is none that its contract allows.
    #[error("Loops gave an answer that cannot be read")]
    Unreadable,
}
