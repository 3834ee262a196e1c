//! The steps of a lane. A step opens the lane's first message, plans and freezes it unless that is done, and
//! makes one attempt at its first pending request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tracing::error;

use super::consent::opt_ins;
use super::knowledge::Facts;
use super::lanes::Turn;
use super::lease::{HeldLease, LeaseLost};
use super::planning::{Freezing, Prepared};
use super::room::{Place, is_large};
use super::stepper::{Hopeless, Load, STORE_FAULT_WAIT, StepEnd, Stepper};
use super::union::object;
use super::verdict::{Due, Next};
use crate::destination::{ConsentGuard, Stale};
use crate::loops::Slot;
use crate::queue::{FrozenRequest, Job, OptIn, Unavailable, WorkError};
use crate::telemetry;

/// How long a lane waits before it checks whether the catalogue that its message needs has been read.
const CATALOGUE_WAIT: Duration = Duration::from_millis(200);

impl Stepper {
    /// Makes one step. A large message needs a place, which the step takes unless it is given one. If there is nothing
    /// to send, the slot is given back unused.
    pub(super) async fn step(
        &self,
        held: &HeldLease,
        turn: &Turn,
        place: Option<Place>,
        slot: Slot,
    ) -> Result<StepEnd, LeaseLost> {
        match self.try_step(held, turn, place, slot).await {
            Ok(end) => Ok(end),
            Err(WorkError::Fenced) => Err(LeaseLost),
            Err(WorkError::Broken(fault)) => {
                self.set_aside(&held.lease, turn.head.seq, Hopeless::Broken(&*fault)).await
            }
            Err(WorkError::Unavailable(fault)) => {
                error!(
                    destination = self.name,
                    seq = turn.head.seq.0,
                    error = %telemetry::chain(&fault),
                    "the store failed; trying again"
                );
                Ok(Next::Wait(STORE_FAULT_WAIT).into())
            }
        }
    }

    async fn try_step(
        &self,
        held: &HeldLease,
        turn: &Turn,
        place: Option<Place>,
        slot: Slot,
    ) -> Result<StepEnd, WorkError> {
        let lease = &held.lease;
        let seq = turn.head.seq;
        // A reload takes effect with the next step.
        let is_shadow = self.destination.borrow().is_shadow();
        let mut preparing = Some(self.room.prepare().await);
        let began_at = self.clock.now();
        let Some(mut job) = self.queue.open(seq).await? else {
            return Ok(Next::Finish.into());
        };
        let requests_bytes = job.requests.iter().map(|request| request.body.len()).sum::<usize>();
        let mut neighbours = &*turn.neighbours;
        let place = if is_large(job.payload.len() + requests_bytes) {
            let Some(place) = place.or_else(|| self.large.take()) else {
                return Ok(Next::NoRoom.into());
            };
            // A large message may wait long for its turn to be decoded. Small messages must not wait for it.
            preparing = None;
            neighbours = &[];
            Some(place)
        } else {
            None
        };
        let requests = match (job.is_planned, job.requests.is_empty()) {
            (false, _) => {
                let ask = Freezing { head: &turn.head, job: &job, neighbours, is_shadow };
                match self.freeze(lease, ask, preparing).await? {
                    Prepared::Requests(requests) => requests,
                    Prepared::NotYet => return Ok(Next::Wait(CATALOGUE_WAIT).into()),
                    Prepared::Held => return Ok(Next::Hold.into()),
                    Prepared::Sought(contact) => {
                        return self.verify(held, turn, contact, slot).await;
                    }
                }
            }
            (true, false) => {
                drop(preparing);
                std::mem::take(&mut job.requests)
            }
            (true, true) => {
                return Err(WorkError::Broken("none of its requests is pending".into()));
            }
        };
        let happened_at = self.learned_at(&job);
        let opt_in = match requests.first() {
            Some(request) if !is_shadow => self.opt_in(&job, request).await?,
            _ => None,
        };
        // Loops may be slow to respond, and many messages may be at this point, so only the current request is kept.
        job.payload = Bytes::new();
        let is_last = requests.len() == 1;
        let Some(mut request) = requests.into_iter().next() else {
            return Ok(Next::Finish.into());
        };
        let is_replay = job.replay.number > 0;
        let body = std::mem::take(&mut request.body);
        let accepted = (job.received_at, turn.head.class);
        let load = Load { body, happened_at, opt_in, is_replay, accepted, _place: place };
        let due = Due {
            request: &request,
            seq,
            message_id: &job.message_id,
            is_last,
            is_singled_out: turn.is_singled_out,
            lane: turn.head.lane,
            restored_from: job.restored_from,
        };
        if let Some(verdict) = due.before_attempt(&*self.clock, &self.retry) {
            let contact = self.contact_facts(request.endpoint, &load.body).map(Facts::forget);
            drop(load);
            return self.give_up(lease, due, verdict, contact).await;
        }
        if let Some(verdict) = due.shadowed().filter(|_| is_shadow) {
            return self.shadow(lease, due, load, slot, verdict).await;
        }
        let is_event = request.idempotency_key.is_some();
        if is_event && request.first_attempt_at.is_none() && job.is_planned {
            self.begin(lease, request.id).await?;
        }
        let span = self.begin_span(due, began_at).await;
        // If the store was slow or the process was suspended, another process may be delivering by now.
        if !held.is_certain() {
            return Ok(Next::Again.into());
        }
        self.attempt(held, due, load, slot, span).await
    }

    /// Returns when a message happened, if contacts are remembered with that time; otherwise the epoch.
    fn learned_at(&self, job: &Job) -> Timestamp {
        match self.destination.borrow().contact_options().stale {
            Stale::Skip => job.happened_at(job.message().and_then(|message| message.timestamp())),
            Stale::Send => Timestamp::UNIX_EPOCH,
        }
    }

    /// Returns the subscriptions to which a request may bring back a person who left: those that it gives the person in
    /// the name of a subscription that may undo an opt-out. Anything it does for another subscription was frozen before
    /// the opt-out was known, and is no reason to forget the opt-out.
    async fn opt_in(
        &self,
        job: &Job,
        request: &FrozenRequest,
    ) -> Result<Option<OptIn>, Unavailable> {
        let destination = Arc::clone(&self.destination.borrow());
        if !destination.may_resubscribe() {
            return Ok(None);
        }
        let opt_ins = |body: &Bytes| {
            object(body).map(|body| opt_ins(request.endpoint, &body)).unwrap_or_default()
        };
        let mut lists = opt_ins(&request.body);
        if !lists.is_empty() && destination.options().consent == ConsentGuard::Guard {
            let mut parts = self.queue.parts(request.id).await?;
            parts.retain(|part| destination.resubscribes(&part.subscription));
            let of_parts = parts.iter().flat_map(|part| match &part.body {
                Some(body) => opt_ins(body),
                None if request.is_merged => Vec::new(),
                None => lists.clone(),
            });
            lists = of_parts.collect();
            lists.sort_unstable();
            lists.dedup();
        }
        // Of the messages merged into the request that subscribe someone, none happened before this one.
        let at = job.happened_at(job.message().and_then(|message| message.timestamp()));
        Ok((!lists.is_empty()).then_some(OptIn { lists, at }))
    }
}
