//! Feedback: events that Loops reported by its webhooks. They are kept as names and digests, without addresses,
//! subjects and contents.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::error::Unavailable;
use crate::segment::PersonDigest;

/// For how long handing on a webhook is retried.
pub const FORWARD_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long to wait after the first try to hand a webhook on. The wait doubles with each try, up to
/// [`FORWARD_WAIT_MAX`].
pub const FORWARD_WAIT_MIN: Duration = Duration::from_secs(15);
/// See [`FORWARD_WAIT_MIN`].
pub const FORWARD_WAIT_MAX: Duration = Duration::from_secs(10 * 60);

/// The most webhooks of one destination that wait to be handed on, with at most [`FORWARD_BYTES_MAX`] in all. Further
/// webhooks are recorded but not handed on.
pub const FORWARDS_MAX: u64 = if cfg!(test) { 20 } else { 10_000 };
/// See [`FORWARDS_MAX`].
pub const FORWARD_BYTES_MAX: u64 = if cfg!(test) { 20_000 } else { 64 * 1024 * 1024 };

/// Kinds of [`Origin`].
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
    /// All variants.
    pub const ALL: [OriginKind; 4] = [
        OriginKind::Workflow,
        OriginKind::Campaign,
        OriginKind::Transactional,
        OriginKind::MailingList,
    ];

    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            OriginKind::Workflow => "workflow",
            OriginKind::Campaign => "campaign",
            OriginKind::Transactional => "transactional",
            OriginKind::MailingList => "mailing_list",
        }
    }

    /// Returns the kind with this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// The workflow, campaign, transactional mail or mailing list that an event belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its kind.
    pub kind: OriginKind,
    /// Its id at Loops.
    pub id: String,
    /// Its name; `None` if Loops sends only the id.
    pub name: Option<String>,
}

/// The part of an event from Loops that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedbackRecord {
    /// Name of the destination.
    pub destination: String,
    /// Loops' id of the webhook, unique within a destination.
    pub webhook_id: String,
    /// When it was received.
    pub received_at: Timestamp,
    /// When it happened, by Loops' clock, in whole seconds.
    pub at: Timestamp,
    /// The name of the event, as Loops wrote it. This release may not know it.
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

/// A webhook as it was received, with everything needed to hand it on with its signature.
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
    /// The part that is kept.
    pub record: FeedbackRecord,
    /// The webhook to hand on; `None`: none.
    pub forward: Option<SignedWebhook>,
}

/// How an event was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It was new.
    New,
    /// It was new but is not handed on, because too many webhooks wait for that already.
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
    /// How many times it was taken, including this time.
    pub tries: u32,
    /// What to send.
    pub webhook: SignedWebhook,
}

/// Returns how long to wait after a try to hand a webhook on. `tries` counts from 1.
///
/// ```
/// use segment_loops::queue::{FORWARD_WAIT_MAX, forward_wait};
///
/// let waits_s = [1, 2, 3, 4].map(|tries| forward_wait(tries).as_secs());
/// assert_eq!(waits_s, [15, 30, 60, 120]);
/// assert_eq!(forward_wait(100), FORWARD_WAIT_MAX);
/// ```
pub fn forward_wait(tries: u32) -> Duration {
    let doubled = FORWARD_WAIT_MIN.saturating_mul(1 << tries.saturating_sub(1).min(16));
    doubled.min(FORWARD_WAIT_MAX)
}

/// Keeps the events that Loops reported, and the webhooks to hand on.
#[async_trait]
pub trait Feedback: Send + Sync {
    /// Records an event, unless there is one with the same destination and webhook id. When the call returns, the event
    /// is on stable storage, with its webhook if that is handed on.
    ///
    /// If the event says that a contact left or came back, [`Work::opt_outs`](super::Work::opt_outs) takes it into
    /// account unless a later event was recorded. This is kept until the person is erased, regardless of the retention.
    async fn record(&self, feedback: NewFeedback) -> Result<Recorded, Unavailable>;

    /// Returns the latest events about a person who is known by any of these digests, most recent first. Of events of
    /// the same second, the one recorded last comes first.
    async fn by_person(
        &self,
        persons: &[PersonDigest],
        limit: u32,
    ) -> Result<Vec<FeedbackRecord>, Unavailable>;

    /// Returns the latest events of a destination, most recently received first.
    async fn by_destination(
        &self,
        destination: &str,
        limit: u32,
    ) -> Result<Vec<FeedbackRecord>, Unavailable>;

    /// Returns when the last event of a destination that is still kept was received; `None` if there is none.
    async fn last_heard(&self, destination: &str) -> Result<Option<Timestamp>, Unavailable>;

    /// Takes webhooks of a destination that are due to be handed on. Each becomes due again, for any process, after
    /// [`forward_wait`], unless [`Feedback::end_forward`] is called for it first.
    async fn take_forwards(
        &self,
        destination: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Forward>, Unavailable>;

    /// Removes a webhook from those to hand on, because that succeeded or was given up. Its record stays.
    async fn end_forward(&self, destination: &str, webhook_id: &str) -> Result<(), Unavailable>;
}
