//! The steps of the delivery engine: lease, release, freeze, settle, set aside. Each runs inside the
//! transaction of its group, and a fenced step writes nothing.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use crate::action::{ActionKind, Unmatched, UnmatchedReason};
use crate::queue::{
    Attempt, BrokenMessage, Consequence, DeliveryState, Failure, FrozenRequest, Lease,
    LeaseRequest, NewDelivery, NewMerge, NewPlan, NewRequest, RequestId, Seq, Settlement,
    WorkError,
};
use crate::store::rows::{RequestRow, duration_ms, to_json, to_ms};
use crate::store::{Fault, sql};

/// A lease that runs this many times longer than a lease requested now was written before the clock was set
/// back. The factor is large, since processes may be configured differently.
const LEASE_TTLS_MAX: u32 = 10;

/// The lease is not (or no longer) in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fenced;

impl From<Fenced> for WorkError {
    fn from(_: Fenced) -> Self {
        WorkError::Fenced
    }
}

/// Something to be written, in a transaction with others.
#[async_trait]
pub(super) trait Step: Send + Sync + 'static {
    type Output: Send + 'static;
    /// Whether it may bring messages for the engines to see.
    const ARRIVES: bool = false;
    /// Whether it erases: what it deletes must go from the write-ahead log too.
    const ERASES: bool = false;
    /// Whether it has certainly written something.
    fn proves_writing(_: &Self::Output) -> bool {
        false
    }
    /// Whether it deleted anything.
    fn has_erased(_: &Self::Output) -> bool {
        false
    }
    async fn run(&self, connection: &mut SqliteConnection) -> Result<Self::Output, Fault>;
}

pub(super) struct Release(pub(super) Lease);

pub(super) struct Freeze {
    pub(super) lease: Lease,
    pub(super) merge: NewMerge,
}

pub(super) struct Settle {
    pub(super) lease: Lease,
    pub(super) settlement: Settlement,
}

#[async_trait]
impl Step for LeaseRequest {
    type Output = Option<Lease>;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        let now = to_ms(self.now);
        let token: Option<i64> = sqlx::query_scalar(sql::LEASE)
            .bind(&self.destination)
            .bind(&self.holder)
            .bind(now)
            .bind(now.saturating_add(duration_ms(self.ttl)))
            .bind(now.saturating_add(duration_ms(self.ttl * LEASE_TTLS_MAX)))
            .fetch_optional(connection)
            .await?;
        Ok(token.map(|token| Lease {
            destination: self.destination.clone(),
            holder: self.holder.clone(),
            token,
        }))
    }
}

#[async_trait]
impl Step for Release {
    type Output = Result<(), Fenced>;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        let Release(lease) = self;
        let released = sqlx::query(sql::RELEASE)
            .bind(&lease.destination)
            .bind(&lease.holder)
            .bind(lease.token)
            .execute(connection)
            .await?
            .rows_affected();
        Ok(if released == 1 { Ok(()) } else { Err(Fenced) })
    }
}

#[async_trait]
impl Step for Freeze {
    type Output = Result<Vec<FrozenRequest>, Fenced>;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        if !is_in_force(connection, &self.lease).await? {
            return Ok(Err(Fenced));
        }
        let mut lanes = Vec::new();
        for (place, (seq, _)) in self.merge.plans.iter().enumerate() {
            let found: Option<(i64, i64, i64)> = sqlx::query_as(sql::PLAN_STATE)
                .bind(seq.0)
                .bind(&self.lease.destination)
                .fetch_optional(&mut *connection)
                .await?;
            match found {
                Some((0, 0, lane)) => lanes.push(lane),
                // Planned before: what there is counts.
                Some(_) if place == 0 => return Ok(Ok(frozen(connection, *seq).await?)),
                Some(_) => {
                    return Err(Fault::Broken("a neighbour of the message was planned before"));
                }
                None if place == 0 => return Err(Fault::Broken("the message is gone")),
                None => return Err(Fault::Broken("a neighbour of the message is gone")),
            }
        }
        let merged = self.write_merged(connection, &lanes).await?;
        for (place, (seq, plan)) in self.merge.plans.iter().enumerate() {
            self.write(connection, place, *seq, plan, &merged, lanes[place]).await?;
        }
        let first = self.merge.plans.first().map(|(seq, _)| *seq).unwrap_or_default();
        Ok(Ok(frozen(connection, first).await?))
    }
}

/// The merged request of a delivery, by the places of its plan and of itself.
type MergedIds = HashMap<(usize, usize), RequestId>;

