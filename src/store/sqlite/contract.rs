//! Implements the queue's contract: passes each call to the writer or to a reader.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::catalogue::KeepCatalogue;
use super::erase::Erase;
use super::freeze::Freeze;
use super::group::Order;
use super::health::Next;
use super::lease::Release;
use super::list::Sought;
use super::probe::{TryToWrite, verify_in_background};
use super::recent::{Known, Wanted};
use super::replicas::CheckOut;
use super::rows::{from_ms, to_ms};
use super::set_aside::SetAside;
use super::settle::Settle;
use super::store::SqliteStore;
use super::{
    awaiting, catalogue, conflicts, contacts, erase, list, log, new_contacts, open, opt_outs,
    purge, receipts, replay, replicas,
};
use crate::queue::{
    AcceptError, AuditEntry, BrokenMessage, CarriedPart, CheckIn, Class, Committed, Contact,
    Contents, DeliveryState, Depth, EventName, FailureGroups, Filter, FreeSpace, Frozen, Head,
    HoldsAnswer, HoldsAsk, Housekeeping, IdentityConflict, Inbox, Job, KnownContact, LaneAsk,
    LanePart, Lease, LeaseHolder, LeaseRequest, Log, MessageRecord, NewMerge, NewMessage, OptOut,
    Page, PendingAsk, ReplayAsk, ReplayChunk, Replays, Replicas, RequestContents, RequestId, Seq,
    Settled, Settlement, Store, StoredCatalogue, Tally, TallyStep, Unavailable, Work, WorkError,
};
use crate::segment::{Digests, LaneKey, MessageHash, PersonDigest};
use crate::store::backlog::Size;
use crate::store::order::AcceptOrder;
use crate::store::replay::{MESSAGES_MAX, Part, Requeue, replay as replay_found};
use crate::telemetry::TraceContext;

/// How long a trial write may take when the health of the store is checked.
const TRY_TIMEOUT: Duration = Duration::from_secs(1);

#[async_trait]
impl Store for SqliteStore {
    async fn ended(&self) -> Option<Unavailable> {
        self.ended.cancelled().await;
        self.health.must_end().map(Unavailable::from)
    }

    async fn close(&self) {
        self.readers.close().await;
        self.lookups.close().await;
        let (reply, closed) = oneshot::channel();
        if self.writing.orders.send(Order::Close(reply)).is_ok() {
            // If the writer has already ended, the reply is dropped: the store is closed either way.
            let _ = closed.await;
        }
    }
}

#[async_trait]
impl Inbox for SqliteStore {
    async fn commit(&self, messages: Vec<NewMessage>) -> Result<Committed, AcceptError> {
        if messages.is_empty() {
            return Ok(Committed::default());
        }
        self.health.admit()?;
        let permits = self.room.admit(&messages)?;
        let admitted = self.backlog.admit(Size::of(&messages), &self.readers).await?;
        let admitted = admitted.ok_or(AcceptError::Full)?;
        let size = Size::of(&messages);
        self.space.accepts(size.messages, size.bytes);
        let (reply, answer) = oneshot::channel();
        let queued_at = Instant::now();
        let order = AcceptOrder { messages, queued_at, reply, permits, admitted };
        self.writing.orders.send(Order::Accept(order)).map_err(|_| self.writing.end_cause())?;
        Ok(answer.await.map_err(|_| self.writing.end_cause())??)
    }

    fn free_space(&self) -> FreeSpace {
        self.space.now()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.space.free_bytes()
    }
}

#[async_trait]
impl Work for SqliteStore {
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable> {
        Ok(self.write(ask).await?)
    }

    async fn lease_holder(&self, destination: &str) -> Result<Option<LeaseHolder>, Unavailable> {
        let destination = destination.to_owned();
        Ok(self.readers.read(move |snapshot| log::lease_holder(snapshot, &destination)).await?)
    }

    async fn release(&self, lease: &Lease) -> Result<(), WorkError> {
        Ok(self.write(Release(lease.clone())).await??)
    }

    async fn pending(
        &self,
        destination: &str,
        ask: [PendingAsk; Class::COUNT],
    ) -> Result<[Vec<Head>; Class::COUNT], Unavailable> {
        let destination = destination.to_owned();
        Ok(self.readers.read(move |snapshot| log::pending(snapshot, &destination, ask)).await?)
    }

