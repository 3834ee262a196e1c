//! The work of the engines.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::watch;

use crate::queue::{
    AuditEntry, BrokenMessage, CarriedPart, Class, Contact, Depth, Frozen, Head, HoldsAnswer,
    HoldsAsk, Job, KnownContact, LaneAsk, LanePart, Lease, LeaseHolder, LeaseRequest, NewMerge,
    OptOut, PendingAsk, RequestId, Seq, Settled, Settlement, StoredCatalogue, Unavailable, Work,
    WorkError,
};
use crate::segment::{LaneKey, PersonDigest};
use crate::store::sqlite::catalogue::{self, KeepCatalogue};
use crate::store::sqlite::freeze::Freeze;
use crate::store::sqlite::lease::Release;
use crate::store::sqlite::rows::{from_ms, to_ms};
use crate::store::sqlite::set_aside::SetAside;
use crate::store::sqlite::settle::Settle;
use crate::store::sqlite::store::SqliteStore;
use crate::store::sqlite::{contacts, log, new_contacts, opt_outs, receipts};
use crate::telemetry::TraceContext;

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
