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
//! A shadowed request was not sent, because its destination was in shadow mode when its turn came. It has ended like a
//! delivered one, but Loops knows nothing of it: no contact is learned, no person is erased.
//!
//! [`Replays::replay`] sets a message that is done back to `pending`, at the end of the order. Its deliveries stay. A
//! delivery that is made again supersedes the old one, which no longer counts for the message's state.
//!
//! # What every store guarantees
//!
//! * **Durable accept.** When [`Inbox::accept`] returns, every message it reports as new is on stable
//!   storage, and so is the original of every message it reports as a duplicate.
//! * **Order.** Sequence numbers of one destination become visible in increasing order: a reader
//!   that has seen `n` never later finds a new one below `n`.
//! * **Atomic steps.** Each method is one transaction, except [`Replays::replay`], which runs several. A crash leaves
//!   each transaction either committed or without effect.
//! * **Fencing.** [`Work::freeze`], [`Work::settle`], [`Work::set_aside`] and [`Work::release`] change nothing and
//!   return [`WorkError::Fenced`] unless the given lease is still in force.
//! * **Frozen requests.** [`Work::freeze`] writes body and key before it returns. Nothing changes them afterwards.

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
    ContactClaim, IdentityConflict, KnownProperty, Learned, PROPERTIES_MAX, USERS_COUNTED_MAX,
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

/// Everything a store does: the one seam between the service and a storage engine.
///
/// An implementation keeps the promises of this module and of each method, and passes `queue/suite`. A handle may be
/// used from any task at any time. An implementation also guarantees:
///
/// * **Abandoned calls.** A caller may drop the future of a call. The transaction is then committed or has no effect,
///   and no other call notices.
/// * **Abandoned stores.** A store that is dropped without [`Store::close`], or whose process is killed, loses nothing
///   that a call has reported as stored.
/// * **Several processes.** Any number of stores may be open on the same data, in one process or in several.
///
/// ```
/// use std::collections::HashMap;
///
/// use segment_loops::clock::{Clock as _, SystemClock};
/// use segment_loops::config::{Flags, load_store};
/// use segment_loops::queue::{Accepted, Filter, MessageState, deletion};
/// use segment_loops::segment::PersonIdKind;
/// use segment_loops::store;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let flags = Flags { data: Some(folder.path().to_owned()), ..Flags::default() };
/// let store = store::open(&load_store(&flags, HashMap::new())?.store).await?;
/// let digests = store.digests();
/// let delete = |id| {
///     deletion(&digests, (PersonIdKind::User, id), "default", "app", SystemClock.now()).unwrap()
/// };
///
/// // Once this returns, both messages are on stable storage.
/// let (first, second) = (delete("u1"), delete("u2"));
/// let accepted = store.accept(vec![first.clone(), second]).await?;
/// assert_eq!(accepted, [Accepted::New, Accepted::New]);
/// assert_eq!(store.accept(vec![first]).await?, [Accepted::Duplicate]);
///
/// // A page has the newest messages first, and says where the next one begins.
/// let filter = Filter { state: Some(MessageState::Pending), ..Filter::default() };
/// let newest = store.list(&filter, None, 1).await?;
/// assert_eq!(newest.next, Some(newest.messages[0].seq));
/// let oldest = store.list(&filter, newest.next, 1).await?;
/// assert!(oldest.messages[0].seq < newest.messages[0].seq);
///
/// // A person is found by any id.
/// let filter = Filter { persons: digests.any_person("u1"), ..Filter::default() };
/// let of_u1 = store.list(&filter, None, 50).await?.messages;
/// assert_eq!(of_u1.len(), 1);
/// assert_eq!(of_u1[0].seq, oldest.messages[0].seq);
/// store.close().await;
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Store:
    Inbox + Work + Log + Replays + Feedback + Audit + Receipts + NewContacts + Housekeeping
{
    /// Finishes the calls in progress, then closes the store and leaves behind nothing but its data.
    ///
    /// Every later call returns [`Unavailable`]; closing again does nothing.
    async fn close(&self);

    /// Waits until the store has stopped writing, and returns why; `None` if it was closed. A bug, or a state in which
    /// it cannot go on safely, also stops it: then no write succeeds until the process is restarted.
    async fn ended(&self) -> Option<Unavailable>;
}