    async fn of_lane(&self, destination: &str, ask: &LaneAsk) -> Result<LanePart, Unavailable> {
        let (destination, ask) = (destination.to_owned(), *ask);
        Ok(self.readers.read(move |snapshot| log::of_lane(snapshot, &destination, ask)).await?)
    }

    async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError> {
        let opened = self.readers.read(move |snapshot| log::open(snapshot, seq)).await?;
        let restored_from = self.restorations.since(seq.0).map(from_ms);
        Ok(opened.map(|job| Job { restored_from, ..job }))
    }

    async fn subscriptions(&self, request: RequestId) -> Result<Vec<String>, Unavailable> {
        Ok(self.readers.read(move |snapshot| log::subscriptions(snapshot, request)).await?)
    }

    async fn parts(&self, request: RequestId) -> Result<Vec<CarriedPart>, Unavailable> {
        Ok(self.readers.read(move |snapshot| log::parts(snapshot, request)).await?)
    }

    async fn traces(&self, request: RequestId) -> Result<Vec<Option<TraceContext>>, Unavailable> {
        Ok(self.readers.read(move |snapshot| log::traces(snapshot, request)).await?)
    }

    async fn contacts(
        &self,
        destination: &str,
        keys: &[PersonDigest],
    ) -> Result<Vec<Contact>, Unavailable> {
        let (destination, keys) = (destination.to_owned(), keys.to_vec());
        let read = move |snapshot: &Connection| contacts::contacts(snapshot, &destination, &keys);
        Ok(self.readers.read(read).await?)
    }

    async fn unknown_contacts(
        &self,
        destination: &str,
        contacts: &[KnownContact],
    ) -> Result<Vec<KnownContact>, Unavailable> {
        let (destination, contacts) = (destination.to_owned(), contacts.to_vec());
        let read = move |snapshot: &Connection| {
            let mut unknown = Vec::new();
            for contact in contacts {
                if !contacts::is_known(snapshot, &destination, &contact)? {
                    unknown.push(contact);
                }
            }
            Ok(unknown)
        };
        Ok(self.readers.read(read).await?)
    }

    async fn make_known(
        &self,
        destination: &str,
        contacts: &[KnownContact],
        now: Timestamp,
    ) -> Result<u64, Unavailable> {
        let (destination, contacts) = (destination.to_owned(), contacts.to_vec());
        Ok(self.write(new_contacts::MakeKnown { destination, contacts, now }).await?)
    }

    async fn opt_outs(
        &self,
        destination: &str,
        persons: &[PersonDigest],
    ) -> Result<Vec<OptOut>, Unavailable> {
        let (destination, persons) = (destination.to_owned(), persons.to_vec());
        let read = move |snapshot: &Connection| opt_outs::find(snapshot, &destination, &persons);
        Ok(self.readers.read(read).await?)
    }

    async fn deleted_at(
        &self,
        destination: &str,
        persons: &[PersonDigest],
        since: Timestamp,
    ) -> Result<Option<Timestamp>, Unavailable> {
        let (destination, persons) = (destination.to_owned(), persons.to_vec());
        let read = move |snapshot: &Connection| {
            receipts::deleted_at(snapshot, &destination, &persons, since)
        };
        Ok(self.readers.read(read).await?)
    }

    async fn freeze(&self, lease: &Lease, merge: NewMerge) -> Result<Frozen, WorkError> {
        let restorations = Arc::clone(&self.restorations);
        Ok(self.write(Freeze { lease: lease.clone(), merge, restorations }).await??)
    }

    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<Settled, WorkError> {
        Ok(self.write(Settle { lease: lease.clone(), settlement }).await??)
    }

    async fn set_aside(
        &self,
        lease: &Lease,
        broken: BrokenMessage,
    ) -> Result<Option<String>, WorkError> {
        Ok(self.write(SetAside { lease: lease.clone(), broken }).await??)
    }

    async fn held_lanes(&self, destination: &str) -> Result<Vec<(Seq, LaneKey)>, Unavailable> {
        let destination = destination.to_owned();
        let read = move |snapshot: &Connection| new_contacts::held_lanes(snapshot, &destination);
        Ok(self.readers.read(read).await?)
    }

    async fn holds(&self, destination: &str, ask: HoldsAsk) -> Result<HoldsAnswer, Unavailable> {
        let destination = destination.to_owned();
        let read = move |snapshot: &Connection| new_contacts::holds(snapshot, &destination, ask);
        Ok(self.readers.read(read).await?)
    }

