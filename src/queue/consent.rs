//! People who left, as Loops reported it: unsubscribed, complained, or bounced. They are kept as digests, regardless of
//! the retention, until Loops reports that the person is back, accepts a request that brings the person back, or the
//! person is erased.

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
    /// When the contact left, by Loops' clock.
    pub at: Timestamp,
    /// The event by which Loops reported it.
    pub event: String,
}

impl OptOut {
    /// Returns whether it is about the contact with one of these digests.
    pub fn is_about(&self, persons: &[PersonDigest]) -> bool {
        self.user.iter().chain(&self.email).any(|person| persons.contains(person))
    }
}

/// The subscriptions that a request gives a contact. Once Loops has accepted the request, a contact that left before
/// has come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptIn {
    /// The ids of mailing lists; `None`: all mails.
    pub lists: Vec<Option<String>>,
    /// When the message of the request happened. A contact that left at that time or later stays away.
    pub at: Timestamp,
}

/// The change of a contact's consent that an event of Loops reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConsentReport<'a> {
    /// Whether it left, or came back.
    pub(crate) has_left: bool,
    /// The id of the mailing list; `None`: all mails.
    pub(crate) list: Option<&'a str>,
}

impl<'a> ConsentReport<'a> {
    /// Reads an event; `None` if it does not report a change of consent.
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

    /// Returns the name of the event that takes the opt-out back.
    pub(crate) fn way_back(self) -> &'static str {
        match self.list {
            None => "email.resubscribed",
            Some(_) => "contact.mailingList.subscribed",
        }
    }
}
