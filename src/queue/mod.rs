//! The contract of the durable queue: the states of a message, and what every store must guarantee.
//! Knows no SQL, no HTTP and no Loops.
//!
//! # States
//!
//! A *message* is `pending` until all its deliveries have ended, then `done`. Planning a message
//! creates its *deliveries*, one for each subscription that took it; a delivery is carried by a
//! *request*, or fails at once. A message that no subscription took is `done` with a reason: unmatched.
//!
//! ```text
//! message:   pending ──► done            delivery:  pending ──► delivered | shadowed | failed
//! request:   pending ──► delivered | shadowed | failed
//! ```
//!
//! What is shadowed was not sent, since its destination was in shadow mode when its turn came. It has ended like what
//! was delivered, but Loops knows nothing of it: no contact is learned, no person is erased.
//!
//! [`Replays::replay`] sets a message that is done back to `pending`, at the end of the order. Its
//! deliveries stay; those that are made again are superseded and no longer count for its state.
//!
//! # What every store guarantees
//!
//! * **Durable accept.** When [`Inbox::accept`] returns, every message it reports as new is on stable
//!   storage, and so is the original of every message it reports as a duplicate.
//! * **Order.** Sequence numbers of one destination become visible in increasing order: a reader
//!   that has seen `n` never later finds a new one below `n`.
//! * **Atomic steps.** Each method is one transaction, except [`Replays::replay`], which is a few. A crash
//!   leaves a transaction done or not done.
//! * **Fencing.** [`Work::freeze`], [`Work::settle`], [`Work::set_aside`] and [`Work::release`] change nothing
//!   and return [`WorkError::Fenced`] unless the given lease is still in force.
//! * **Frozen requests.** [`Work::freeze`] writes body and key before it returns; nothing changes
//!   them afterwards.

mod ask;
mod attempt;
mod audit;
mod catalogue;
mod consent;
pub(crate) mod contacts;
mod delivery;
mod error;
mod failure;
mod feedback;
pub mod intake;
mod lease;
mod message;
mod new_contacts;
mod order;
mod pending;
mod plan;
mod receipts;
mod replay;
mod request;
mod settlement;
mod status;
#[cfg(test)]
pub(crate) mod suite;

pub use ask::*;
pub use attempt::*;
pub use audit::*;
pub use catalogue::StoredCatalogue;
pub(crate) use consent::ConsentReport;
pub use consent::{OptIn, OptOut};
pub use contacts::{
    CONFLICT_DAYS, CONFLICTS_MAX, CONTACTS_KEPT, ConflictKind, Contact, ContactChange,
    ContactClaim, IdentityConflict, KnownProperty, Learned, PROPERTIES_MAX,
};
pub use delivery::*;
pub use error::*;
pub use failure::*;
pub use feedback::*;
pub use lease::*;
pub use message::*;
pub use new_contacts::*;
pub use order::*;
pub use pending::*;
pub use plan::*;
pub use receipts::*;
pub use replay::*;
pub use request::*;
pub use settlement::*;
pub use status::*;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::segment::{Digests, LaneKey, MessageHash, PersonDigest};
use crate::telemetry::TraceContext;

/// Everything a store does: the one seam between the service and an engine that stores.
///
/// An implementation keeps the promises of this module and of each method, and passes the suite beside it.
/// All handles may be used from any task at any time. In addition, it guarantees:
///
/// * **Abandoned calls.** A caller may drop the future of a call. The step is then done or not done, and no
///   other call notices.
/// * **Abandoned stores.** A store that is dropped without [`Store::close`], or whose process is killed, loses
///   nothing that a call has reported as stored.
/// * **Several processes.** Any number of stores may be open on the same data, in one process or in several.
#[async_trait]
pub trait Store:
    Inbox + Work + Log + Replays + Feedback + Audit + Receipts + NewContacts + Housekeeping
{
    /// Finishes the calls that are under way, then closes the store and leaves behind nothing but its data.
    ///
    /// Every later call returns [`Unavailable`]; closing again does nothing.
    async fn close(&self);

    /// Waits until the store has stopped writing: because it was closed, because of a bug of ours, or because it
    /// cannot go on safely, and then returns why. Unless it was closed, no write succeeds until the process is
    /// started again.
    async fn ended(&self) -> Option<Unavailable>;
}

/// How much free space there is for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FreeSpace {
    /// Enough for all.
    #[default]
    Ample,
    /// Less than the reserve: refuse messages that can wait.
    Low,
    /// Less than half of the reserve: accept only signed messages.
    VeryLow,
    /// Hardly any: accept nothing, so that deliveries can still be recorded.
    Exhausted,
}