    async fn catalogue(
        &self,
        destination: &str,
        known: Option<Timestamp>,
    ) -> Result<Option<StoredCatalogue>, Unavailable> {
        let (destination, known) = (destination.to_owned(), known.map(to_ms));
        let read = move |snapshot: &Connection| catalogue::find(snapshot, &destination, known);
        Ok(self.lookups.read(read).await?)
    }

    async fn keep_catalogue(
        &self,
        lease: &Lease,
        catalogue: &StoredCatalogue,
        audit: Option<&AuditEntry>,
    ) -> Result<(), WorkError> {
        let (lease, catalogue, audit) = (lease.clone(), catalogue.clone(), audit.cloned());
        Ok(self.write(KeepCatalogue { lease, catalogue, audit }).await??)
    }

    async fn destinations(&self) -> Result<Vec<String>, Unavailable> {
        Ok(self.readers.read(log::destinations).await?)
    }

    async fn depth(&self, destination: &str) -> Result<Depth, Unavailable> {
        let destination = destination.to_owned();
        Ok(self.lookups.read(move |snapshot| log::depth(snapshot, &destination)).await?)
    }

    fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.clone()
    }
}

#[async_trait]
impl Log for SqliteStore {
    async fn by_message_id(
        &self,
        hash: MessageHash,
        message_id: &str,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        let message_id = message_id.to_owned();
        // Must come before the snapshot.
        let known = self.writing.find(Wanted::Id(hash.0)).await;
        let read =
            move |snapshot: &Connection| log::by_message_id(snapshot, hash, &message_id, &known);
        Ok(self.lookups.read(read).await?)
    }

    async fn message(&self, seq: Seq) -> Result<Option<MessageRecord>, Unavailable> {
        Ok(self.lookups.read(move |snapshot| log::message(snapshot, seq)).await?)
    }

    async fn messages(&self, seqs: &[Seq]) -> Result<Vec<MessageRecord>, Unavailable> {
        let seqs: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
        Ok(self.lookups.read(move |snapshot| list::messages(snapshot, &seqs)).await?)
    }

    async fn contents(&self, seqs: &[Seq]) -> Result<Vec<Contents>, Unavailable> {
        let seqs = seqs.to_vec();
        Ok(self.lookups.read(move |snapshot| log::contents(snapshot, &seqs)).await?)
    }

    async fn request_contents(
        &self,
        requests: &[RequestId],
    ) -> Result<Vec<RequestContents>, Unavailable> {
        let requests = requests.to_vec();
        let read = move |snapshot: &Connection| log::request_contents(snapshot, &requests);
        Ok(self.lookups.read(read).await?)
    }