impl Freeze {
    async fn write_merged(
        &self,
        connection: &mut SqliteConnection,
        lanes: &[i64],
    ) -> Result<MergedIds, Fault> {
        let mut ids = MergedIds::new();
        let now = self.merge.plans.first().map_or(0, |(_, plan)| to_ms(plan.now));
        for merged in &self.merge.merged {
            let lane = merged.carries.first().map_or(0, |(plan, _)| lanes[*plan]);
            let row = RequestKind { state: "pending", is_merged: true, merged_into: None };
            let id = self.write_request(connection, lane, &merged.request, now, row).await?;
            ids.extend(merged.carries.iter().map(|place| (*place, id)));
        }
        Ok(ids)
    }

    async fn write(
        &self,
        connection: &mut SqliteConnection,
        place: usize,
        seq: Seq,
        plan: &NewPlan,
        merged: &MergedIds,
        lane: i64,
    ) -> Result<(), Fault> {
        let now = to_ms(plan.now);
        let mut is_pending = false;
        let mut is_failed = false;
        for (position, delivery) in plan.deliveries.iter().enumerate() {
            let into = merged.get(&(place, position)).copied();
            let state = if into.is_some() { "part" } else { "pending" };
            let own = match &delivery.outcome {
                Ok(request) => {
                    let row = RequestKind { state, is_merged: false, merged_into: into };
                    Some(self.write_request(connection, lane, request, now, row).await?)
                }
                Err(_) => None,
            };
            is_pending |= delivery.outcome.is_ok();
            is_failed |= delivery.outcome.is_err();
            let position = i64::try_from(position).unwrap_or(i64::MAX);
            let carried = CarriedBy { request: into.or(own), part: into.and(own) };
            insert_delivery(connection, seq, position, delivery, now, carried).await?;
        }
        let is_done = !is_pending;
        let unmatched = unmatched(plan);
        let planned = sqlx::query(sql::PLANNED)
            .bind(seq.0)
            .bind(unmatched.as_ref().map(|unmatched| unmatched.reason.as_str()))
            .bind(i64::from(is_done))
            .bind(is_done.then_some(now))
            .bind(i64::from(is_done && is_failed))
            .bind(unmatched.as_ref().map(|unmatched| unmatched.detail.as_str()))
            .execute(connection)
            .await?
            .rows_affected();
        touched(planned, 1)
    }

    async fn write_request(
        &self,
        connection: &mut SqliteConnection,
        lane: i64,
        request: &NewRequest,
        now: i64,
        kind: RequestKind,
    ) -> Result<RequestId, Fault> {
        let id = sqlx::query_scalar(sql::INSERT_REQUEST)
            .bind(&self.lease.destination)
            .bind(lane)
            .bind(request.endpoint.method())
            .bind(request.endpoint.path())
            .bind(request.body.as_ref())
            .bind(request.idempotency_key.as_deref())
            .bind(now)
            .bind(kind.state)
            .bind(i64::from(kind.is_merged))
            .bind(kind.merged_into.map(|id| id.0))
            .bind(request.expires_at.map(to_ms))
            .fetch_one(connection)
            .await?;
        Ok(RequestId(id))
    }
}

/// The requests of a delivery.
#[derive(Default)]
struct CarriedBy {
    request: Option<RequestId>,
    /// Its part of a merged request.
    part: Option<RequestId>,
}

async fn insert_delivery(
    connection: &mut SqliteConnection,
    seq: Seq,
    position: i64,
    delivery: &NewDelivery,
    now: i64,
    by: CarriedBy,
) -> Result<(), Fault> {
    let failure = delivery.outcome.as_ref().err();
    let state = if failure.is_some() { DeliveryState::Failed } else { DeliveryState::Pending };
    sqlx::query(sql::INSERT_DELIVERY)
        .bind(seq.0)
        .bind(position)
        .bind(by.request.map(|id| id.0))
        .bind(state.as_str())
        .bind(failure.map(|_| now))
        .bind(delivery.subscription.as_deref().unwrap_or_default())
        .bind(delivery.action.map_or("", ActionKind::as_str))
        .bind(failure.map(|failure| failure.reason.as_str()))
        .bind(failure.map(|failure| failure.detail.as_str()))
        .bind(to_json(&delivery.warnings))
        .bind(by.part.map(|id| id.0))
        .execute(connection)
        .await?;
    Ok(())
}

/// What a request is among others.
struct RequestKind {
    state: &'static str,
    is_merged: bool,
    merged_into: Option<RequestId>,
}

