//! Asks Loops on behalf of people, through the clients that deliver, so that the rate is kept.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use crate::console::{AskError, Asker, ContactKey, Events, Held};
use crate::loops::{CallError, Client, FindBy, ReadError, Slot};

/// How long a question waits for its turn among the deliveries that wait for the rate.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks through the clients of the destinations, by destination name.
pub(super) struct Asking(pub(super) HashMap<String, Client>);

impl Asking {
    fn client(&self, destination: &str) -> Result<&Client, AskError> {
        self.0.get(destination).ok_or(AskError::NoDestination)
    }
}

async fn slot(client: &Client) -> Result<Slot, AskError> {
    timeout(PATIENCE, client.pacer().slot()).await.map_err(|_| AskError::Busy)
}

#[async_trait]
impl Asker for Asking {
    async fn contact(&self, destination: &str, key: &ContactKey) -> Result<Held, AskError> {
        let client = self.client(destination)?;
        let by = match key {
            ContactKey::UserId(id) => FindBy::UserId(id),
            ContactKey::Email(address) => FindBy::Email(address),
        };
        let contact = client.find(&slot(client).await?, by).await?;
        let is_suppressed = match contact {
            Some(_) => client.is_suppressed(&slot(client).await?, by).await?,
            None => None,
        };
        Ok(Held { contact, is_suppressed })
    }

    async fn events(&self, destination: &str) -> Result<Events, AskError> {
        let client = self.client(destination)?;
        let (mut names, mut next) = client.event_names(&slot(client).await?, None).await?;
        if let Some(cursor) = next {
            let more;
            (more, next) = client.event_names(&slot(client).await?, Some(&cursor)).await?;
            names.extend(more);
        }
        Ok(Events { names, is_complete: next.is_none() })
    }
}

impl From<ReadError> for AskError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Status(status) => AskError::Refused(status),
            ReadError::Unreadable => AskError::Unreadable,
            ReadError::Call(error) => AskError::NoAnswer(match error {
                CallError::Timeout => "it did not answer in time".to_owned(),
                CallError::Connect(_) => "there was no connection".to_owned(),
                CallError::Broken(_) => "the connection broke".to_owned(),
            }),
        }
    }
}
