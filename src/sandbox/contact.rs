//! One contact of the simulated team.

use serde_json::{Map, Value, json};

use super::fields::ContactFields;

/// The source of a contact without one, by Loops' contract.
const SOURCE_DEFAULT: &str = "API";

/// A person in the team's audience.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    pub(super) id: String,
    pub(super) email: Option<String>,
    pub(super) user_id: Option<String>,
    subscribed: bool,
    mailing_lists: Map<String, Value>,
    properties: Map<String, Value>,
}

impl Contact {
    /// Creates a contact of whom nothing is known yet. All new contacts are subscribed.
    pub(super) fn new(id: String) -> Self {
        Self {
            id,
            email: None,
            user_id: None,
            subscribed: true,
            mailing_lists: Map::new(),
            properties: Map::new(),
        }
    }

    /// Returns whether it gets mails.
    pub(super) fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    /// Returns the mailing lists that the fields change, with whether each is joined.
    pub(super) fn changed_lists(&self, fields: &ContactFields) -> Vec<(String, bool)> {
        let lists = fields.mailing_lists.iter();
        let is_change =
            |(list, wanted): &&(String, bool)| self.mailing_lists.contains_key(list) != *wanted;
        lists.filter(is_change).cloned().collect()
    }

    /// Applies the fields of a request. Fields that it does not mention stay.
    pub(super) fn apply(&mut self, fields: ContactFields) {
        self.email = fields.email.or_else(|| self.email.take());
        self.user_id = fields.user_id.or_else(|| self.user_id.take());
        self.subscribed = fields.subscribed.unwrap_or(self.subscribed);
        for (list, wanted) in fields.mailing_lists {
            if wanted {
                self.mailing_lists.insert(list, Value::Bool(true));
            } else {
                self.mailing_lists.shift_remove(&list);
            }
        }
        self.properties.extend(fields.properties);
    }

    /// Returns the contact as `GET /contacts/find` shows it: custom properties are at the top level, where Loops' own
    /// fields take precedence.
    pub(super) fn to_json(&self) -> Value {
        let text = |key: &str| self.properties.get(key).and_then(Value::as_str);
        let mut shown = json!({
            "id": self.id,
            "email": self.email,
            "firstName": text("firstName"),
            "lastName": text("lastName"),
            "source": text("source").unwrap_or(SOURCE_DEFAULT),
            "subscribed": self.subscribed,
            "userGroup": text("userGroup").unwrap_or_default(),
            "userId": self.user_id,
            "mailingLists": self.mailing_lists,
            "optInStatus": null,
        });
        if let Value::Object(shown) = &mut shown {
            for (key, value) in &self.properties {
                if !shown.contains_key(key) {
                    shown.insert(key.clone(), value.clone());
                }
            }
        }
        shown
    }

    /// Returns the part of a contact that the suppression endpoint shows.
    pub(super) fn to_short_json(&self) -> Value {
        json!({"id": self.id, "email": self.email, "userId": self.user_id})
    }
}