/// Accepts messages.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Stores messages, all in one transaction; returns for each, in order, whether it was new.
    ///
    /// A message is a duplicate if one with the same source and message id was accepted within the
    /// duplicate window before its `received_at`, or precedes it in `messages`.
    ///
    /// Returns [`AcceptError::Full`] while the backlog is full, for duplicates too. The messages of one
    /// call, and those of other processes, may exceed the bound.
    async fn accept(&self, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, AcceptError> {
        Ok(self.commit(messages).await?.accepted)
    }

    /// Does what [`Inbox::accept`] does, and returns what the transaction was like, too.
    async fn commit(&self, messages: Vec<NewMessage>) -> Result<Committed, AcceptError>;

    /// How much free space there is, by a look at the disk a second ago and what was accepted since.
    /// [`Inbox::accept`] does not look at it: callers know which messages can wait.
    fn free_space(&self) -> FreeSpace;

    /// The bytes behind [`Inbox::free_space`]; `None` if the file system does not report them.
    fn free_bytes(&self) -> Option<u64>;
}

/// Hands work to the delivery engine and records its outcome.
#[async_trait]
pub trait Work: Send + Sync {
    /// Takes the lease of a destination, or renews it; `None` while another process holds it.
    ///
    /// The token grows each time the lease changes hands. A process that takes its own lease again after
    /// expiry, with no other holder in between, keeps the token, so that its earlier steps stay valid. A
    /// lease whose expiry lies impossibly far ahead is free: the clock was set back.
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable>;

    /// The present or last holder of a destination's lease; `None` if it was given back, or never taken.
    async fn lease_holder(&self, destination: &str) -> Result<Option<LeaseHolder>, Unavailable>;

    /// Gives the lease back, so that another process need not wait for it to run out.
    async fn release(&self, lease: &Lease) -> Result<(), WorkError>;

    /// Heads of pending messages of a destination, for each class in the order of [`Class::ALL`], lowest
    /// sequence number first. All classes are read in one snapshot: unless the limit of its class cut it
    /// off, a message that is missing from the result cannot precede any message in it.
    async fn pending(
        &self,
        destination: &str,
        ask: [PendingAsk; Class::COUNT],
    ) -> Result<[Vec<Head>; Class::COUNT], Unavailable>;

    /// Heads of the pending messages in a bounded part of one lane.
    async fn of_lane(&self, destination: &str, ask: &LaneAsk) -> Result<LanePart, Unavailable>;

    /// Everything needed to work on one message: its payload and its frozen requests. `None` if it is not
    /// pending.
    async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError>;

    /// The traces in which the messages of a request were accepted: one entry for each message that it carries, at most
    /// [`CARRIED_MAX`], `None` for one that was not traced or whose contents are gone.
    async fn traces(&self, request: RequestId) -> Result<Vec<Option<TraceContext>>, Unavailable>;

    /// The subscriptions whose deliveries a request carries, each once, in alphabetical order.
    async fn subscriptions(&self, request: RequestId) -> Result<Vec<String>, Unavailable>;

    /// The deliveries that a pending request carries, each with its own part of it, in any order. Of at most
    /// [`CARRIED_MAX`] messages.
    async fn parts(&self, request: RequestId) -> Result<Vec<CarriedPart>, Unavailable>;

    /// What is known of contacts of a destination; those of which nothing is known are left out.
    async fn contacts(
        &self,
        destination: &str,
        keys: &[PersonDigest],
    ) -> Result<Vec<Contact>, Unavailable>;

    /// Those of these contacts that Loops is not known to have.
    async fn unknown_contacts(
        &self,
        destination: &str,
        contacts: &[KnownContact],
    ) -> Result<Vec<KnownContact>, Unavailable>;

    /// Records that Loops has these contacts, all in one transaction; returns how many of them were not known before.
    async fn make_known(
        &self,
        destination: &str,
        contacts: &[KnownContact],
        now: Timestamp,
    ) -> Result<u64, Unavailable>;

    /// Which of these persons left, as far as Loops reported it and has not reported that they came back: see
    /// [`Feedback::record`].
    async fn opt_outs(
        &self,
        destination: &str,
        persons: &[PersonDigest],
    ) -> Result<Vec<OptOut>, Unavailable>;

