//! The actions of Segment's Loops destination: their fields and default mappings, as its published
//! definition has them.

use super::field::{Field, FieldKind};
use crate::action::ActionKind;
use crate::js::{Object, Value};

// In the order in which Segment's validation reports errors.
const CONTACT_FIELDS: [Field; 10] = [
    Field::new("createdAt", "Contact Created Date", FieldKind::Date),
    Field::new("customAttributes", "Custom Contact Attributes", FieldKind::Object),
    Field::new("email", "Contact Email", FieldKind::Email),
    Field::new("firstName", "First Name", FieldKind::Text),
    Field::new("lastName", "Last Name", FieldKind::Text),
    Field::new("mailingLists", "Mailing Lists", FieldKind::MailingLists),
    Field::new("source", "Source", FieldKind::Text),
    Field::new("subscribed", "Subscribed", FieldKind::Boolean),
    Field::new("userGroup", "User Group", FieldKind::Text),
    Field::new("userId", "User ID", FieldKind::Text).required(),
];

const EVENT_FIELDS: [Field; 5] = [
    Field::new("email", "Contact Email", FieldKind::Email),
    Field::new("eventName", "Event Name", FieldKind::Text).required(),
    Field::new("userId", "User ID", FieldKind::Text).required(),
    Field::new("contactProperties", "Contact Properties", FieldKind::Object),
    Field::new("eventProperties", "Event Properties", FieldKind::Object),
];

/// Segment's destination has a separate handler for deletions, which knows only the user id.
const DELETE_FIELDS: [Field; 2] = [
    Field::new("email", "Contact Email", FieldKind::Email),
    Field::new("userId", "User ID", FieldKind::Text).required_or("email"),
];

impl ActionKind {
    /// The name of its default subscription.
    pub fn title(self) -> &'static str {
        match self {
            ActionKind::CreateOrUpdateContact => "Create or update a contact",
            ActionKind::SendEvent => "Send an event",
            ActionKind::DeleteContact => "Delete a contact",
        }
    }

    /// The trigger of its default subscription.
    pub fn default_trigger(self) -> &'static str {
        match self {
            ActionKind::CreateOrUpdateContact => "type = \"identify\"",
            ActionKind::SendEvent => "type = \"track\"",
            ActionKind::DeleteContact => "type = \"delete\"",
        }
    }

    /// The mapping of its default subscription.
    pub fn default_mapping(self) -> Value {
        match self {
            ActionKind::CreateOrUpdateContact => object([
                ("email", first_of("$.traits.email", path("$.email"))),
                ("userId", path("$.userId")),
                ("firstName", path("$.traits.firstName")),
                ("lastName", path("$.traits.lastName")),
                ("userGroup", path("$.traits.userGroup")),
                ("source", first_of("$.traits.source", Value::from("Segment"))),
                ("customAttributes", path("$.traits")),
            ]),
            ActionKind::SendEvent => object([
                ("email", first_of("$.properties.email", path("$.context.traits.email"))),
                ("userId", path("$.userId")),
                ("eventName", path("$.event")),
                ("eventProperties", path("$.properties")),
            ]),
            ActionKind::DeleteContact => {
                // The paths by which a message without an id is accepted, in the same order.
                let paths = ["$.traits.email", "$.properties.email", "$.context.traits.email"];
                let email = paths
                    .iter()
                    .rfold(path("$.email"), |otherwise, text| filled_of(text, otherwise));
                object([("userId", path("$.userId")), ("email", email)])
            }
        }
    }

    /// Its fields, in the order in which errors are reported.
    pub(super) fn fields(self) -> &'static [Field] {
        match self {
            ActionKind::CreateOrUpdateContact => &CONTACT_FIELDS,
            ActionKind::SendEvent => &EVENT_FIELDS,
            ActionKind::DeleteContact => &DELETE_FIELDS,
        }
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(
        fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Object>(),
    )
}

fn path(text: &str) -> Value {
    object([("@path", Value::from(text))])
}

/// The value at a path if it exists, else another value.
fn first_of(text: &str, otherwise: Value) -> Value {
    either("exists", text, otherwise)
}

/// The same, with an empty string counting as missing.
fn filled_of(text: &str, otherwise: Value) -> Value {
    either("blank", text, otherwise)
}

fn either(test: &str, text: &str, otherwise: Value) -> Value {
    object([("@if", object([(test, path(text)), ("then", path(text)), ("else", otherwise)]))])
}
