//! The work of the engines.

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::queue::{
    AuditEntry, BrokenMessage, CarriedPart, Class, Contact, Depth, Frozen, Head, HoldsAnswer,
    HoldsAsk, Job, KnownContact, LaneAsk, LanePart, Lease, LeaseHolder, LeaseRequest, NewMerge,
    OptOut, PendingAsk, RequestId, Seq, Settled, Settlement, StoredCatalogue, Unavailable, Work,
    WorkError,
};
use crate::segment::{LaneKey, PersonDigest};
use crate::store::postgres::catalogue::{self, KeepCatalogue};
use crate::store::postgres::freeze::Freeze;
use crate::store::postgres::rows::to_ms;
use crate::store::postgres::set_aside::SetAside;
use crate::store::postgres::settle::Settle;
use crate::store::postgres::store::PostgresStore;
use crate::store::postgres::{contacts, contents, lease, new_contacts, opt_outs, receipts, work};
use crate::telemetry::TraceContext;

#[async_trait]
impl Work for PostgresStore {
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable> {
        let destination = ask.destination.clone();
        let asked = lease::request(&self.leasing, &ask, self.time).await;
        self.hints.leased(&destination, matches!(asked, Ok(Some(_))));
        Ok(asked?)
    }

    async fn lease_holder(&self, destination: &str) -> Result<Option<LeaseHolder>, Unavailable> {
        let connection = self.readers.get().await?;
        let found = lease::lease_holder(&connection, destination).await?;
        connection.give_back();
        Ok(found)
    }

    async fn release(&self, lease: &Lease) -> Result<(), WorkError> {
        self.hints.leased(&lease.destination, false);
        Ok(lease::release(&self.leasing, lease).await??)
    }

    async fn pending(
        &self,
        destination: &str,
        ask: [PendingAsk; Class::COUNT],
    ) -> Result<[Vec<Head>; Class::COUNT], Unavailable> {
        let connection = self.readers.get().await?;
        let found = work::pending(&connection, destination, ask).await?;
        connection.give_back();
        Ok(found)
    }

    async fn of_lane(&self, destination: &str, ask: &LaneAsk) -> Result<LanePart, Unavailable> {
        let connection = self.readers.get().await?;
        let found = work::of_lane(&connection, destination, *ask).await?;
        connection.give_back();
        Ok(found)
    }

    async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError> {
        let snapshot = self.readers.snapshot().await?;
        let found = work::open(&snapshot, seq).await?;
        snapshot.end().await?;
        Ok(found)
    }

    async fn subscriptions(&self, request: RequestId) -> Result<Vec<String>, Unavailable> {
        let connection = self.readers.get().await?;
        let subscriptions = contents::subscriptions(&connection, request).await?;
        connection.give_back();
        Ok(subscriptions)
    }

    async fn parts(&self, request: RequestId) -> Result<Vec<CarriedPart>, Unavailable> {
        let snapshot = self.readers.snapshot().await?;
        let parts = contents::parts(&snapshot, request).await?;
        snapshot.end().await?;
        Ok(parts)
    }

    async fn traces(&self, request: RequestId) -> Result<Vec<Option<TraceContext>>, Unavailable> {
        let connection = self.readers.get().await?;
        let traces = contents::traces(&connection, request).await?;
        connection.give_back();
        Ok(traces)
    }

    async fn contacts(
        &self,
        destination: &str,
        keys: &[PersonDigest],
    ) -> Result<Vec<Contact>, Unavailable> {
        let connection = self.readers.get().await?;
        let found = contacts::contacts(&connection, destination, keys).await?;
        connection.give_back();
        Ok(found)
    }

    async fn unknown_contacts(
        &self,
        destination: &str,
        contacts: &[KnownContact],
    ) -> Result<Vec<KnownContact>, Unavailable> {
        let connection = self.readers.get().await?;
        let mut unknown = Vec::new();
        for contact in contacts {
            let ids = (contact.key, contact.email);
            if !contacts::is_known(&connection, destination, ids, i64::MAX).await? {
                unknown.push(*contact);
            }
        }
        connection.give_back();
        Ok(unknown)
    }

    async fn make_known(
        &self,
        destination: &str,
        contacts: &[KnownContact],
        now: Timestamp,
    ) -> Result<u64, Unavailable> {
        let (destination, mut contacts) = (destination.to_owned(), contacts.to_vec());
        contacts.sort_unstable_by_key(|contact| contact.key);
        Ok(self.write(new_contacts::MakeKnown { destination, contacts, now }).await?)
    }

    async fn opt_outs(
        &self,
        destination: &str,
        persons: &[PersonDigest],
    ) -> Result<Vec<OptOut>, Unavailable> {
        let connection = self.readers.get().await?;
        let found = opt_outs::find(&connection, destination, persons).await?;
        connection.give_back();
        Ok(found)
    }

    async fn deleted_at(
        &self,
        destination: &str,
        persons: &[PersonDigest],
        since: Timestamp,
    ) -> Result<Option<Timestamp>, Unavailable> {
        let connection = self.readers.get().await?;
        let found = receipts::deleted_at(&connection, destination, persons, since).await?;
        connection.give_back();
        Ok(found)
    }

    async fn freeze(&self, lease: &Lease, merge: NewMerge) -> Result<Frozen, WorkError> {
        Ok(self.write(Freeze { lease: lease.clone(), merge }).await??)
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
        let connection = self.readers.get().await?;
        let found = new_contacts::held_lanes(&connection, destination).await?;
        connection.give_back();
        Ok(found)
    }

    async fn holds(&self, destination: &str, ask: HoldsAsk) -> Result<HoldsAnswer, Unavailable> {
        let snapshot = self.readers.snapshot().await?;
        let found = new_contacts::holds(&snapshot, destination, ask).await?;
        snapshot.end().await?;
        Ok(found)
    }

    async fn catalogue(
        &self,
        destination: &str,
        known: Option<Timestamp>,
    ) -> Result<Option<StoredCatalogue>, Unavailable> {
        let connection = self.lookups.get().await?;
        let found = catalogue::find(&connection, destination, known.map(to_ms)).await?;
        connection.give_back();
        Ok(found)
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
        let connection = self.readers.get().await?;
        let found = work::destinations(&connection).await?;
        connection.give_back();
        Ok(found)
    }

    async fn depth(&self, destination: &str) -> Result<Depth, Unavailable> {
        let snapshot = self.lookups.snapshot().await?;
        let depth = work::depth(&snapshot, destination).await?;
        snapshot.end().await?;
        Ok(depth)
    }

    fn arrivals(&self) -> watch::Receiver<u64> {
        self.hints.arrivals()
    }
}
