//! The contract of the durable queue: what is kept of a message on its way, and what every store
//! must guarantee. No SQL here, no HTTP, no Loops.
//!
//! # What is kept
//!
//! A *message* is `pending` until all its deliveries have ended, then `done`. Planning a message
//! makes its *deliveries*, one for each subscription that took it; a delivery is carried by a
//! *request*, or failed at once. A message that nothing took is `done` with a reason: unmatched.
//!
//! ```text
//! message:   pending ──► done            delivery:  pending ──► delivered | failed
//! request:   pending ──► delivered | failed
//! ```
//!
//! [`Replays::replay`] takes a message that is done back to `pending`, at the end of the order. Its
//! deliveries stay; those that are to be made again are superseded and no longer tell its state.
//!
//! # What every store guarantees
//!
//! * **Durable accept.** When [`Inbox::accept`] returns, every message it calls new is on stable
//!   storage, and every one it calls a duplicate has its original there.
//! * **Order.** Sequence numbers of one destination become visible in increasing order: a reader
//!   that has seen `n` never later finds a new one below `n`.
//! * **Atomic steps.** Each method is one transaction. A crash leaves it done or not done.
//! * **Fencing.** [`Work::freeze`], [`Work::settle`], [`Work::set_aside`] and [`Work::release`] do nothing and say
//!   [`WorkError::Fenced`] unless the lease they are given is still the one in force.
//! * **Frozen requests.** [`Work::freeze`] writes body and key before it returns; nothing changes
//!   them afterwards.

pub mod intake;
mod records;
mod replay;

pub use records::*;
pub use replay::*;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::segment::{MessageHash, PersonHash};

/// The store cannot be read or written (full disk, lost database): try again later.
#[derive(Debug, thiserror::Error)]
#[error("the store does not work")]
pub struct Unavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Why messages were not accepted, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Too much is waiting to be written: the sender must come again later.
    #[error("the queue takes no more messages at the moment")]
    Busy,
    /// Too many messages are waiting to be delivered: the sender must come again much later.
    #[error(
        "as many messages are waiting to be delivered as may wait: see what holds them up, or raise store.backlog_messages_max"
    )]
    Full,
    /// Nothing can be stored at the moment.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a step of the delivery was not made, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// Another process holds the lease: stop delivering for this destination.
    #[error("the lease was lost to another process")]
    Fenced,
    /// The store does not work: try the same again later.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The records of this message contradict each other, or this release cannot read them: trying
    /// again would end the same way, so the message must be set aside.
    #[error("the records of the message are broken")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Takes messages in.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Stores messages, all in one transaction; answers for each, in order, whether it was new.
    ///
    /// A message is a duplicate when one of the same source and message id was accepted within the
    /// duplicate window before its `received_at`, or stands earlier in `messages`.
    ///
    /// While as many messages are pending as may be, it says [`AcceptError::Full`], duplicate or not.
    /// The bound may be passed by the messages of a call, and by those of other processes.
    async fn accept(&self, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, AcceptError>;
}

/// Hands work to the delivery engine and records what became of it.
#[async_trait]
pub trait Work: Send + Sync {
    /// Takes the lease of a destination, or renews it; `None` while another process holds it.
    ///
    /// The token grows each time the lease changes hands. A process that takes it again after it ran
    /// out has the same one, if nobody else had it meanwhile: what it did before still counts. A lease
    /// that runs out much later than any could by this clock is nobody's: the clock was set back.
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable>;

    /// Who has the lease of a destination, or had it last; `None` when it was given back, or never taken.
    async fn lease_holder(&self, destination: &str) -> Result<Option<LeaseHolder>, Unavailable>;

    /// Gives the lease back, so that another process need not wait for it to run out.
    async fn release(&self, lease: &Lease) -> Result<(), WorkError>;

    /// Heads of pending messages of a destination, for each class in the order of [`Class::ALL`], lowest
    /// sequence number first. All of one moment: what is not among them although it was asked for and
    /// there was room does not stand before any of them.
    async fn pending(
        &self,
        destination: &str,
        ask: [PendingAsk; Class::COUNT],
    ) -> Result<[Vec<Head>; Class::COUNT], Unavailable>;

    /// Heads of the pending messages of one lane, of a bounded part of it.
    async fn of_lane(&self, destination: &str, ask: &LaneAsk) -> Result<LanePart, Unavailable>;

    /// Everything needed to work on one message: its payload, and the requests already made of it.
    /// `None` when it is not pending (any more).
    async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError>;

    /// Records how a message was planned, and with it neighbours of its lane, some of whose deliveries may
    /// be carried by merged requests. Answers the requests of the first message, which are on disk then,
    /// in the order of its deliveries. A message is done at once when none of its deliveries is pending.
    /// If the first message was planned before, nothing is written.
    async fn freeze(&self, lease: &Lease, merge: NewMerge)
    -> Result<Vec<FrozenRequest>, WorkError>;

    /// Records an attempt and its consequence, for the request, its deliveries and its messages.
    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<(), WorkError>;

    /// Ends a message whose records are broken, so that others need not wait for it: its pending deliveries
    /// fail with the given reason; a message without any gets a failed delivery of its own. Returns the
    /// message id; `None`, and nothing is written, when the message is not pending (any more).
    async fn set_aside(
        &self,
        lease: &Lease,
        broken: BrokenMessage,
    ) -> Result<Option<String>, WorkError>;

    /// The names of all destinations for which something is pending, configured or not.
    async fn destinations(&self) -> Result<Vec<String>, Unavailable>;

    /// How much is pending for a destination.
    async fn depth(&self, destination: &str) -> Result<Depth, Unavailable>;

    /// Changes whenever messages were accepted in this process: a hint to look, never a promise.
    fn arrivals(&self) -> watch::Receiver<u64>;
}

/// Answers what became of messages. Reads only.
#[async_trait]
pub trait Log: Send + Sync {
    /// The messages with this id (one for each source that sent it), newest first.
    async fn by_message_id(
        &self,
        hash: MessageHash,
        message_id: &str,
    ) -> Result<Vec<MessageRecord>, Unavailable>;

    /// The latest messages of a person, newest first, at most `limit`, older than `before` if given.
    async fn by_person(
        &self,
        person: PersonHash,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Vec<MessageRecord>, Unavailable>;

    /// Fails unless the store answers and has the schema of this release.
    async fn ready(&self) -> Result<(), Unavailable>;
}

/// Removes what was kept long enough.
#[async_trait]
pub trait Housekeeping: Send + Sync {
    /// Deletes payloads and records that are past their time, a bounded number in one transaction.
    /// Answers how many rows it touched: zero means that nothing is left to do for now.
    async fn purge(&self, now: Timestamp) -> Result<u64, Unavailable>;

    /// Deletes the contents of people whose deletion was delivered, a bounded number in one
    /// transaction: those of the `delete` message, and of all messages of the same person and
    /// destination before it that are done. Answers how many rows it touched: zero means that
    /// nothing is left to do for now.
    ///
    /// A deletion was delivered when a message of type `delete` is done, and a delivery of it whose
    /// action is [`ActionKind::DeleteContact`](crate::action::ActionKind) was delivered. What remains are ids of messages, digests, names
    /// of subscriptions, states and times. Once zero was answered and the store was closed, or some
    /// time has passed, the file holds nothing else of the person.
    async fn erase(&self) -> Result<u64, Unavailable>;
}