/// A message without deliveries must never look delivered, so it always has a reason.
fn unmatched(plan: &NewPlan) -> Option<Unmatched> {
    plan.deliveries.is_empty().then(|| {
        plan.unmatched.clone().unwrap_or_else(|| Unmatched {
            reason: UnmatchedReason::NoSubscription,
            detail: "no subscription took it".to_owned(),
        })
    })
}

#[async_trait]
impl Step for Settle {
    type Output = Result<(), Fenced>;

    fn proves_writing(settled: &Self::Output) -> bool {
        settled.is_ok()
    }

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        if !is_in_force(connection, &self.lease).await? {
            return Ok(Err(Fenced));
        }
        let request = self.settlement.request.0;
        let state: Option<String> = sqlx::query_scalar(sql::REQUEST_STATE)
            .bind(request)
            .bind(&self.lease.destination)
            .fetch_optional(&mut *connection)
            .await?;
        match state.as_deref() {
            Some(state) if state == DeliveryState::Pending.as_str() => {
                self.write(connection).await?;
                Ok(Ok(()))
            }
            // Said twice, because the first answer was lost: it is settled.
            Some(state) if self.is_known(connection, state).await? => Ok(Ok(())),
            Some(_) => Err(Fault::Broken("the request ended some other way")),
            None => Err(Fault::Broken("the request is gone")),
        }
    }
}

impl Settle {
    /// Whether it was written before, which left the request in this state.
    async fn is_known(
        &self,
        connection: &mut SqliteConnection,
        state: &str,
    ) -> Result<bool, Fault> {
        let Some(attempt) = &self.settlement.attempt else {
            return Ok(state == self.state());
        };
        let known: Option<i64> = sqlx::query_scalar(sql::ATTEMPT_KNOWN)
            .bind(self.settlement.request.0)
            .bind(i64::from(attempt.number))
            .fetch_optional(connection)
            .await?;
        Ok(known.is_some())
    }

    async fn write(&self, connection: &mut SqliteConnection) -> Result<(), Fault> {
        let Settlement { request, attempt, consequence, .. } = &self.settlement;
        let state = self.state();
        let next_attempt_at = match consequence {
            Consequence::Retry(at) => Some(to_ms(*at)),
            _ => None,
        };
        // While the destination is paused, the time within which a request is tried does not begin.
        let starts_window = !matches!(consequence, Consequence::Hold);
        let started_at = attempt.as_ref().map(|attempt| to_ms(attempt.started_at));
        let recorded = match attempt {
            Some(attempt) => record(connection, *request, attempt).await?,
            None => 0,
        };
        let settled = sqlx::query(sql::SETTLE_REQUEST)
            .bind(request.0)
            .bind(state)
            .bind(recorded)
            .bind(started_at.filter(|_| starts_window))
            .bind(next_attempt_at)
            .execute(&mut *connection)
            .await?
            .rows_affected();
        touched(settled, 1)?;
        match consequence {
            Consequence::Retry(_) | Consequence::Hold => Ok(()),
            Consequence::TakenApart => {
                for text in
                    [sql::TAKE_APART_DELIVERIES, sql::TAKE_APART_REQUESTS, sql::DROP_MERGED_BODY]
                {
                    let rows = sqlx::query(text).bind(request.0).execute(&mut *connection).await?;
                    // A request that carries nothing apart must never end so: nothing would be left.
                    touched(rows.rows_affected().min(1), 1)?;
                }
                Ok(())
            }
            Consequence::Delivered => self.end(connection, state, None).await,
            Consequence::Failed(failure) => self.end(connection, state, Some(failure)).await,
        }
    }

    /// The state that it leaves the request in.
    fn state(&self) -> &'static str {
        match self.settlement.consequence {
            Consequence::Delivered => DeliveryState::Delivered.as_str(),
            Consequence::Failed(_) => DeliveryState::Failed.as_str(),
            Consequence::TakenApart => "taken_apart",
            Consequence::Retry(_) | Consequence::Hold => DeliveryState::Pending.as_str(),
        }
    }

    /// Ends the deliveries of a request, and the messages that have no other.
    async fn end(
        &self,
        connection: &mut SqliteConnection,
        state: &str,
        failure: Option<&Failure>,
    ) -> Result<(), Fault> {
        let Settlement { request, now, .. } = &self.settlement;
        let ended_at = to_ms(*now);
        let deliveries = sqlx::query(sql::SETTLE_DELIVERIES)
            .bind(request.0)
            .bind(state)
            .bind(ended_at)
            .bind(failure.map(|failure| failure.reason.as_str()))
            .bind(failure.map(|failure| failure.detail.as_str()))
            .execute(&mut *connection)
            .await?
            .rows_affected();
        touched(deliveries.min(1), 1)?;
        for text in [sql::FORGET_PARTS, sql::DELETE_PARTS] {
            sqlx::query(text).bind(request.0).execute(&mut *connection).await?;
        }
        // None, while other deliveries of the message are pending.
        sqlx::query(sql::SETTLE_MESSAGES)
            .bind(request.0)
            .bind(ended_at)
            .execute(&mut *connection)
            .await?;
        for text in [sql::SETTLE_DELETIONS, sql::SETTLE_ERASURES] {
            sqlx::query(text)
                .bind(request.0)
                .bind(ActionKind::DeleteContact.as_str())
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }
}