/// How much free space there is for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FreeSpace {
    /// Enough for all messages.
    #[default]
    Ample,
    /// Less than the reserve: refuse messages that can wait.
    Low,
    /// Less than half of the reserve: accept only signed messages.
    VeryLow,
    /// Almost none: accept nothing, so that deliveries can still be recorded.
    Exhausted,
}

/// Accepts messages.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Stores messages in one transaction; returns for each, in order, whether it was new.
    ///
    /// A message is a duplicate if one with the same source and message id was accepted within the
    /// duplicate window before its `received_at`, or precedes it in `messages`.
    ///
    /// Returns [`AcceptError::Full`] while the backlog is full, even if all the messages are duplicates. A single call,
    /// or other processes, may take the backlog beyond its bound.
    async fn accept(&self, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, AcceptError> {
        Ok(self.commit(messages).await?.accepted)
    }

    /// Does what [`Inbox::accept`] does, and also returns figures about the transaction.
    async fn commit(&self, messages: Vec<NewMessage>) -> Result<Committed, AcceptError>;

    /// Returns how much free space there is: a reading of the disk about a second old, less what was accepted since.
    /// [`Inbox::accept`] does not check it: its callers know which messages can wait.
    fn free_space(&self) -> FreeSpace;

    /// Returns the free bytes behind [`Inbox::free_space`]; `None` if the file system does not report them.
    fn free_bytes(&self) -> Option<u64>;
}