    async fn list(
        &self,
        filter: &Filter,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Page, Unavailable> {
        let sought = self.sought(filter).await;
        Ok(self.lookups.read(move |snapshot| list::list(snapshot, &sought, before, limit)).await?)
    }

    async fn failures(&self, filter: &Filter) -> Result<FailureGroups, Unavailable> {
        let sought = self.sought(filter).await;
        Ok(self.lookups.read(move |snapshot| list::failures(snapshot, &sought)).await?)
    }

    async fn tallies(
        &self,
        step: TallyStep,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Tally>, Unavailable> {
        Ok(self.lookups.read(move |snapshot| list::tallies(snapshot, step, from, to)).await?)
    }

    async fn event_names(&self, source: Option<&str>) -> Result<Vec<EventName>, Unavailable> {
        let source = source.map(str::to_owned);
        let read = move |snapshot: &Connection| list::event_names(snapshot, source.as_deref());
        Ok(self.lookups.read(read).await?)
    }

    async fn conflicts(&self, since: Timestamp) -> Result<Vec<IdentityConflict>, Unavailable> {
        Ok(self.lookups.read(move |snapshot| conflicts::latest(snapshot, since)).await?)
    }

    async fn replicas(&self, now: Timestamp) -> Result<Replicas, Unavailable> {
        Ok(self.lookups.read(move |snapshot| replicas::replicas(snapshot, now)).await?)
    }

    fn digests(&self) -> Digests {
        self.digests.clone()
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        let (why, bytes) = match self.health.next() {
            // A healthy store is checked without a write.
            Next::Read => {
                self.readers.read(open::check_schema).await?;
                return match self.space.now() {
                    FreeSpace::Exhausted => Err(Unavailable(AcceptError::Reserved.into())),
                    FreeSpace::Ample | FreeSpace::Low | FreeSpace::VeryLow => Ok(()),
                };
            }
            Next::Write { why, bytes } => (why, bytes),
            Next::Verify { why } => {
                verify_in_background(self.lookups.clone(), Arc::clone(&self.health));
                return Err(why.into());
            }
            Next::Wait { why } => return Err(why.into()),
        };
        match tokio::time::timeout(TRY_TIMEOUT, self.write(TryToWrite { bytes })).await {
            Ok(tried) => tried?,
            Err(_) => return Err(why.into()),
        }
        // Messages may be refused although a step was written.
        Ok(self.health.admit()?)
    }
}

#[async_trait]
impl Replays for SqliteStore {
    async fn replay(&self, ask: &ReplayAsk) -> Result<ReplayChunk, Unavailable> {
        let (question, digests) = (ask.clone(), self.digests.clone());
        let find = move |snapshot: &Connection| replay::find(snapshot, &question, &digests);
        let found = self.lookups.read(find).await?;
        replay_found(self, ask, found).await
    }

    async fn revive(&self, now: Timestamp) -> Result<Vec<String>, Unavailable> {
        let due = self.readers.read(|snapshot| awaiting::due(snapshot, MESSAGES_MAX));
        let mut revived = Vec::new();
        for due in due.await? {
            let requeue = replay::Requeue {
                seqs: vec![due.seq],
                only: Some(DeliveryState::Failed),
                subscription: Some(due.subscription),
                again: None,
                is_revival: true,
                now,
            };
            let size = Size { messages: 1, bytes: due.payload_bytes };
            if self.make_pending(requeue, size).await? > 0 {
                revived.push(due.destination);
            }
        }
        Ok(revived)
    }
}

impl Requeue for SqliteStore {
    async fn requeue(&self, ask: &ReplayAsk, part: Part) -> Result<u64, Unavailable> {
        let size = part.size();
        let requeue = replay::Requeue {
            seqs: part.seqs,
            only: ask.selection.state.only(),
            subscription: ask.selection.filter.subscription.clone(),
            again: part.again.map(|names| serde_json::Value::from(names).to_string()),
            is_revival: false,
            now: ask.now,
        };
        Ok(self.make_pending(requeue, size).await?)
    }
}

#[async_trait]
impl Housekeeping for SqliteStore {
    async fn check_in(&self, process: &CheckIn) -> Result<(), Unavailable> {
        Ok(self.write(process.clone()).await?)
    }

    async fn check_out(&self, name: &str) -> Result<(), Unavailable> {
        Ok(self.write(CheckOut(name.to_owned())).await?)
    }

    async fn purge(&self, now: Timestamp) -> Result<u64, Unavailable> {
        Ok(self.write(purge::Purge { now, retention: self.retention }).await?)
    }

    async fn erase(&self, now: Timestamp) -> Result<u64, Unavailable> {
        let behind = self.erase_behind.load(Ordering::Relaxed);
        let next = move |snapshot: &Connection| erase::next_deletion(snapshot, behind);
        let Some(deletion) = self.lookups.read(next).await? else {
            // The next round retries the failed ones.
            self.erase_behind.store(0, Ordering::Relaxed);
            return Ok(0);
        };
        let seq = deletion.seq;
        // A reader does the searching, so that the writer need not.
        let erased =
            match self.lookups.read(move |snapshot| Erase::of(snapshot, deletion, now)).await {
                Ok(part) => self.write(part).await,
                Err(fault) => Err(fault),
            };
        if erased.is_err() {
            self.erase_behind.store(seq, Ordering::Relaxed);
        }
        Ok(erased?)
    }

    async fn newest(&self) -> Result<Option<Timestamp>, Unavailable> {
        Ok(self.lookups.read(purge::newest).await?)
    }
}

impl SqliteStore {
    /// Resolves a filter. Must be called before the snapshot is made.
    async fn sought(&self, filter: &Filter) -> Sought {
        let persons: Vec<i64> = filter.persons.iter().map(|person| person.0).collect();
        let known = match persons.is_empty() {
            true => Known::default(),
            false => self.writing.find(Wanted::Persons(persons)).await,
        };
        Sought { filter: filter.clone(), known }
    }
}
