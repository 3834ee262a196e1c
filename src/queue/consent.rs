//! Who left, as Loops reported it: unsubscribed, complained, or bounced. Kept as digests until Loops reports that the
//! person is back or accepts a request that brings the person back, or the person is erased, whatever the retention.

use jiff::Timestamp;

use super::feedback::{FeedbackRecord, OriginKind};
use crate::segment::PersonDigest;

/// A contact that left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptOut {
    /// Digest of the contact's `userId`.
    pub user: Option<PersonDigest>,
    /// Digest of its e-mail address.
    pub email: Option<PersonDigest>,
    /// The id of the mailing list that it left; `None`: all mails.
    pub list: Option<String>,
    /// When, by Loops' clock.
    pub at: Timestamp,
    /// The event by which Loops reported it.
    pub event: String,
}

impl OptOut {
    /// Whether it is about the contact with one of these digests.
    pub fn is_about(&self, persons: &[PersonDigest]) -> bool {
        self.user.iter().chain(&self.email).any(|person| persons.contains(person))
    }
}

/// What a request subscribes a contact to. Once Loops has accepted it, a contact that left before has come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptIn {
    /// The ids of mailing lists; `None`: all mails.
    pub lists: Vec<Option<String>>,
    /// When the message of the request happened. Who left at that time or later stays away.
    pub at: Timestamp,
}

/// What an event of Loops says about whether a contact wants mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConsentReport<'a> {
    /// Whether it left, or came back.
    pub(crate) has_left: bool,
    /// The id of the mailing list; `None`: all mails.
    pub(crate) list: Option<&'a str>,
}

impl<'a> ConsentReport<'a> {
    /// Reads an event; `None`: it says nothing about that.
    pub(crate) fn of(feedback: &'a FeedbackRecord) -> Option<Self> {
        let origin = feedback.origin.as_ref();
        let list = || {
            let list = origin.filter(|origin| origin.kind == OriginKind::MailingList)?;
            Some(list.id.as_str())
        };
        let (has_left, list) = match &*feedback.event {
            "contact.unsubscribed"
            | "email.unsubscribed"
            | "email.spamReported"
            | "email.hardBounced" => (true, None),
            "email.resubscribed" => (false, None),
            "contact.mailingList.unsubscribed" => (true, Some(list()?)),
            "contact.mailingList.subscribed" => (false, Some(list()?)),
            _ => return None,
        };
        Some(Self { has_left, list })
    }

    /// The event that takes an opt-out back.
    pub(crate) fn way_back(self) -> &'static str {
        match self.list {
            None => "email.resubscribed",
            Some(_) => "contact.mailingList.subscribed",
        }
    }
}