/// Hands work to the delivery engine, and records the outcome.
///
/// How the engine takes a message to its end:
///
/// ```
/// # use std::collections::HashMap;
/// # use std::time::Duration;
/// # use segment_loops::clock::{Clock as _, SystemClock};
/// # use segment_loops::config::{Flags, load_store};
/// use segment_loops::action::{ActionKind, Endpoint};
/// use segment_loops::queue::*;
/// # use segment_loops::segment::PersonIdKind;
/// # use segment_loops::store;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let flags = Flags { data: Some(folder.path().to_owned()), ..Flags::default() };
/// # let store = store::open(&load_store(&flags, HashMap::new())?.store).await?;
/// # let now = SystemClock.now();
/// # let message = deletion(&store.digests(), (PersonIdKind::User, "u1"), "default", "app", now).unwrap();
/// store.accept(vec![message]).await?;
///
/// // One process has the lease.
/// let ask = |holder: &str| LeaseRequest {
///     destination: "default".to_owned(),
///     holder: holder.to_owned(),
///     now,
///     ttl: Duration::from_secs(10),
/// };
/// let lease = store.lease(ask("a")).await?.unwrap();
/// assert_eq!(store.lease(ask("b")).await?, None);
///
/// // It reads what is pending, and freezes the requests before it sends any.
/// let ask = [PendingAsk { after: Seq(0), limit: 100 }; Class::COUNT];
/// let heads = store.pending("default", ask).await?.concat();
/// let job = store.open(heads[0].seq).await?.unwrap();
/// assert!(!job.is_planned);
/// let request = NewRequest {
///     endpoint: Endpoint::DeleteContact,
///     body: r#"{"userId":"u1"}"#.into(),
///     idempotency_key: None,
///     expires_at: None,
///     is_redundant: false,
/// };
/// let delivery = NewDelivery {
///     subscription: Some("Delete a contact".to_owned()),
///     action: Some(ActionKind::DeleteContact),
///     warnings: Vec::new(),
///     planned: None,
///     outcome: NewOutcome::Request(request),
/// };
/// let plan = NewPlan { now, deliveries: vec![delivery], unmatched: None };
/// let merge = NewMerge {
///     plans: vec![(heads[0].seq, plan)],
///     merged: Vec::new(),
///     claims: Vec::new(),
///     is_shadow: false,
///     cap: None,
/// };
/// let frozen = store.freeze(&lease, merge).await?;
///
/// // It records each attempt, and what follows from it.
/// let attempt = Attempt {
///     number: 1,
///     started_at: now,
///     duration: Duration::from_millis(80),
///     status: Some(200),
///     outcome: AttemptOutcome::Delivered,
///     excerpt: r#"{"success":true}"#.to_owned(),
/// };
/// let settlement = Settlement {
///     request: frozen.requests[0].id,
///     now,
///     attempt: Some(attempt),
///     consequence: Consequence::Delivered,
///     contact: None,
///     awaiting: None,
/// };
/// store.settle(&lease, settlement).await?;
/// let record = store.message(heads[0].seq).await?.unwrap();
/// assert_eq!(record.state(), MessageState::Delivered);
/// assert_eq!(store.depth("default").await?.messages, 0);
///
/// // Without the lease, nothing can be changed.
/// store.release(&lease).await?;
/// assert!(matches!(store.release(&lease).await, Err(WorkError::Fenced)));
/// # store.close().await;
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Work: Send + Sync {
    /// Takes the lease of a destination, or renews it; `None` while another process holds it.
    ///
    /// The token grows each time the lease changes hands. A process that takes its own lease again after
    /// expiry, with no other holder in between, keeps the token, so that its earlier steps stay valid. A
    /// lease whose expiry lies impossibly far ahead is free: the clock was set back.
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable>;

    /// Returns the present or last holder of a destination's lease; `None` if it was given back, or never taken.
    async fn lease_holder(&self, destination: &str) -> Result<Option<LeaseHolder>, Unavailable>;

    /// Gives the lease back, so that another process need not wait for it to expire.
    async fn release(&self, lease: &Lease) -> Result<(), WorkError>;

    /// Returns the heads of pending messages of a destination: for each class, in the order of [`Class::ALL`], lowest
    /// sequence number first. All classes are read in one snapshot. So a message that is missing from the result,
    /// unless cut off by the limit of its class, cannot precede any message in it.
    async fn pending(
        &self,
        destination: &str,
        ask: [PendingAsk; Class::COUNT],
    ) -> Result<[Vec<Head>; Class::COUNT], Unavailable>;

    /// Returns the heads of the pending messages in a bounded part of one lane.
    async fn of_lane(&self, destination: &str, ask: &LaneAsk) -> Result<LanePart, Unavailable>;

    /// Returns everything needed to work on one message: its payload and its frozen requests. `None` if it is not
    /// pending.
    async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError>;

    /// Returns the traces in which the messages of a request were accepted: one entry for each message that it carries,
    /// at most [`CARRIED_MAX`]. An entry is `None` if the message was not traced or its contents are gone.
    async fn traces(&self, request: RequestId) -> Result<Vec<Option<TraceContext>>, Unavailable>;

    /// Returns the subscriptions whose deliveries a request carries, each once, in alphabetical order.
    async fn subscriptions(&self, request: RequestId) -> Result<Vec<String>, Unavailable>;

    /// Returns the deliveries that a pending request carries, in any order, each with its own part of the request. They
    /// belong to at most [`CARRIED_MAX`] messages.
    async fn parts(&self, request: RequestId) -> Result<Vec<CarriedPart>, Unavailable>;

    /// Returns what is known of contacts of a destination. A contact of which nothing is known is left out.
    async fn contacts(
        &self,
        destination: &str,
        keys: &[PersonDigest],
    ) -> Result<Vec<Contact>, Unavailable>;

    /// Returns the contacts among these that Loops is not known to have.
    async fn unknown_contacts(
        &self,
        destination: &str,
        contacts: &[KnownContact],
    ) -> Result<Vec<KnownContact>, Unavailable>;

    /// Records in one transaction that Loops has these contacts; returns how many of them were not known before.
    async fn make_known(
        &self,
        destination: &str,
        contacts: &[KnownContact],
        now: Timestamp,
    ) -> Result<u64, Unavailable>;

    /// Returns the opt-outs of these persons: Loops reported that they left, and has not reported since that they came
    /// back. See [`Feedback::record`].
    async fn opt_outs(
        &self,
        destination: &str,
        persons: &[PersonDigest],
    ) -> Result<Vec<OptOut>, Unavailable>;

    /// Returns when a message of type `delete` last deleted one of these persons at Loops; `None` if that was before
    /// `since` or never.
    async fn deleted_at(
        &self,
        destination: &str,
        persons: &[PersonDigest],
        since: Timestamp,
    ) -> Result<Option<Timestamp>, Unavailable>;

    /// Records the plan of a message and of the neighbours that were planned with it; merged requests may carry several
    /// of their deliveries. Returns the requests of the first message, which are then on disk.
    ///
    /// The first of these requests is sent next. If it is an event, the same transaction records that its first attempt
    /// begins; the returned request does not show that yet. With [`NewMerge::is_shadow`], no attempt begins.
    ///
    /// A message without a pending delivery is done at once. It is unmatched if its plan has no deliveries and none
    /// from before a replay stands. If the first message was planned before, nothing is written.
    ///
    /// With a cap, the first message is held, and nothing else is written, if the messages would create more contacts
    /// that Loops is not known to have than there is room for. The room for today is the cap plus what was released,
    /// less the contacts that were new today and those that frozen requests may create.
    async fn freeze(&self, lease: &Lease, merge: NewMerge) -> Result<Frozen, WorkError>;

    /// Records an attempt, or its beginning, and its consequence for the request, its deliveries, its messages and what
    /// is known of its contact.
    ///
    /// A contact becomes shared if the request comes from another lane than the last request for it. If the request has
    /// an address that another contact has, both contacts become shared. If Loops has reported a change of the contact
    /// since the attempt began, nothing is learned of it.
    ///
    /// The contact is counted as new if Loops was not known to have it, by its key or its address, when the attempt
    /// began. Reports from Loops since then are ignored for this: they may be about what this attempt did.
    ///
    /// The data of some engines may go back in time, for example if a standby takes over without the last commits. Such
    /// an engine returns [`WorkError::Fenced`] if the request does not exist: the caller must read the pending messages
    /// again.
    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<Settled, WorkError>;

    /// Ends a message whose records are broken, so that it does not block its lane: its pending deliveries fail with
    /// the given reason; a message without deliveries gets a failed one. The values of contacts that its lane changed
    /// last are no longer known. Returns the message id; `None`, and changes nothing, if the message is not pending.
    async fn set_aside(
        &self,
        lease: &Lease,
        broken: BrokenMessage,
    ) -> Result<Option<String>, WorkError>;

    /// Returns the held messages of a destination, in order, with their lanes.
    async fn held_lanes(&self, destination: &str) -> Result<Vec<(Seq, LaneKey)>, Unavailable>;

    /// Returns which held messages may go on now, longest held first.
    async fn holds(&self, destination: &str, ask: HoldsAsk) -> Result<HoldsAnswer, Unavailable>;

    /// Returns the catalogue of a destination; `None` if there is none, or it is the one stored at the time `known`.
    async fn catalogue(
        &self,
        destination: &str,
        known: Option<Timestamp>,
    ) -> Result<Option<StoredCatalogue>, Unavailable>;

    /// Replaces the catalogue of the lease's destination, and adds the given entry to the audit list.
    async fn keep_catalogue(
        &self,
        lease: &Lease,
        catalogue: &StoredCatalogue,
        audit: Option<&AuditEntry>,
    ) -> Result<(), WorkError>;

    /// Returns the names of all destinations with pending messages, configured or not.
    async fn destinations(&self) -> Result<Vec<String>, Unavailable>;

    /// Returns the number and age of a destination's pending messages.
    async fn depth(&self, destination: &str) -> Result<Depth, Unavailable>;

    /// Returns a counter that changes whenever this process accepts messages: a hint to read again, never a guarantee.
    fn arrivals(&self) -> watch::Receiver<u64>;
}