    /// When one of these persons was last deleted at Loops by a message of type `delete`, if that was not before `since`.
    async fn deleted_at(
        &self,
        destination: &str,
        persons: &[PersonDigest],
        since: Timestamp,
    ) -> Result<Option<Timestamp>, Unavailable>;

    /// Records the plan of a message and of the neighbours that were planned with it; merged requests may
    /// carry several of their deliveries. Returns the requests of the first message, which are then on
    /// disk. The first of them is sent next: if it is an event, its first attempt begins on disk, though not in
    /// what is returned. A message without a pending delivery is done at once: it is unmatched if its plan has no
    /// deliveries, and none from before a replay stands. If the first message was planned before, nothing is
    /// written. With [`NewMerge::is_shadow`], no attempt begins.
    ///
    /// With a cap, if the messages would create contacts that Loops is not known to have, more of them than there is
    /// room for, the first message is held, and nothing else is written. There is room as long as fewer contacts than the cap allows,
    /// with what was released, were new today or may be created by frozen requests.
    async fn freeze(&self, lease: &Lease, merge: NewMerge) -> Result<Frozen, WorkError>;

    /// Records an attempt, or that one begins, and its consequence for the request, its deliveries, its messages and
    /// what is known of its contact.
    ///
    /// A request of another lane than the last one for the contact, or with an address that another contact has, makes
    /// its contact, and that one, shared. Nothing is learned of a contact that Loops reported to have changed since the
    /// attempt began.
    ///
    /// A contact that Loops was not known to have when the attempt began, by its key or its address, is counted as new. What
    /// Loops reported of it since then may be what this attempt did, so it does not count.
    ///
    /// If the request is not there, an engine whose data may go back in time, as when a standby takes over that lacks
    /// the last commits, returns [`WorkError::Fenced`]: what is pending must be read again.
    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<Settled, WorkError>;

    /// Ends a message whose records are broken, so that it does not block its lane: its pending deliveries
    /// fail with the given reason; a message without deliveries gets a failed one. The values of contacts that its
    /// lane changed last are no longer known. Returns the message id.
    /// Does nothing and returns `None` if the message is not pending.
    async fn set_aside(
        &self,
        lease: &Lease,
        broken: BrokenMessage,
    ) -> Result<Option<String>, WorkError>;

    /// The messages of a destination that are held, in order, with their lanes.
    async fn held_lanes(&self, destination: &str) -> Result<Vec<(Seq, LaneKey)>, Unavailable>;

    /// Which messages that are held may go on now. Those that were held first are first.
    async fn holds(&self, destination: &str, ask: HoldsAsk) -> Result<HoldsAnswer, Unavailable>;

    /// The catalogue of a destination, unless it is the one that was stored at the time `known`.
    async fn catalogue(
        &self,
        destination: &str,
        known: Option<Timestamp>,
    ) -> Result<Option<StoredCatalogue>, Unavailable>;

    /// Replaces the catalogue of the lease's destination, and adds to the audit list what was changed at
    /// Loops, if anything.
    async fn keep_catalogue(
        &self,
        lease: &Lease,
        catalogue: &StoredCatalogue,
        audit: Option<&AuditEntry>,
    ) -> Result<(), WorkError>;

    /// The names of all destinations with pending messages, configured or not.
    async fn destinations(&self) -> Result<Vec<String>, Unavailable>;

    /// The number and age of a destination's pending messages.
    async fn depth(&self, destination: &str) -> Result<Depth, Unavailable>;

    /// Changes whenever this process accepts messages: a hint to read again, never a guarantee.
    fn arrivals(&self) -> watch::Receiver<u64>;
}

/// Looks up messages and their deliveries. Reads only.
#[async_trait]
pub trait Log: Send + Sync {
    /// The messages with this id (one for each source that sent it), newest first.
    async fn by_message_id(
        &self,
        hash: MessageHash,
        message_id: &str,
    ) -> Result<Vec<MessageRecord>, Unavailable>;

    /// The message with this sequence number; `None` if there is none, or it has another number since a replay.
    async fn message(&self, seq: Seq) -> Result<Option<MessageRecord>, Unavailable>;

    /// The messages with these sequence numbers, newest first. Those that are not there, or cannot be read, are left out.
    async fn messages(&self, seqs: &[Seq]) -> Result<Vec<MessageRecord>, Unavailable>;

    /// The contents of messages, in the order of `seqs`. Those without contents are left out: their retention is
    /// over, or they were erased. All are in memory at once, so callers ask for a few at a time.
    async fn contents(&self, seqs: &[Seq]) -> Result<Vec<Contents>, Unavailable>;

