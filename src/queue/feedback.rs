//! Feedback: what Loops reported by its webhooks. Kept as names and digests, without addresses, subjects and contents.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::error::Unavailable;
use crate::segment::PersonDigest;

/// How long a webhook is tried to be handed on.
pub const FORWARD_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a webhook that was taken to be handed on is left alone: at first, and at most. Doubles with each try.
pub const FORWARD_WAIT_MIN: Duration = Duration::from_secs(15);
/// See [`FORWARD_WAIT_MIN`].
pub const FORWARD_WAIT_MAX: Duration = Duration::from_secs(10 * 60);

/// The most webhooks of one destination that wait to be handed on, and the most bytes of them. Further ones are recorded
/// and not handed on.
pub const FORWARDS_MAX: u64 = if cfg!(test) { 20 } else { 10_000 };
/// See [`FORWARDS_MAX`].
pub const FORWARD_BYTES_MAX: u64 = if cfg!(test) { 20_000 } else { 64 * 1024 * 1024 };

/// What a mail or a subscription belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginKind {
    /// A workflow, which Loops' webhooks call a loop.
    Workflow,
    /// A campaign.
    Campaign,
    /// A transactional mail.
    Transactional,
    /// A mailing list.
    MailingList,
}

impl OriginKind {
    /// All of them.
    pub const ALL: [OriginKind; 4] = [
        OriginKind::Workflow,
        OriginKind::Campaign,
        OriginKind::Transactional,
        OriginKind::MailingList,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            OriginKind::Workflow => "workflow",
            OriginKind::Campaign => "campaign",
            OriginKind::Transactional => "transactional",
            OriginKind::MailingList => "mailing_list",
        }
    }

    /// The kind with this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// The workflow, campaign, transactional mail or mailing list that an event belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// What it is.
    pub kind: OriginKind,
    /// Its id at Loops.
    pub id: String,
    /// Its name; `None` where Loops gives the id alone.
    pub name: Option<String>,
}

/// What is kept of an event that Loops reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedbackRecord {
    /// Name of the destination.
    pub destination: String,
    /// Loops' id of the webhook: no two of a destination have the same.
    pub webhook_id: String,
    /// When it was received.
    pub received_at: Timestamp,
    /// When it happened, by Loops' clock, in whole seconds.
    pub at: Timestamp,
    /// The name of the event, as Loops wrote it. It may be one that this release does not know.
    pub event: String,
    /// Digest of the contact's `userId`.
    pub user: Option<PersonDigest>,
    /// Digest of the contact's e-mail address.
    pub email: Option<PersonDigest>,
    /// The contact's id at Loops.
    pub contact_id: Option<String>,
    /// What the event belongs to.
    pub origin: Option<Origin>,
    /// The id of the mail.
    pub email_id: Option<String>,
}

/// A webhook as it was received: all that is needed to hand it on with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedWebhook {
    /// The header `webhook-timestamp`.
    pub timestamp: String,
    /// The header `webhook-signature`.
    pub signature: String,
    /// The body.
    pub body: Bytes,
}

/// An event to be recorded.
#[derive(Debug, Clone)]
pub struct NewFeedback {
    /// What is kept of it.
    pub record: FeedbackRecord,
    /// What is to be handed on; `None`: nothing.
    pub forward: Option<SignedWebhook>,
}

/// How an event was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It was new.
    New,
    /// It was new, and is not handed on: too much waits for that already.
    NotForwarded,
    /// It had been recorded before. Nothing was changed.
    Duplicate,
}

/// A webhook to be handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Its id.
    pub webhook_id: String,
    /// When it was received.
    pub received_at: Timestamp,
    /// How often it was taken, this time included.
    pub tries: u32,
    /// What to send.
    pub webhook: SignedWebhook,
}

/// How long a webhook is left alone after it was taken for the given time, counted from 1.
pub fn forward_wait(tries: u32) -> Duration {
    let doubled = FORWARD_WAIT_MIN.saturating_mul(1 << tries.saturating_sub(1).min(16));
    doubled.min(FORWARD_WAIT_MAX)
}

/// Keeps what Loops reported, and what is to be handed on of it.
#[async_trait]
pub trait Feedback: Send + Sync {
    /// Records an event, unless one with the same destination and webhook id is there. When it returns, the event is on
    /// stable storage, with what is to be handed on. If it says that a contact left, or came back, that counts for
    /// [`Work::opt_outs`](super::Work::opt_outs) unless a later one was recorded; it is kept until the person is erased,
    /// whatever the retention.
    async fn record(&self, feedback: NewFeedback) -> Result<Recorded, Unavailable>;

    /// The latest events about a person, who is known by any of these digests: the one that happened last first, and
    /// of the same second the one that was recorded last.
    async fn by_person(
        &self,
        persons: &[PersonDigest],
        limit: u32,
    ) -> Result<Vec<FeedbackRecord>, Unavailable>;

    /// The latest events of a destination, the one that was received last first.
    async fn by_destination(
        &self,
        destination: &str,
        limit: u32,
    ) -> Result<Vec<FeedbackRecord>, Unavailable>;

    /// When the last event of a destination was received that is still kept; `None`: there is none.
    async fn last_heard(&self, destination: &str) -> Result<Option<Timestamp>, Unavailable>;

    /// Takes webhooks of a destination that are due to be handed on. Each is due again, for any process, after
    /// [`forward_wait`], unless [`Feedback::end_forward`] is called for it before.
    async fn take_forwards(
        &self,
        destination: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Forward>, Unavailable>;

    /// Forgets what was to be handed on of a webhook: it was, or it is given up. Its record stays.
    async fn end_forward(&self, destination: &str, webhook_id: &str) -> Result<(), Unavailable>;
}
