//! Queries about the data at Loops: contacts, suppression, and the names of events.

use serde_json::{Map, Value};

use super::answer::CallError;
use super::client::Client;
use super::pacer::Slot;

/// The most names of events that one request returns, by Loops' contract.
const EVENTS_AT_ONCE: u32 = 50;

/// The key by which Loops finds a contact. A query may have only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindBy<'a> {
    /// By its `userId`.
    UserId(&'a str),
    /// By its e-mail address.
    Email(&'a str),
}

/// Why data could not be read from Loops.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There was no response.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Loops responded with an error.
    #[error("Loops answered with the status {0}")]
    Status(u16),
    /// The response is not one that the contract allows.
    #[error("Loops sent a response that cannot be read")]
    Unreadable,
}

impl FindBy<'_> {
    fn query(self) -> String {
        let (name, value) = match self {
            FindBy::UserId(id) => ("userId", id),
            FindBy::Email(address) => ("email", address),
        };
        let of = |byte: u8| match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        };
        format!("{name}={}", value.bytes().map(of).collect::<String>())
    }
}

impl Client {
    /// Returns a contact with all its properties; `None` if Loops has no such contact.
    pub async fn find(
        &self,
        slot: &Slot,
        by: FindBy<'_>,
    ) -> Result<Option<Map<String, Value>>, ReadError> {
        let answer = self.ask(slot, &format!("/contacts/find?{}", by.query())).await?;
        match answer {
            Value::Array(found) => match found.into_iter().next() {
                None => Ok(None),
                Some(Value::Object(contact)) => Ok(Some(contact)),
                Some(_) => Err(ReadError::Unreadable),
            },
            _ => Err(ReadError::Unreadable),
        }
    }

    /// Returns whether Loops no longer sends mails to a contact; `None` if Loops has no such contact.
    pub async fn is_suppressed(
        &self,
        slot: &Slot,
        by: FindBy<'_>,
    ) -> Result<Option<bool>, ReadError> {
        match self.ask(slot, &format!("/contacts/suppression?{}", by.query())).await {
            Ok(answer) => {
                let is_suppressed = answer.get("isSuppressed").and_then(Value::as_bool);
                is_suppressed.map(Some).ok_or(ReadError::Unreadable)
            }
            Err(ReadError::Status(404)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the names of events that can start workflows, at most fifty, and the cursor for the rest of the list.
    pub async fn event_names(
        &self,
        slot: &Slot,
        cursor: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), ReadError> {
        let mut path = format!("/event-patterns?perPage={EVENTS_AT_ONCE}");
        if let Some(cursor) = cursor {
            path += &format!("&cursor={}", cursor.replace(['&', '#', ' '], ""));
        }
        let answer = self.ask(slot, &path).await?;
        let names = answer.get("data").and_then(Value::as_array).ok_or(ReadError::Unreadable)?;
        let name = |event: &Value| Some(event.get("eventName")?.as_str()?.to_owned());
        let next = answer.pointer("/pagination/nextCursor").and_then(Value::as_str);
        Ok((names.iter().filter_map(name).collect(), next.map(str::to_owned)))
    }

    pub(super) async fn ask(&self, slot: &Slot, path: &str) -> Result<Value, ReadError> {
        let (status, body) = self.read(slot, path).await?;
        match status {
            200..300 => serde_json::from_slice(&body).map_err(|_| ReadError::Unreadable),
            status => Err(ReadError::Status(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_encoded() {
        assert_eq!(FindBy::UserId("a b&c=é").query(), "userId=a%20b%26c%3D%C3%A9");
        assert_eq!(FindBy::Email("ada+1@example.com").query(), "email=ada%2B1%40example.com");
    }
}
