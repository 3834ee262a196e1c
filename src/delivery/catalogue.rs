//! Keeps the catalogue of a destination: the contact properties, mailing lists and event names that exist at Loops.
//!
//! Only the holder of the lease reads it, one request at a time, in slots that no message wants. A reading that has
//! waited [`PATIENCE`] for a slot takes the next one, so that a long backlog does not keep the catalogue from being
//! read. The result is stored and becomes part of the destination's planner. If reading fails, the last catalogue stays
//! in force.
//!
//! A catalogue may be older than a property that was created a minute ago. So before a step leaves out, changes or
//! fails anything because of the catalogue, it asks for the properties to be read again, and waits
//! ([`Wishes::trust`](super::wishes::Wishes::trust)).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use metrics::gauge;
use tokio::task::Id;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::lease::HeldLease;
use super::stepper::Stepper;
use super::wishes::Purpose;
use crate::destination::{Catalogue, CatalogueRecord, ContactProperty};
use crate::loops::{ReadError, Slot};
use crate::queue::{AuditAction, AuditEntry, StoredCatalogue, WorkError};
use crate::telemetry;

/// How long a reading waits for a slot that no message wants.
const PATIENCE: Duration = Duration::from_secs(60);

/// The wait after a failure. It doubles with each further failure, up to the time between two readings.
const RETRY_WAIT_MIN: Duration = Duration::from_secs(60);

/// The most pages of event names that are read, of fifty names each. A longer list is incomplete.
const EVENT_PAGES_MAX: u32 = 40;

/// The next request of a reading.
#[derive(Debug)]
enum Next {
    Create,
    Properties,
    Lists,
    Events { cursor: Option<String>, pages: u32 },
    Nothing,
}

/// Why a reading failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] WorkError),
}

/// A reading in progress, made of one request after another.
#[derive(Debug)]
pub(super) struct Reading {
    purpose: Purpose,
    next: Next,
    record: CatalogueRecord,
    events: Vec<String>,
    has_properties: bool,
    audit: Option<AuditEntry>,
    failed: Option<Failed>,
}

impl Reading {
    fn new(purpose: Purpose, record: CatalogueRecord) -> Self {
        let next = match purpose {
            Purpose::Refresh | Purpose::Check => Next::Properties,
            Purpose::Create(_) => Next::Create,
        };
        Self {
            purpose,
            next,
            record,
            events: Vec::new(),
            has_properties: false,
            audit: None,
            failed: None,
        }
    }

