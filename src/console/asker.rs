//! Questions to Loops on behalf of people at the console. The console has no Loops client of its own: the composition
//! root implements [`Asker`] with one.

use async_trait::async_trait;
use serde_json::{Map, Value};

/// Asks Loops what it holds. Each call makes at most two requests, which wait for the rate like any other.
#[async_trait]
pub trait Asker: Send + Sync {
    /// Returns what Loops holds of a contact.
    async fn contact(&self, destination: &str, key: &ContactKey) -> Result<Held, AskError>;

    /// Returns the events that can start a workflow at Loops.
    async fn events(&self, destination: &str) -> Result<Events, AskError>;
}

/// The key by which Loops finds a contact.
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
    /// The contact; `None` if Loops has none with this key.
    pub contact: Option<Map<String, Value>>,
    /// Whether Loops no longer sends to the address, because mails bounced or were reported as spam; `None` if Loops
    /// did not say.
    pub is_suppressed: Option<bool>,
}

/// The names of events that Loops knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// The names.
    pub names: Vec<String>,
    /// Whether the list is complete.
    pub is_complete: bool,
}

/// Why a question to Loops failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The destination is not configured, or no longer.
    #[error("the destination is no longer configured, so Loops cannot be asked")]
    NoDestination,
    /// Deliveries use up the rate.
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
    /// The response does not follow Loops' contract.
    #[error("Loops sent a response that cannot be read")]
    Unreadable,
}
