//! The catalogue of a team at Loops: its contact properties, its mailing lists and the names of its events.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Client, Reply};
use super::contact::ReadError;
use super::pacer::Slot;
use super::transport::Call;

/// The types of contact properties, by Loops' contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PropertyType {
    /// A string.
    String,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A date: a string, or milliseconds since 1970.
    Date,
}

/// A contact property.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactProperty {
    /// Its name in requests.
    pub name: String,
    /// Its type; `None` if this release does not know it.
    pub kind: Option<PropertyType>,
}

/// A mailing list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailingList {
    /// Its id, by which requests name it.
    pub id: String,
    /// Its name, which people can change.
    pub name: String,
}

impl PropertyType {
    /// Returns the name in Loops' contract.
    pub fn as_str(self) -> &'static str {
        match self {
            PropertyType::String => "string",
            PropertyType::Number => "number",
            PropertyType::Boolean => "boolean",
            PropertyType::Date => "date",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::String, Self::Number, Self::Boolean, Self::Date];
        all.into_iter().find(|one| one.as_str() == text)
    }
}

impl Client {
    /// Returns all contact properties: the built-in ones and the team's own.
    pub async fn contact_properties(&self, slot: &Slot) -> Result<Vec<ContactProperty>, ReadError> {
        let answer = self.ask(slot, "/contacts/properties?list=all").await?;
        items(&answer, |item| {
            let kind = item.get("type").and_then(Value::as_str).and_then(PropertyType::parse);
            Some(ContactProperty { name: text(item, "key")?, kind })
        })
    }

    /// Returns all mailing lists.
    pub async fn mailing_lists(&self, slot: &Slot) -> Result<Vec<MailingList>, ReadError> {
        let answer = self.ask(slot, "/lists").await?;
        items(&answer, |item| {
            Some(MailingList { id: text(item, "id")?, name: text(item, "name")? })
        })
    }

    /// Creates a contact property.
    pub async fn create_property(&self, slot: &Slot, name: &str, kind: PropertyType) -> Reply {
        let body = Bytes::from(json!({"name": name, "type": kind}).to_string());
        let path = "/contacts/properties";
        self.send(slot, Call { method: "POST", path, body: Some(&body), idempotency_key: None })
            .await
    }
}

/// Parses the items of a response that is an array of objects.
fn items<T>(answer: &Value, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, ReadError> {
    let items = answer.as_array().ok_or(ReadError::Unreadable)?.iter();
    items.map(|item| read(item).ok_or(ReadError::Unreadable)).collect()
}

fn text(item: &Value, key: &str) -> Option<String> {
    Some(item.get(key)?.as_str()?.to_owned())
}