/// Looks up messages and their deliveries. Reads only.
#[async_trait]
pub trait Log: Send + Sync {
    /// Returns the messages with this id (one for each source that sent it), newest first.
    async fn by_message_id(
        &self,
        hash: MessageHash,
        message_id: &str,
    ) -> Result<Vec<MessageRecord>, Unavailable>;

    /// Returns the message with this sequence number; `None` if there is none, for example since a replay gave it
    /// another number.
    async fn message(&self, seq: Seq) -> Result<Option<MessageRecord>, Unavailable>;

    /// Returns the messages with these sequence numbers, newest first. Messages that do not exist, or cannot be read,
    /// are left out.
    async fn messages(&self, seqs: &[Seq]) -> Result<Vec<MessageRecord>, Unavailable>;

    /// Returns the contents of messages, in the order of `seqs`. Messages whose contents are past their retention, or
    /// were erased, are left out. All are in memory at once, so callers ask for a few at a time.
    async fn contents(&self, seqs: &[Seq]) -> Result<Vec<Contents>, Unavailable>;

    /// Returns what requests carry, in the order of `requests`. Requests that no longer exist are left out. All bodies
    /// are in memory at once, so callers ask for a few at a time. An engine need not keep the body of a request that
    /// has ended.
    async fn request_contents(
        &self,
        requests: &[RequestId],
    ) -> Result<Vec<RequestContents>, Unavailable>;

