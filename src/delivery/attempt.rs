//! Making one attempt at a request, or giving the request up without one, and recording the outcome.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use metrics::{counter, histogram};
use tracing::field::display;
use tracing::{info, warn};

use super::disposition::{Disposition, KeyCheck, Meaning};
use super::knowledge::{Facts, Times};
use super::lease::HeldLease;
use super::stepper::{Load, StepEnd, Stepper};
use super::verdict::{Due, Tried, Verdict};
use crate::action::{ActionKind, Endpoint};
use crate::crash;
use crate::loops::{Call, CallError, RateHeaders, Reply, Slot};
use crate::queue::{
    Attempt, Awaiting, Consequence, ContactChange, FailureReason, Lease, RequestId, Settlement,
    WorkError,
};
use crate::telemetry::{self, Span, SpanKind, TraceContext, TraceId};

/// What the outcome of a request shows beyond the fate of its deliveries.
struct Learning {
    contact: Option<ContactChange>,
    awaiting: Option<Awaiting>,
}

impl Stepper {
    /// Sends a request once, and records the outcome. If the lease becomes doubtful, the attempt is abandoned, because
    /// another process may already be sending later messages.
    pub(super) async fn attempt(
        &self,
        held: &HeldLease,
        due: Due<'_>,
        mut load: Load,
        slot: Slot,
        mut span: Span,
    ) -> Result<StepEnd, WorkError> {
        let request = due.request;
        let started_at = self.clock.now();
        let call = Call {
            method: request.endpoint.method(),
            path: request.endpoint.path(),
            body: Some(&load.body),
            idempotency_key: request.idempotency_key.as_deref(),
        };
        let of_call = self.begin_call(&span, due);
        let in_flight = self.meters.send();
        let reply = tokio::select! {
            biased;
            reply = self.client.send(&slot, call) => reply,
            () = held.doubt() => return Err(WorkError::Fenced),
        };
        end_call(of_call, &reply);
        drop(in_flight);
        let facts = self.contact_facts(request.endpoint, &load.body);
        let Load { happened_at, is_replay, .. } = load;
        let opt_in = load.opt_in.take();
        let (accepted_at, class) = load.accepted;
        // The body is not kept in memory while the outcome is recorded, which takes long if the store fails.
        drop(load);
        crash::point("send.after");
        let disposition = match Meaning::of(request.endpoint, &reply) {
            Meaning::Known(disposition) => disposition,
            Meaning::NeedsCheck(unclear) => {
                let reply = self.probe(held).await;
                unclear.checked(reply.as_ref().map_or(KeyCheck::Unknown, KeyCheck::of))
            }
        };
        let status = reply.result.as_ref().ok().map(|answer| answer.status);
        self.activity.tried(disposition.is_final(), status);
        let number = request.attempts + 1;
        let tried = Tried { number, started_at, reply: &reply, disposition: &disposition };
        let verdict = due.after_attempt(&tried, &*self.clock, &self.retry);
        span.set_text("segment_loops.outcome", disposition.outcome().as_str());
        self.report(due, &tried, span.trace_id());
        crash::point("settle.before");
        let next = verdict.next;
        let has_address = facts.as_ref().is_some_and(Facts::has_address);
        let awaiting = self.awaiting(due, &tried, &verdict, has_address, is_replay);
        let times = Times { started_at, happened_at, opt_in, now: self.clock.now() };
        let contact = facts.and_then(|facts| contact_change(due, &tried, &verdict, facts, times));
        let learned = Learning { contact, awaiting };
        let is_delivered =
            matches!(verdict.consequence, Consequence::Delivered | Consequence::EventDelivered);
        self.conclude(&held.lease, due, Some(record(&tried)), verdict, learned).await?;
        crash::point("settle.after");
        if is_delivered && !is_replay {
            self.meters.delivered(class, self.clock.age(accepted_at));
        }
        Ok(StepEnd { next, proves_key: disposition.proves_key() })
    }

    /// Begins the trace of an attempt, with links to the traces in which its messages were accepted, if there are any.
    pub(super) async fn begin_span(&self, due: Due<'_>, began_at: Timestamp) -> Span {
        if !self.traces.is_on() {
            return Span::default();
        }
        // A request is sent even if the traces cannot be read.
        let carried = self.queue.traces(due.request.id).await.unwrap_or_default();
        let links: Vec<TraceContext> = carried.iter().copied().flatten().collect();
        let mut span = self.traces.linked(|| format!("process {}", self.name), began_at, &links);
        span.set_text("messaging.system", "segment_loops");
        span.set_text("messaging.operation.type", "process");
        span.set_text("messaging.operation.name", "process");
        span.set_text("messaging.destination.name", &self.name);
        if span.trace_id().is_some()
            && let Ok(subscriptions) = self.queue.subscriptions(due.request.id).await
        {
            span.set_text("segment_loops.subscriptions", &subscriptions.join(", "));
        }
        match carried.len() {
            0 | 1 => span.set_text("messaging.message.id", due.message_id),
            messages => span.set_number("messaging.batch.message_count", messages),
        }
        span
    }