    /// Makes one request. After the last one, stores the catalogue and puts it in force.
    pub(super) async fn step(mut self, stepper: &Stepper, held: &HeldLease, slot: Slot) -> Self {
        // Nothing is lost: the process that holds the lease now reads the catalogue too.
        if !held.is_certain() {
            return self;
        }
        let client = &stepper.client;
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Create => self.create(stepper, held, &slot).await,
            Next::Properties => {
                match client.contact_properties(&slot).await {
                    Ok(read) => {
                        self.record.set_properties(read, stepper.clock.now());
                        self.has_properties = true;
                        self.go_on(Next::Lists);
                    }
                    Err(error) => self.fail(error, Next::Lists),
                };
            }
            Next::Lists => {
                let events = Next::Events { cursor: None, pages: 0 };
                match client.mailing_lists(&slot).await {
                    Ok(read) => {
                        self.record.set_lists(read, stepper.clock.now());
                        self.go_on(events);
                    }
                    Err(error) => self.fail(error, events),
                };
            }
            Next::Events { cursor, pages } => {
                match client.event_names(&slot, cursor.as_deref()).await {
                    Ok((names, next)) => {
                        self.events.extend(names);
                        let is_new = next.is_some() && next != cursor;
                        if is_new && pages + 1 < EVENT_PAGES_MAX {
                            self.next = Next::Events { cursor: next, pages: pages + 1 };
                        } else {
                            let events = std::mem::take(&mut self.events);
                            let now = stepper.clock.now();
                            self.record.set_events(events, next.is_none(), now);
                        }
                    }
                    Err(error) => self.fail(error, Next::Nothing),
                };
            }
            Next::Nothing => {}
        }
        // The next request may have to wait long.
        drop(slot);
        if self.is_done() {
            self.keep(stepper, held).await;
        }
        self
    }

    fn is_done(&self) -> bool {
        matches!(self.next, Next::Nothing)
    }

    fn go_on(&mut self, next: Next) {
        if self.purpose == Purpose::Refresh {
            self.next = next;
        }
    }

    /// Notes a failure. If it affects only one part, for example a missing endpoint, the other parts are still read.
    fn fail(&mut self, error: ReadError, next: Next) {
        let is_of_part = match &error {
            ReadError::Status(status) => {
                (400..500).contains(status) && !matches!(status, 401 | 403 | 408 | 429)
            }
            ReadError::Unreadable => true,
            ReadError::Call(_) => false,
        };
        self.failed = Some(error.into());
        if is_of_part {
            self.go_on(next);
        }
    }

    /// Creates a property. The attempt is stored first, so that the limit holds whatever happens.
    async fn create(&mut self, stepper: &Stepper, held: &HeldLease, slot: &Slot) {
        let Purpose::Create(ContactProperty { name, kind: Some(kind) }) = &self.purpose else {
            return;
        };
        let (name, kind) = (name.clone(), *kind);
        self.record.note_created(&name, stepper.clock.now());
        self.keep(stepper, held).await;
        if self.failed.is_some() {
            return;
        }
        let reply = stepper.client.create_property(slot, &name, kind).await;
        let result = match &reply.result {
            Ok(answer) if answer.status < 300 && answer.success != Some(false) => {
                "created".to_owned()
            }
            Ok(answer) => format!("refused by Loops with the status {}", answer.status),
            Err(fault) => format!("unknown: {fault}"),
        };
        info!(
            destination = stepper.name,
            property = name,
            kind = kind.as_str(),
            result,
            "tried to create a contact property that Loops lacks"
        );
        let arguments = serde_json::json!({
            "destination": stepper.name, "property": name, "type": kind.as_str(),
        });
        self.audit = Some(AuditEntry {
            at: stepper.clock.now(),
            role: "service".to_owned(),
            session: String::new(),
            process: held.lease.holder.clone(),
            action: AuditAction::CreateProperty,
            arguments: arguments.to_string(),
            result,
        });
        self.next = Next::Properties;
    }

    /// Stores the catalogue, and puts it in force.
    async fn keep(&mut self, stepper: &Stepper, held: &HeldLease) {
        let catalogue = Arc::new(Catalogue::new(self.record.clone()));
        stepper.destination.send_modify(|current| {
            *current = Arc::new(current.with_catalogue(Some(catalogue)));
        });
        if let Some(read_at) = self.record.read_at() {
            let age = stepper.clock.age(read_at).as_secs_f64();
            gauge!(telemetry::CATALOGUE_AGE, "destination" => stepper.name.clone()).set(age);
        }
        let kept = match stored(stepper.account(), &self.record, stepper.clock.now()) {
            Some(stored) => {
                stepper.queue.keep_catalogue(&held.lease, &stored, self.audit.as_ref()).await
            }
            None => Ok(()),
        };
        if let Err(fault) = kept {
            self.failed = Some(fault.into());
        }
    }
}

/// Returns a catalogue as it is stored.
fn stored(account: i64, record: &CatalogueRecord, now: Timestamp) -> Option<StoredCatalogue> {
    let record = serde_json::to_string(record).ok()?;
    Some(StoredCatalogue { account, kept_at: now, record })
}

/// Decides when the catalogue is read, while this process holds the lease.
pub(super) struct CatalogueKeeper {
    stepper: Arc<Stepper>,
    /// When the next reading is due.
    due_at: Instant,
    /// The reading that waits for a slot, and since when.
    waiting: Option<(Reading, Instant)>,
    /// The task of a running request.
    task: Option<Id>,
    /// How many readings failed in a row.
    failures: u32,
    has_tried: bool,
}

/// The urgency of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It takes a slot before messages.
    Now,
    /// It takes a slot when no message wants one.
    AfterMessages,
}