pub(super) struct SetAside {
    pub(super) lease: Lease,
    pub(super) broken: BrokenMessage,
}

/// Expects nothing of what there is: it must work on broken records.
#[async_trait]
impl Step for SetAside {
    type Output = Result<Option<String>, Fenced>;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        if !is_in_force(connection, &self.lease).await? {
            return Ok(Err(Fenced));
        }
        let BrokenMessage { seq, now, failure } = &self.broken;
        let message_id: Option<String> = sqlx::query_scalar(sql::PENDING_ID)
            .bind(seq.0)
            .bind(&self.lease.destination)
            .fetch_optional(&mut *connection)
            .await?;
        let Some(message_id) = message_id else { return Ok(Ok(None)) };
        sqlx::query(sql::SET_ASIDE_PARTS).bind(seq.0).execute(&mut *connection).await?;
        let failed = sqlx::query(sql::SET_ASIDE_DELIVERIES)
            .bind(seq.0)
            .bind(to_ms(*now))
            .bind(failure.reason.as_str())
            .bind(&failure.detail)
            .execute(&mut *connection)
            .await?
            .rows_affected();
        sqlx::query(sql::SET_ASIDE_REQUESTS).bind(seq.0).execute(&mut *connection).await?;
        if failed == 0 {
            let position: i64 = sqlx::query_scalar(sql::FREE_POSITION)
                .bind(seq.0)
                .fetch_one(&mut *connection)
                .await?;
            let delivery = NewDelivery {
                subscription: None,
                action: None,
                warnings: Vec::new(),
                outcome: Err(failure.clone()),
            };
            insert_delivery(connection, *seq, position, &delivery, to_ms(*now), Default::default())
                .await?;
        }
        sqlx::query(sql::SET_ASIDE_MESSAGE)
            .bind(seq.0)
            .bind(to_ms(*now))
            .execute(connection)
            .await?;
        Ok(Ok(Some(message_id)))
    }
}

/// Writes an attempt; answers 0 when it was written before, else 1.
async fn record(
    connection: &mut SqliteConnection,
    request: RequestId,
    attempt: &Attempt,
) -> Result<i64, Fault> {
    let inserted = sqlx::query(sql::INSERT_ATTEMPT)
        .bind(request.0)
        .bind(i64::from(attempt.number))
        .bind(to_ms(attempt.started_at))
        .bind(duration_ms(attempt.duration))
        .bind(attempt.status.map(i64::from))
        .bind(attempt.outcome.as_str())
        .bind(&attempt.excerpt)
        .execute(connection)
        .await?
        .rows_affected();
    Ok(i64::from(inserted > 0))
}

async fn is_in_force(connection: &mut SqliteConnection, lease: &Lease) -> Result<bool, Fault> {
    let token: Option<i64> = sqlx::query_scalar(sql::LEASE_IN_FORCE)
        .bind(&lease.destination)
        .bind(&lease.holder)
        .bind(lease.token)
        .fetch_optional(connection)
        .await?;
    Ok(token.is_some())
}

/// The pending requests of a message, in order.
pub(super) async fn frozen(
    connection: &mut SqliteConnection,
    seq: Seq,
) -> Result<Vec<FrozenRequest>, Fault> {
    let rows: Vec<RequestRow> =
        sqlx::query_as(sql::OPEN_REQUESTS).bind(seq.0).fetch_all(connection).await?;
    rows.into_iter().map(RequestRow::into_record).collect()
}

/// A guarded write that did not find what was read a moment before, in the same transaction.
fn touched(rows: u64, expected: u64) -> Result<(), Fault> {
    if rows == expected {
        Ok(())
    } else {
        Err(Fault::Broken("what was there a moment ago is gone"))
    }
}
