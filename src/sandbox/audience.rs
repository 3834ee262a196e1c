//! The contacts of the simulated team, found by e-mail address or user id.

use std::collections::{BTreeMap, HashMap};

use super::answer::Refusal;
use super::contact::Contact;
use super::fields::ContactFields;
use super::properties::Properties;

/// The most contacts that are kept, because the sandbox lives in memory.
const CONTACTS_MAX: usize = 500_000;

/// One of the two ways to name a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContactKey {
    Email(String),
    UserId(String),
}

/// The changes that a request made to a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) id: String,
    number: u64,
    pub(super) is_new: bool,
    /// Whether it was subscribed and no longer is.
    pub(super) has_left: bool,
    /// Mailing lists that it has joined (`true`) or left.
    pub(super) lists: Vec<(String, bool)>,
}

/// All contacts, and the properties that they have been given.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// The contacts by number, oldest first.
    contacts: BTreeMap<u64, Contact>,
    by_email: HashMap<String, u64>,
    by_user_id: HashMap<String, u64>,
    last_number: u64,
    pub(super) properties: Properties,
}

impl Audience {
    /// Returns all contacts, oldest first.
    pub(super) fn contacts(&self) -> impl ExactSizeIterator<Item = &Contact> {
        self.contacts.values()
    }

    /// Returns the contact that was changed.
    pub(super) fn changed(&self, change: &Change) -> Option<&Contact> {
        self.contacts.get(&change.number)
    }

    /// Finds a contact.
    pub(super) fn find(&self, key: &ContactKey) -> Option<&Contact> {
        self.contacts.get(&self.number(key)?)
    }

    /// Adds a contact, unless its e-mail address or user id is taken. Returns the changes.
    pub(super) fn create(&mut self, fields: ContactFields) -> Result<Change, Refusal> {
        if fields.email.is_none() {
            return Err(Refusal::bad_request("`email` is required."));
        }
        match self.numbers(&fields) {
            (Some(_), _) => Err(Refusal::conflict("A contact with this email already exists.")),
            (_, Some(_)) => Err(Refusal::conflict("A contact with this userId already exists.")),
            (None, None) => self.add(fields),
        }
    }

    /// Changes the contact that the fields name, or adds one, for which an e-mail address is required. Returns the
    /// changes.
    pub(super) fn upsert(&mut self, fields: ContactFields) -> Result<Change, Refusal> {
        if fields.email.is_none() && fields.user_id.is_none() {
            return Err(Refusal::bad_request("`email` or `userId` is required."));
        }
        match self.numbers(&fields) {
            (Some(one), Some(other)) if one != other => {
                Err(Refusal::bad_request("`email` and `userId` belong to two different contacts."))
            }
            (Some(number), _) | (None, Some(number)) => {
                let found = self.contacts.remove(&number);
                let contact = found.ok_or_else(Refusal::contact_not_found)?;
                self.unindex(&contact);
                Ok(self.put(number, contact, fields))
            }
            (None, None) if fields.email.is_none() => Err(Refusal::bad_request(
                "No contact has this `userId`, and there is no `email` to create one with.",
            )),
            (None, None) => self.add(fields),
        }
    }

    /// Removes a contact and returns it.
    pub(super) fn delete(&mut self, key: &ContactKey) -> Result<Contact, Refusal> {
        let number = self.number(key).ok_or_else(Refusal::contact_not_found)?;
        let gone = self.contacts.remove(&number).ok_or_else(Refusal::contact_not_found)?;
        self.unindex(&gone);
        Ok(gone)
    }

    fn add(&mut self, fields: ContactFields) -> Result<Change, Refusal> {
        if self.contacts.len() >= CONTACTS_MAX {
            return Err(Refusal::bad_request(
                "The sandbox cannot hold more contacts: empty it with POST /sandbox/reset.",
            ));
        }
        self.last_number += 1;
        // Ids are as long as those of Loops, and the same in every run.
        let contact = Contact::new(format!("cs{:022}", self.last_number));
        let change = self.put(self.last_number, contact, fields);
        Ok(Change { is_new: true, ..change })
    }

    /// Applies fields to a contact that is in no index, and puts it back.
    fn put(&mut self, number: u64, mut contact: Contact, fields: ContactFields) -> Change {
        self.properties.learn(&fields.properties);
        let (was_subscribed, lists) = (contact.is_subscribed(), contact.changed_lists(&fields));
        contact.apply(fields);
        if let Some(email) = &contact.email {
            self.by_email.insert(email.to_lowercase(), number);
        }
        if let Some(user_id) = &contact.user_id {
            self.by_user_id.insert(user_id.clone(), number);
        }
        let has_left = was_subscribed && !contact.is_subscribed();
        let id = contact.id.clone();
        self.contacts.insert(number, contact);
        Change { id, number, is_new: false, has_left, lists }
    }

    fn unindex(&mut self, contact: &Contact) {
        if let Some(email) = &contact.email {
            self.by_email.remove(&email.to_lowercase());
        }
        if let Some(user_id) = &contact.user_id {
            self.by_user_id.remove(user_id);
        }
    }

    fn number(&self, key: &ContactKey) -> Option<u64> {
        match key {
            ContactKey::Email(email) => self.by_email.get(&email.to_lowercase()).copied(),
            ContactKey::UserId(user_id) => self.by_user_id.get(user_id).copied(),
        }
    }

    /// Returns the contact with the e-mail address of `fields`, and the contact with the user id.
    fn numbers(&self, fields: &ContactFields) -> (Option<u64>, Option<u64>) {
        let email = fields.email.clone().map(ContactKey::Email);
        let user_id = fields.user_id.clone().map(ContactKey::UserId);
        (email.and_then(|key| self.number(&key)), user_id.and_then(|key| self.number(&key)))
    }
}