    /// Begins the span of an attempt's HTTP call.
    fn begin_call(&self, span: &Span, due: Due<'_>) -> Span {
        let request = due.request;
        let (method, path) = (request.endpoint.method(), request.endpoint.path());
        let mut span = span.child(SpanKind::Client, || format!("{method} {path}"));
        span.set_text("http.request.method", method);
        span.set_text("url.template", path);
        span.set_text("server.address", self.client.host());
        if request.attempts > 0 {
            span.set_number("http.request.resend_count", request.attempts as usize);
        }
        span
    }

    pub(super) fn contact_facts(&self, endpoint: Endpoint, body: &Bytes) -> Option<Facts> {
        let destination = Arc::clone(&self.destination.borrow());
        self.facts(&destination).facts(endpoint, body)
    }

    /// Returns the effect of an attempt on events whose contacts do not exist. The wording of Loops' error is not part
    /// of its contract, so such an event is recognized by its request and the status. Each message waits only once.
    fn awaiting(
        &self,
        due: Due<'_>,
        tried: &Tried<'_>,
        verdict: &Verdict,
        has_address: bool,
        is_replay: bool,
    ) -> Option<Awaiting> {
        let wait = self.destination.borrow().contact_options().await_contact;
        if wait.is_zero() {
            return None;
        }
        let (lane, is_event) = (due.lane, due.request.endpoint == Endpoint::SendEvent);
        let status = tried.reply.result.as_ref().ok().map(|answer| answer.status);
        match &verdict.consequence {
            Consequence::Failed(failure)
                if failure.reason == FailureReason::Refused
                    && status == Some(400)
                    && is_event
                    && !has_address
                    && !is_replay =>
            {
                let until = self.clock.now().checked_add(wait).unwrap_or(Timestamp::MAX);
                // After its expiry, it would be too late to send the event.
                let until =
                    due.request.expires_at.map_or(until, |expires_at| until.min(expires_at));
                Some(Awaiting::Begins { lane, until })
            }
            Consequence::Delivered if has_address => Some(Awaiting::Ends { lane }),
            _ => None,
        }
    }

    /// Records that the first attempt at an event is about to begin. If this process ends before it records the
    /// outcome, the next one knows since when Loops may have the event. Not needed if this step froze the event,
    /// because freezing records it too.
    pub(super) async fn begin(&self, lease: &Lease, request: RequestId) -> Result<(), WorkError> {
        let consequence = Consequence::Begin;
        let now = self.clock.now();
        self.queue
            .settle(
                lease,
                Settlement {
                    request,
                    now,
                    attempt: None,
                    consequence,
                    contact: None,
                    awaiting: None,
                },
            )
            .await
            .map(|_| ())
    }

    /// Ends a request without sending it, because the destination is in shadow mode. The request uses its slot, so that
    /// deliveries are no faster than if they were sent. Someone else may change the contact in the meantime, so what is
    /// known of it is forgotten.
    pub(super) async fn shadow(
        &self,
        lease: &Lease,
        due: Due<'_>,
        load: Load,
        slot: Slot,
        verdict: Verdict,
    ) -> Result<StepEnd, WorkError> {
        let request = due.request;
        slot.sent();
        slot.answered(RateHeaders::default(), None);
        drop(slot);
        self.activity.tried(true, None);
        let contact = self.contact_facts(request.endpoint, &load.body).map(Facts::forget);
        drop(load);
        info!(
            destination = self.name,
            request = request.id.0,
            message_id = due.message_id,
            path = request.endpoint.path(),
            "shadowed"
        );
        crash::point("settle.before");
        let next = verdict.next;
        let learned = Learning { contact, awaiting: None };
        self.conclude(lease, due, None, verdict, learned).await?;
        crash::point("settle.after");
        Ok(next.into())
    }

    /// Asks Loops whether the key is right, as soon as the rate allows. Returns `None` without asking if the lease is
    /// doubtful by then: another process may hold it, and its requests count towards the same rate.
    pub(super) async fn probe(&self, held: &HeldLease) -> Option<Reply> {
        let slot = self.client.pacer().slot().await;
        if !held.is_certain() {
            return None;
        }
        Some(self.client.probe(&slot).await)
    }

    /// Ends a request without another attempt.
    pub(super) async fn give_up(
        &self,
        lease: &Lease,
        due: Due<'_>,
        verdict: Verdict,
        contact: Option<ContactChange>,
    ) -> Result<StepEnd, WorkError> {
        let request = due.request;
        warn!(
            destination = self.name,
            request = request.id.0,
            message_id = due.message_id,
            path = request.endpoint.path(),
            attempts = request.attempts,
            outcome = verdict.ended().unwrap_or("taken_apart"),
            "given up"
        );
        let next = verdict.next;
        let learned = Learning { contact, awaiting: None };
        self.conclude(lease, due, None, verdict, learned).await?;
        Ok(next.into())
    }