    /// Returns the latest messages that meet a filter, newest first: at most `limit`, older than `before` if given.
    ///
    /// An index finds the messages by some of the filter's conditions; the others are then checked. Only a bounded
    /// number is checked, so a page may be short, or empty, and still say where to continue.
    async fn list(
        &self,
        filter: &Filter,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Page, Unavailable>;

    /// Returns the latest failed deliveries of the messages that meet a filter, grouped by cause, the largest group
    /// first. Only a bounded number of deliveries is read.
    async fn failures(&self, filter: &Filter) -> Result<FailureGroups, Unavailable>;

    /// Returns counts by interval, in the order of time, for intervals that begin in `[from, to)`. Counts by minute are
    /// kept for 48 hours, counts by hour as long as records.
    async fn tallies(
        &self,
        step: TallyStep,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Tally>, Unavailable>;

    /// Returns the names of events, of one source if given, most recently seen first. At most [`EVENT_NAMES_MAX`] names
    /// are kept for a source; its further names are recorded as [`OTHER_EVENTS`].
    async fn event_names(&self, source: Option<&str>) -> Result<Vec<EventName>, Unavailable>;

    /// Returns the latest conflicts between contacts since the day of `since`, newest first, at most [`CONFLICTS_MAX`];
    /// for each contact and kind, only the last day. A single change of address is not a conflict.
    async fn conflicts(&self, since: Timestamp) -> Result<Vec<IdentityConflict>, Unavailable>;

    /// Returns the processes that share the store, and the leases they hold. `now` is the current time, for a store
    /// that uses the clocks of its processes.
    async fn replicas(&self, now: Timestamp) -> Result<Replicas, Unavailable>;

    /// Returns the digests by which messages and persons are stored and found.
    fn digests(&self) -> Digests;

    /// Fails unless the store responds, can be written and has the schema of this release.
    async fn ready(&self) -> Result<(), Unavailable>;
}

/// How long a process that neither checks in nor checks out is remembered.
pub const REPLICAS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes data that is past its retention, and keeps the list of the processes that share the store.
#[async_trait]
pub trait Housekeeping: Send + Sync {
    /// Records that a process is running. Removes processes that have not checked in for [`REPLICAS_KEPT`].
    async fn check_in(&self, process: &CheckIn) -> Result<(), Unavailable>;

    /// Removes a process that is stopping from the list.
    async fn check_out(&self, name: &str) -> Result<(), Unavailable>;

    /// Deletes payloads and records that are past their retention, a bounded number in one transaction. Feedback is
    /// kept as long as records, counted from its receipt; a webhook that waits to be handed on, for [`FORWARD_KEPT`].
    /// Returns how many rows changed; zero means that nothing is left to do for now.
    ///
    /// Nothing is deleted before its retention is over. An engine may keep data up to a day and a half longer, so that
    /// it can drop a whole day at once; the suite opens its stores so that they do not wait. An engine that drops days
    /// may return zero while another process does the work.
    async fn purge(&self, now: Timestamp) -> Result<u64, Unavailable>;

    /// Deletes the contents of people whose deletion was delivered, a bounded number in one transaction: the contents
    /// of the `delete` message, and of all earlier messages of the same person and destination that are done. Returns
    /// how many rows changed; zero means that nothing is left to do for now.
    ///
    /// A deletion was delivered if a message of type `delete` is done and one of its deliveries with the action
    /// [`ActionKind::DeleteContact`](crate::action::ActionKind) was delivered. Message ids, names of events and
    /// subscriptions, states and times remain. Digests of the person do not, so only the message id still finds the
    /// record. Feedback about the person is deleted entirely, with any webhook that waits to be handed on. Once this
    /// has returned zero, and the store has been closed or some time has passed, the deleted data is overwritten, as
    /// far as the engine can do that: see docs/erasing.md. The receipt of the deletion records what was erased and, as
    /// `now`, when the erasure ended.
    async fn erase(&self, now: Timestamp) -> Result<u64, Unavailable>;

    /// Returns when the last message was received or a message was last done, whichever is later by the clock of that
    /// time; `None` if there are no messages.
    async fn newest(&self) -> Result<Option<Timestamp>, Unavailable>;
}
