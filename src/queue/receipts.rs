//! Receipts of erasures: for each deletion of a person, when it was requested, how Loops responded, and what was erased
//! here. They name the person by a digest alone, and outlive the erased data.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::error::Unavailable;
use super::intake::Intake;
use super::message::NewMessage;
use super::order::RequestId;
use crate::js::{Object, Value};
use crate::segment::{Digests, MessageHash, PersonDigest, PersonIdKind};

/// How long a receipt is kept after the erasure was requested: a year and a month, so that a yearly audit finds the
/// whole year.
pub const RECEIPTS_KEPT: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// How far the clocks of Loops and of this program may differ when their times are compared.
pub const RECEIPT_CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// Loops reports an unsubscription with each deletion. A report this long after a deletion still belongs to it, as long
/// as nothing says that the contact is back.
pub const UNSUBSCRIBED_BESIDE: Duration = Duration::from_secs(10 * 60);

/// The most bytes of a deletion.
const DELETION_BYTES_MAX: usize = 64 * 1024;

/// A receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Its number in the list; later receipts have higher numbers.
    pub number: i64,
    /// Its random id, by which callers look it up.
    pub id: String,
    /// The destination where the person is deleted.
    pub destination: String,
    /// The digest of the id or address that the deletion names.
    pub person: PersonDigest,
    /// When the deletion was accepted.
    pub asked_at: Timestamp,
    /// Why Loops has not deleted the contact: the outcome of the last attempt, or the reason why there will be no
    /// further attempt.
    pub problem: Option<String>,
    /// The status of Loops' last response.
    pub status: Option<u16>,
    /// The request that asks Loops to delete the contact.
    pub request: Option<RequestId>,
    /// When Loops deleted the contact.
    pub deleted_at: Option<Timestamp>,
    /// When the contact was deleted, as Loops reported by its webhook.
    pub confirmed_at: Option<Timestamp>,
    /// When the erasure here ended.
    pub erased_at: Option<Timestamp>,
    /// What has been erased here so far.
    pub erased: ErasedRows,
}

/// How many rows of each kind were erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ErasedRows {
    /// Messages whose contents and digests were erased.
    pub messages: u64,
    /// Events that Loops reported.
    pub feedback: u64,
    /// Records of a contact's values at Loops.
    pub contacts: u64,
    /// Records of who left.
    pub opt_outs: u64,
}

/// What is known of an erasure when it is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReceipt {
    /// The digest of the message id of the deletion.
    pub message_hash: MessageHash,
    /// The source of the deletion.
    pub source: String,
    /// As in [`Receipt`].
    pub destination: String,
    /// As in [`Receipt`].
    pub person: PersonDigest,
    /// As in [`Receipt`].
    pub asked_at: Timestamp,
}

impl NewReceipt {
    /// Returns the receipt of a deletion.
    pub fn of(deletion: &NewMessage) -> Self {
        Self {
            message_hash: deletion.message_hash,
            source: deletion.source.to_string(),
            destination: deletion.destination.to_string(),
            person: PersonDigest(deletion.lane.0),
            asked_at: deletion.received_at,
        }
    }
}

/// Where erased data may still be found, apart from the database itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteAheadLog {
    /// The log is emptied after each erasure.
    Truncated,
    /// Another program copies the log and empties it, such as Litestream.
    External,
    /// The log is PostgreSQL's, which keeps and archives it as configured there.
    Postgres,
}

impl WriteAheadLog {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            WriteAheadLog::Truncated => "truncated",
            WriteAheadLog::External => "external",
            WriteAheadLog::Postgres => "postgres",
        }
    }
}

/// Which receipts to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceiptFilter {
    /// Only receipts of this destination.
    pub destination: Option<String>,
    /// Only receipts whose erasure has not ended (true), or has (false).
    pub is_open: Option<bool>,
    /// Only receipts with lower numbers.
    pub before: Option<i64>,
}

/// Keeps the receipts.
///
/// Each message of type `delete` gets a receipt with the first attempt to delete the contact at Loops, unless
/// [`Receipts::open_receipt`] made it before. [`Work::settle`](super::Work::settle) adds how Loops responded,
/// [`Feedback::record`](super::Feedback::record) that Loops reported the deletion, and
/// [`Housekeeping::erase`](super::Housekeeping::erase) what was erased. Receipts are removed after [`RECEIPTS_KEPT`].
#[async_trait]
pub trait Receipts: Send + Sync {
    /// Makes a receipt, unless the deletion has one; returns its id.
    async fn open_receipt(&self, receipt: &NewReceipt) -> Result<String, Unavailable>;

    /// Returns the receipt with this id.
    async fn receipt(&self, id: &str) -> Result<Option<Receipt>, Unavailable>;

    /// Returns the latest receipts that meet a filter, newest first.
    async fn receipts(
        &self,
        filter: &ReceiptFilter,
        limit: u32,
    ) -> Result<Vec<Receipt>, Unavailable>;

    /// Returns how many erasures have not ended, for each destination that has some.
    async fn open_erasures(&self) -> Result<Vec<(String, u64)>, Unavailable>;

    /// Where erased data may still be found.
    fn write_ahead_log(&self) -> WriteAheadLog;
}

/// Returns a message that deletes the person with a user id or an address; `None` if the id cannot be used.
///
/// ```
/// use jiff::Timestamp;
/// use segment_loops::queue::{NewReceipt, deletion};
/// use segment_loops::segment::{Digests, MessageType, PersonIdKind};
///
/// let digests = Digests::new(&[7; 32]);
/// let delete = |kind, id| deletion(&digests, (kind, id), "default", "console", Timestamp::UNIX_EPOCH);
/// let message = delete(PersonIdKind::User, "u1").unwrap();
/// assert_eq!(message.kind, MessageType::Delete);
/// assert_eq!(NewReceipt::of(&message).person, digests.person(PersonIdKind::User, "u1"));
/// // Loops does not know anonymous ids.
/// assert!(delete(PersonIdKind::Anonymous, "a1").is_none());
/// ```
pub fn deletion(
    digests: &Digests,
    (kind, id): (PersonIdKind, &str),
    destination: &str,
    source: &str,
    now: Timestamp,
) -> Option<NewMessage> {
    let mut message = Object::new();
    message.insert("type", Value::from("delete"));
    match kind {
        PersonIdKind::User => message.insert("userId", Value::from(id)),
        PersonIdKind::Email => message.insert("email", Value::from(id)),
        PersonIdKind::Anonymous => return None,
    };
    let intake = Intake {
        digests,
        source,
        destination,
        is_bulk: false,
        kind: None,
        is_from_segment: false,
        is_sent_now: false,
        ip: None,
        message_bytes_max: DELETION_BYTES_MAX,
        takes_delete: true,
        trace: None,
    };
    let raw = Value::Object(message).to_json();
    let new_id = || format!("erasure-{}", uuid::Uuid::now_v7());
    intake.read(raw.as_bytes(), &Object::new(), now, new_id).ok()
}