    /// Records the verdict on a request, and counts it. Retries as long as the store fails: if the outcome were lost,
    /// the request would be sent again. The lane sends nothing else in the meantime.
    async fn conclude(
        &self,
        lease: &Lease,
        due: Due<'_>,
        attempt: Option<Attempt>,
        verdict: Verdict,
        Learning { contact, awaiting }: Learning,
    ) -> Result<(), WorkError> {
        let ended = verdict.ended();
        let settlement = Settlement {
            request: due.request.id,
            now: self.clock.now(),
            attempt,
            consequence: verdict.consequence,
            contact,
            awaiting,
        };
        let settled = self.record(due.seq, || self.queue.settle(lease, settlement.clone())).await?;
        if settled.is_new_contact {
            let destination = self.name.clone();
            counter!(telemetry::NEW_CONTACTS, "destination" => destination).increment(1);
        }
        if let Some(ended) = ended {
            self.count(ActionKind::at(due.request.endpoint), ended);
        }
        Ok(())
    }

    /// Logs and counts an attempt.
    fn report(&self, due: Due<'_>, tried: &Tried<'_>, trace_id: Option<TraceId>) {
        let Tried { number, reply, disposition, .. } = *tried;
        let Due { request, message_id, .. } = due;
        let status = reply.result.as_ref().map_or(0, |answer| answer.status);
        let error = match &reply.result {
            Ok(_) if disposition.is_not_of_loops(reply) => Some(format!(
                "the response does not come from Loops: check base_url (LOOPS_BASE_URL), {}",
                self.client.shown_url()
            )),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        let duration_ms = reply.duration.as_millis() as u64;
        let outcome = disposition.outcome().as_str();
        let trace_id = trace_id.map(display);
        macro_rules! line {
            ($level:ident) => {
                $level!(
                    destination = self.name,
                    request = request.id.0,
                    message_id,
                    path = request.endpoint.path(),
                    attempt = number,
                    status,
                    duration_ms,
                    outcome,
                    error,
                    trace_id,
                    "attempt"
                )
            };
        }
        match disposition {
            Disposition::Delivered
            | Disposition::DeliveredBefore
            | Disposition::NothingToDelete => line!(info),
            Disposition::Limited(_)
            | Disposition::Retry(_)
            | Disposition::Misdirected
            | Disposition::Doubtful { .. }
            | Disposition::Unauthorized { .. }
            | Disposition::Refused { .. } => line!(warn),
        }
        self.meters.tried(disposition.outcome());
        let labels = [
            ("destination", self.name.clone()),
            ("endpoint", request.endpoint.path().to_owned()),
            ("status", status.to_string()),
        ];
        counter!(telemetry::LOOPS_REQUESTS, &labels).increment(1);
        histogram!(telemetry::LOOPS_REQUEST_SECONDS, &labels).record(reply.duration);
    }
}

/// Returns how an attempt changes what is known of its contact.
fn contact_change(
    due: Due<'_>,
    tried: &Tried<'_>,
    verdict: &Verdict,
    facts: Facts,
    times: Times,
) -> Option<ContactChange> {
    let is_deletion = due.request.endpoint == Endpoint::DeleteContact;
    let learned = |facts: Facts| facts.learn(due.lane, due.request.id, times);
    match (&verdict.consequence, tried.disposition) {
        // This includes deletions of which it is unknown whether Loops made them.
        (Consequence::Delivered | Consequence::Failed(_), _) if is_deletion => Some(facts.delete()),
        (Consequence::Delivered, Disposition::Delivered) => {
            Some(ContactChange::Learn(learned(facts)))
        }
        // Loops may have accepted the earlier request without the properties in this one.
        (Consequence::Delivered, Disposition::DeliveredBefore) => {
            Some(ContactChange::Confirm(learned(facts)))
        }
        (
            Consequence::Delivered
            | Consequence::Failed(_)
            | Consequence::TakenApart
            | Consequence::EventDelivered
            | Consequence::EventFailed(_)
            | Consequence::Shadowed,
            _,
        ) => Some(facts.forget()),
        (Consequence::Begin | Consequence::Retry(_) | Consequence::Hold { .. }, _) => None,
    }
}

/// Ends the span of a call.
fn end_call(mut span: Span, reply: &Reply) {
    match &reply.result {
        Ok(answer) => {
            span.set_number("http.response.status_code", answer.status.into());
            if answer.status >= 400 {
                span.fail(&answer.status.to_string());
            }
        }
        Err(CallError::Timeout) => span.fail("timeout"),
        Err(CallError::Connect(_)) => span.fail("connect"),
        Err(CallError::Broken(_)) => span.fail("broken"),
    }
}

fn record(tried: &Tried<'_>) -> Attempt {
    let Tried { number, started_at, reply, disposition } = *tried;
    let (status, excerpt) = match &reply.result {
        Ok(answer) => (Some(answer.status), answer.excerpt.clone()),
        Err(error) => (None, error.to_string()),
    };
    let outcome = disposition.outcome();
    Attempt { number, started_at, duration: reply.duration, status, outcome, excerpt }
}
