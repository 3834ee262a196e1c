//! A process's store: the real one, with failures. Every call completes before simulated time advances.

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use super::runtime::{engine, wait};
use super::world::{Access, FlakyStore};
use crate::queue::{
    AcceptError, Audit, AuditEntry, AuditRecord, BrokenMessage, CarriedPart, CheckIn, Class,
    Committed, Consequence, Contact, Contents, Depth, EventName, FailureGroups, Feedback,
    FeedbackRecord, Filter, Forward, FreeSpace, Frozen, Head, HoldsAnswer, HoldsAsk, Housekeeping,
    IdentityConflict, Inbox, Job, KnownContact, LaneAsk, LanePart, Lease, LeaseHolder,
    LeaseRequest, Log, MessageRecord, NewContacts, NewContactsDay, NewFeedback, NewMerge,
    NewMessage, NewReceipt, OptOut, Page, PendingAsk, Receipt, ReceiptFilter, Receipts, Recorded,
    ReplayAsk, ReplayChunk, Replays, Replicas, RequestContents, RequestId, Seq, Settled,
    Settlement, Store, StoredCatalogue, Tally, TallyStep, Unavailable, Work, WorkError,
    WriteAheadLog,
};
use crate::segment::{Digests, LaneKey, MessageHash, PersonDigest};
use crate::telemetry::TraceContext;

impl FlakyStore {
    /// Makes a call. At random, it is late, fails, or succeeds with its response lost, and the process crashes before
    /// or after it.
    async fn call<T, E: From<Unavailable>>(
        &self,
        name: &'static str,
        access: Access,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        self.process.pass(&self.world, name).await;
        if self.world.store_fails(access) {
            self.note(name, "in vain");
            return Err(Unavailable("simulated: nothing was done".into()).into());
        }
        let answer = wait(engine().handle(), call);
        self.note(name, if answer.is_ok() { "done" } else { "not done" });
        self.process.pass(&self.world, name).await;
        if access == Access::Write && self.world.loses_answer() {
            self.note(name, "answer lost");
            return Err(Unavailable("simulated: the answer was lost".into()).into());
        }
        answer
    }

    fn note(&self, name: &str, what: &str) {
        self.world.trace(format_args!("{} {name}: {what}", self.process.name));
    }

    /// Makes a step under a lease. If it changed something, no other process may have been given the lease before that.
    async fn step<T>(
        &self,
        name: &'static str,
        lease: &Lease,
        call: impl Future<Output = Result<T, WorkError>> + Send,
    ) -> Result<T, WorkError> {
        let watched = async {
            let answer = call.await;
            if answer.is_ok() {
                self.world.ledger().stepped(name, lease);
            }
            answer
        };
        self.call(name, Access::Write, watched).await
    }
}

#[async_trait]
impl Store for FlakyStore {
    async fn close(&self) {
        wait(engine().handle(), self.inner.close());
    }

    async fn ended(&self) -> Option<Unavailable> {
        std::future::pending().await
    }
}

#[async_trait]
impl Inbox for FlakyStore {
    async fn commit(&self, messages: Vec<NewMessage>) -> Result<Committed, AcceptError> {
        let ids: Vec<String> = messages.iter().map(|message| message.message_id.clone()).collect();
        if self.world.store_fails(Access::Read) {
            self.note("accept", "too busy");
            return Err(AcceptError::Busy);
        }
        let watched = async {
            let answer = self.inner.commit(messages).await;
            if let Ok(committed) = &answer {
                self.world.ledger().accepted(&ids, &committed.accepted);
            }
            answer
        };
        self.call("accept", Access::Write, watched).await
    }