    /// What requests carry, in the order of `requests`. Those that are gone are left out. All bodies are in memory at
    /// once, so callers ask for a few at a time. An engine need not keep the body of a request that has ended.
    async fn request_contents(
        &self,
        requests: &[RequestId],
    ) -> Result<Vec<RequestContents>, Unavailable>;

    /// The latest messages that meet a filter, newest first: at most `limit`, older than `before` if given.
    ///
    /// The messages are those that an index of the filter's conditions finds, checked against the others.
    /// A bounded number is checked, so a page may be short, or empty, and still name where to continue.
    async fn list(
        &self,
        filter: &Filter,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Page, Unavailable>;

    /// The latest failed deliveries of the messages that meet a filter, grouped by cause, the largest group
    /// first. A bounded number of deliveries is read.
    async fn failures(&self, filter: &Filter) -> Result<FailureGroups, Unavailable>;

    /// Counts by interval, in the order of time, for intervals that begin in `[from, to)`. Those by minute
    /// are kept for 48 hours, those by hour as long as records.
    async fn tallies(
        &self,
        step: TallyStep,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Tally>, Unavailable>;

    /// The names of events, of one source if given, the one seen last first: at most
    /// [`EVENT_NAMES_MAX`] a source, whose further names are counted under [`OTHER_EVENTS`].
    async fn event_names(&self, source: Option<&str>) -> Result<Vec<EventName>, Unavailable>;

    /// The latest conflicts between contacts since the day of `since`, the newest first, at most [`CONFLICTS_MAX`]; of
    /// each contact and kind, the last day. A single change of an address is none.
    async fn conflicts(&self, since: Timestamp) -> Result<Vec<IdentityConflict>, Unavailable>;

    /// The processes that share the store, and the leases they hold. `now` is the current time, for a store that goes
    /// by the clocks of its processes.
    async fn replicas(&self, now: Timestamp) -> Result<Replicas, Unavailable>;

    /// Makes the digests by which messages and persons are stored and found.
    fn digests(&self) -> Digests;

    /// Fails unless the store responds, can be written and has the schema of this release.
    async fn ready(&self) -> Result<(), Unavailable>;
}

/// How long a process that neither checks in nor checks out is remembered.
pub const REPLICAS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes data that is past its retention, and keeps the list of the processes that share the store.
#[async_trait]
pub trait Housekeeping: Send + Sync {
    /// Records that a process is running. Removes those that were not seen for [`REPLICAS_KEPT`].
    async fn check_in(&self, process: &CheckIn) -> Result<(), Unavailable>;

    /// Removes a process that ends from the list.
    async fn check_out(&self, name: &str) -> Result<(), Unavailable>;

    /// Deletes payloads and records that are past their retention, a bounded number in one transaction. Feedback
    /// is kept as long as records, from when it was received; what is to be handed on of it for [`FORWARD_KEPT`].
    /// Returns how many rows it changed; zero means that nothing is left to do for now.
    ///
    /// Nothing goes before its retention is over. An engine may keep it up to a day and a half longer, so that it can
    /// drop the data of a whole day at once; the suite opens its stores so that they do not wait. One that drops
    /// days may return zero while another process does the work.
    async fn purge(&self, now: Timestamp) -> Result<u64, Unavailable>;

    /// Deletes the contents of people whose deletion was delivered, a bounded number in one transaction:
    /// those of the `delete` message, and of all earlier messages of the same person and destination that
    /// are done. Returns how many rows it changed; zero means that nothing is left to do for now.
    ///
    /// A deletion was delivered if a message of type `delete` is done and one of its deliveries with the
    /// action [`ActionKind::DeleteContact`](crate::action::ActionKind) was delivered. Message ids, names of
    /// events and subscriptions, states and times remain; digests of the person do not, so that only the
    /// message id still finds the record. Feedback about the person is deleted whole, with what was to be handed on
    /// of it. After zero was returned and the store was closed,
    /// or some time has passed, what was deleted is overwritten, as far as the engine can do that: see
    /// docs/erasing.md. The receipt of the deletion notes what was erased, and with `now` when that ended.
    async fn erase(&self, now: Timestamp) -> Result<u64, Unavailable>;

    /// Returns when the last message was received, or a message was done, whichever was later by the clock of that
    /// time; `None` if there are no messages.
    async fn newest(&self) -> Result<Option<Timestamp>, Unavailable>;
}