impl CatalogueKeeper {
    pub(super) fn new(stepper: &Arc<Stepper>) -> Self {
        let mut keeper = Self {
            stepper: Arc::clone(stepper),
            due_at: Instant::now(),
            waiting: None,
            task: None,
            failures: 0,
            has_tried: false,
        };
        let destination = stepper.destination.borrow();
        if let Some(read_at) = destination.catalogue().and_then(|one| one.record().read_at()) {
            let age = stepper.clock.age(read_at);
            keeper.due_at += destination.options().catalogue.refresh.saturating_sub(age);
        }
        drop(destination);
        keeper
    }

    /// Returns whether delivery must wait for the first catalogue: mappings refer to mailing lists by name.
    pub(super) fn comes_first(&self) -> bool {
        let destination = self.stepper.destination.borrow();
        !self.has_tried
            && destination.catalogue().is_none()
            && !destination.options().catalogue.refresh.is_zero()
            && destination.names_lists()
    }

    /// Returns how urgent the due reading is; `None` if none is due.
    pub(super) fn turn(&mut self, now: Instant) -> Option<Turn> {
        if self.task.is_some() {
            return None;
        }
        let destination = Arc::clone(&self.stepper.destination.borrow());
        if destination.options().catalogue.refresh.is_zero() {
            self.waiting = None;
            return None;
        }
        if self.waiting.is_none() {
            let purpose = match self.stepper.wishes.take() {
                Some(wish) => wish,
                None if now >= self.due_at => Purpose::Refresh,
                None => return None,
            };
            let record = destination.catalogue().map(|one| one.record().clone());
            self.waiting = Some((Reading::new(purpose, record.unwrap_or_default()), now));
        }
        let (reading, since) = self.waiting.as_ref()?;
        // A waiting step must not wait for a slow refresh.
        let is_urgent = reading.purpose != Purpose::Refresh
            || self.comes_first()
            || self.stepper.wishes.are_pending();
        Some(match is_urgent || now >= *since + PATIENCE {
            true => Turn::Now,
            false => Turn::AfterMessages,
        })
    }

    /// Takes the reading whose next request is to be made.
    pub(super) fn take(&mut self) -> Option<Reading> {
        self.waiting.take().map(|(reading, _)| reading)
    }

    pub(super) fn begun(&mut self, task: Id) {
        self.task = Some(task);
    }

    /// Returns whether this task makes the running request.
    pub(super) fn is_task(&self, task: Id) -> bool {
        self.task == Some(task)
    }

    /// Notes that the running request panicked: the reading is lost.
    pub(super) fn panicked(&mut self) {
        self.task = None;
        self.stepper.wishes.checked(false);
        self.fail();
    }

    /// Takes a reading back after its request was made.
    pub(super) fn give_back(&mut self, reading: Reading) {
        self.task = None;
        if !reading.is_done() {
            self.waiting = Some((reading, Instant::now()));
            return;
        }
        let Reading { purpose, has_properties, failed, .. } = reading;
        if purpose != Purpose::Refresh {
            self.stepper.wishes.checked(has_properties);
            return;
        }
        let destination = &self.stepper.name;
        match failed {
            None => {
                if self.failures > 0 {
                    info!(destination, "the catalogue of Loops can be read again");
                }
                self.failures = 0;
                self.has_tried = true;
                self.due_at = Instant::now() + self.refresh();
            }
            Some(failed) => {
                if self.failures == 0 {
                    match &failed {
                        Failed::Read(fault) => warn!(
                            destination,
                            error = %telemetry::chain(fault),
                            "the catalogue of Loops cannot be read: the last one stays in force; trying again"
                        ),
                        Failed::Store(fault) => error!(
                            destination,
                            error = %telemetry::chain(fault),
                            "the catalogue of Loops cannot be stored; trying again"
                        ),
                    }
                }
                self.fail();
            }
        }
    }

    fn fail(&mut self) {
        let wait = RETRY_WAIT_MIN * 2_u32.saturating_pow(self.failures.min(10));
        self.failures += 1;
        self.has_tried = true;
        self.due_at = Instant::now() + wait.min(self.refresh());
    }

    fn refresh(&self) -> Duration {
        self.stepper.destination.borrow().options().catalogue.refresh
    }
}