    fn free_space(&self) -> FreeSpace {
        FreeSpace::Ample
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

#[async_trait]
impl Work for FlakyStore {
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable> {
        let watched = async {
            let answer = self.inner.lease(ask).await;
            if let Ok(Some(lease)) = &answer {
                self.world.ledger().leased(lease);
            }
            answer
        };
        self.call("lease", Access::Write, watched).await
    }

    async fn lease_holder(&self, destination: &str) -> Result<Option<LeaseHolder>, Unavailable> {
        self.call("lease_holder", Access::Read, self.inner.lease_holder(destination)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), WorkError> {
        self.step("release", lease, self.inner.release(lease)).await
    }

    async fn pending(
        &self,
        destination: &str,
        ask: [PendingAsk; Class::COUNT],
    ) -> Result<[Vec<Head>; Class::COUNT], Unavailable> {
        self.call("pending", Access::Read, self.inner.pending(destination, ask)).await
    }

    async fn of_lane(&self, destination: &str, ask: &LaneAsk) -> Result<LanePart, Unavailable> {
        self.call("of_lane", Access::Read, self.inner.of_lane(destination, ask)).await
    }

    async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError> {
        let job = self.call("open", Access::Read, self.inner.open(seq)).await?;
        self.world.ledger().frozen(job.as_ref().map_or(&[], |job| &job.requests));
        Ok(job)
    }

    async fn subscriptions(&self, request: RequestId) -> Result<Vec<String>, Unavailable> {
        self.call("subscriptions", Access::Read, self.inner.subscriptions(request)).await
    }

    async fn parts(&self, request: RequestId) -> Result<Vec<CarriedPart>, Unavailable> {
        self.call("parts", Access::Read, self.inner.parts(request)).await
    }

    async fn traces(&self, request: RequestId) -> Result<Vec<Option<TraceContext>>, Unavailable> {
        self.call("traces", Access::Read, self.inner.traces(request)).await
    }

    async fn contacts(
        &self,
        destination: &str,
        keys: &[PersonDigest],
    ) -> Result<Vec<Contact>, Unavailable> {
        self.call("contacts", Access::Read, self.inner.contacts(destination, keys)).await
    }

    async fn unknown_contacts(
        &self,
        destination: &str,
        contacts: &[KnownContact],
    ) -> Result<Vec<KnownContact>, Unavailable> {
        let call = self.inner.unknown_contacts(destination, contacts);
        self.call("unknown_contacts", Access::Read, call).await
    }

    async fn make_known(
        &self,
        destination: &str,
        contacts: &[KnownContact],
        now: Timestamp,
    ) -> Result<u64, Unavailable> {
        let call = self.inner.make_known(destination, contacts, now);
        self.call("make_known", Access::Write, call).await
    }

    async fn opt_outs(
        &self,
        destination: &str,
        persons: &[PersonDigest],
    ) -> Result<Vec<OptOut>, Unavailable> {
        self.call("opt_outs", Access::Read, self.inner.opt_outs(destination, persons)).await
    }

    async fn deleted_at(
        &self,
        destination: &str,
        persons: &[PersonDigest],
        since: Timestamp,
    ) -> Result<Option<Timestamp>, Unavailable> {
        let call = self.inner.deleted_at(destination, persons, since);
        self.call("deleted_at", Access::Read, call).await
    }

    async fn freeze(&self, lease: &Lease, merge: NewMerge) -> Result<Frozen, WorkError> {
        let watched = async {
            let frozen = self.inner.freeze(lease, merge).await?;
            let mut ledger = self.world.ledger();
            ledger.frozen(&frozen.requests);
            if let Some(next) = frozen.requests.first() {
                ledger.begun(next.id);
            }
            Ok(frozen)
        };
        self.step("freeze", lease, watched).await
    }

    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<Settled, WorkError> {
        let request = settlement.request;
        let begins = settlement.consequence == Consequence::Begin;
        let watched = async {
            let answer = self.inner.settle(lease, settlement).await;
            if answer.is_ok() && begins {
                self.world.ledger().begun(request);
            }
            answer
        };
        self.step("settle", lease, watched).await
    }

    async fn set_aside(
        &self,
        lease: &Lease,
        broken: BrokenMessage,
    ) -> Result<Option<String>, WorkError> {
        self.world.violate(format!("message {} was set aside: {broken:?}", broken.seq.0));
        self.step("set_aside", lease, self.inner.set_aside(lease, broken)).await
    }

    async fn held_lanes(&self, destination: &str) -> Result<Vec<(Seq, LaneKey)>, Unavailable> {
        self.call("held_lanes", Access::Read, self.inner.held_lanes(destination)).await
    }

    async fn holds(&self, destination: &str, ask: HoldsAsk) -> Result<HoldsAnswer, Unavailable> {
        self.call("holds", Access::Read, self.inner.holds(destination, ask)).await
    }

    async fn catalogue(
        &self,
        destination: &str,
        known: Option<Timestamp>,
    ) -> Result<Option<StoredCatalogue>, Unavailable> {
        self.call("catalogue", Access::Read, self.inner.catalogue(destination, known)).await
    }

    async fn keep_catalogue(
        &self,
        lease: &Lease,
        catalogue: &StoredCatalogue,
        audit: Option<&AuditEntry>,
    ) -> Result<(), WorkError> {
        let kept = self.inner.keep_catalogue(lease, catalogue, audit);
        self.step("keep_catalogue", lease, kept).await
    }

    async fn destinations(&self) -> Result<Vec<String>, Unavailable> {
        self.call("destinations", Access::Read, self.inner.destinations()).await
    }

    async fn depth(&self, destination: &str) -> Result<Depth, Unavailable> {
        self.call("depth", Access::Read, self.inner.depth(destination)).await
    }

    fn arrivals(&self) -> watch::Receiver<u64> {
        self.inner.arrivals()
    }
}

#[async_trait]
impl Log for FlakyStore {
    async fn by_message_id(
        &self,
        hash: MessageHash,
        message_id: &str,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        wait(engine().handle(), self.inner.by_message_id(hash, message_id))
    }

    async fn message(&self, seq: Seq) -> Result<Option<MessageRecord>, Unavailable> {
        wait(engine().handle(), self.inner.message(seq))
    }

    async fn messages(&self, seqs: &[Seq]) -> Result<Vec<MessageRecord>, Unavailable> {
        wait(engine().handle(), self.inner.messages(seqs))
    }

    async fn contents(&self, seqs: &[Seq]) -> Result<Vec<Contents>, Unavailable> {
        wait(engine().handle(), self.inner.contents(seqs))
    }

    async fn request_contents(
        &self,
        requests: &[RequestId],
    ) -> Result<Vec<RequestContents>, Unavailable> {
        wait(engine().handle(), self.inner.request_contents(requests))
    }

    async fn list(
        &self,
        filter: &Filter,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Page, Unavailable> {
        wait(engine().handle(), self.inner.list(filter, before, limit))
    }

    async fn failures(&self, filter: &Filter) -> Result<FailureGroups, Unavailable> {
        wait(engine().handle(), self.inner.failures(filter))
    }

    async fn tallies(
        &self,
        step: TallyStep,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Tally>, Unavailable> {
        wait(engine().handle(), self.inner.tallies(step, from, to))
    }

    async fn event_names(&self, source: Option<&str>) -> Result<Vec<EventName>, Unavailable> {
        wait(engine().handle(), self.inner.event_names(source))
    }

    async fn conflicts(&self, since: Timestamp) -> Result<Vec<IdentityConflict>, Unavailable> {
        wait(engine().handle(), self.inner.conflicts(since))
    }

    async fn replicas(&self, now: Timestamp) -> Result<Replicas, Unavailable> {
        wait(engine().handle(), self.inner.replicas(now))
    }

    fn digests(&self) -> Digests {
        self.inner.digests()
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        wait(engine().handle(), self.inner.ready())
    }
}

#[async_trait]
impl Replays for FlakyStore {
    async fn replay(&self, ask: &ReplayAsk) -> Result<ReplayChunk, Unavailable> {
        self.call("replay", Access::Write, self.inner.replay(ask)).await
    }

    async fn revive(&self, now: Timestamp) -> Result<Vec<String>, Unavailable> {
        self.call("revive", Access::Write, self.inner.revive(now)).await
    }
}

#[async_trait]
impl Feedback for FlakyStore {
    async fn record(&self, feedback: NewFeedback) -> Result<Recorded, Unavailable> {
        self.call("record", Access::Write, self.inner.record(feedback)).await
    }

    async fn by_person(
        &self,
        persons: &[PersonDigest],
        limit: u32,
    ) -> Result<Vec<FeedbackRecord>, Unavailable> {
        self.call("by_person", Access::Read, self.inner.by_person(persons, limit)).await
    }

    async fn by_destination(
        &self,
        destination: &str,
        limit: u32,
    ) -> Result<Vec<FeedbackRecord>, Unavailable> {
        self.call("by_destination", Access::Read, self.inner.by_destination(destination, limit))
            .await
    }

    async fn last_heard(&self, destination: &str) -> Result<Option<Timestamp>, Unavailable> {
        self.call("last_heard", Access::Read, self.inner.last_heard(destination)).await
    }

    async fn take_forwards(
        &self,
        destination: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Forward>, Unavailable> {
        let call = self.inner.take_forwards(destination, now, limit);
        self.call("take_forwards", Access::Write, call).await
    }

    async fn end_forward(&self, destination: &str, webhook_id: &str) -> Result<(), Unavailable> {
        let call = self.inner.end_forward(destination, webhook_id);
        self.call("end_forward", Access::Write, call).await
    }
}

#[async_trait]
impl Audit for FlakyStore {
    async fn audit(&self, entry: &AuditEntry) -> Result<(), Unavailable> {
        wait(engine().handle(), self.inner.audit(entry))
    }

    async fn audit_list(
        &self,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, Unavailable> {
        wait(engine().handle(), self.inner.audit_list(before, limit))
    }
}

#[async_trait]
impl Receipts for FlakyStore {
    async fn open_receipt(&self, receipt: &NewReceipt) -> Result<String, Unavailable> {
        self.call("open_receipt", Access::Write, self.inner.open_receipt(receipt)).await
    }

    async fn receipt(&self, id: &str) -> Result<Option<Receipt>, Unavailable> {
        self.call("receipt", Access::Read, self.inner.receipt(id)).await
    }

    async fn receipts(
        &self,
        filter: &ReceiptFilter,
        limit: u32,
    ) -> Result<Vec<Receipt>, Unavailable> {
        self.call("receipts", Access::Read, self.inner.receipts(filter, limit)).await
    }

    async fn open_erasures(&self) -> Result<Vec<(String, u64)>, Unavailable> {
        self.call("open_erasures", Access::Read, self.inner.open_erasures()).await
    }

    fn write_ahead_log(&self) -> WriteAheadLog {
        self.inner.write_ahead_log()
    }
}

#[async_trait]
impl NewContacts for FlakyStore {
    async fn new_contacts(&self, now: Timestamp) -> Result<Vec<NewContactsDay>, Unavailable> {
        self.call("new_contacts", Access::Read, self.inner.new_contacts(now)).await
    }

    async fn count_held(&self, destination: &str) -> Result<(u64, Option<Timestamp>), Unavailable> {
        self.call("count_held", Access::Read, self.inner.count_held(destination)).await
    }

    async fn knows_any(&self, destination: &str) -> Result<bool, Unavailable> {
        self.call("knows_any", Access::Read, self.inner.knows_any(destination)).await
    }

    async fn release_contacts(
        &self,
        destination: &str,
        count: u32,
        now: Timestamp,
    ) -> Result<(), Unavailable> {
        let call = self.inner.release_contacts(destination, count, now);
        self.call("release_contacts", Access::Write, call).await
    }

    async fn discard_held(
        &self,
        destination: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<u64, Unavailable> {
        let call = self.inner.discard_held(destination, since, now);
        self.call("discard_held", Access::Write, call).await
    }
}

#[async_trait]
impl Housekeeping for FlakyStore {
    async fn check_in(&self, process: &CheckIn) -> Result<(), Unavailable> {
        wait(engine().handle(), self.inner.check_in(process))
    }

    async fn check_out(&self, name: &str) -> Result<(), Unavailable> {
        wait(engine().handle(), self.inner.check_out(name))
    }

    async fn purge(&self, now: Timestamp) -> Result<u64, Unavailable> {
        self.call("purge", Access::Write, self.inner.purge(now)).await
    }

    async fn erase(&self, now: Timestamp) -> Result<u64, Unavailable> {
        self.call("erase", Access::Write, self.inner.erase(now)).await
    }

    async fn newest(&self) -> Result<Option<Timestamp>, Unavailable> {
        self.call("newest", Access::Read, self.inner.newest()).await
    }
}
