//! The steps of the delivery engine: lease, release, freeze, settle. Each runs inside the
//! transaction of its group, and one that is fenced has written nothing.

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use crate::queue::{
    Attempt, Consequence, DELETING_ACTION, DeliveryState, FrozenRequest, Lease, LeaseRequest,
    NewPlan, NewRequest, RequestId, Seq, Settlement,
};
use crate::store::rows::{RequestRow, duration_ms, ended_ms, to_json, to_ms};
use crate::store::sql;

/// What a step came to.
pub(super) enum Verdict<T> {
    Done(T),
    /// The lease is not (or no longer) in force, or does not cover what was asked.
    Fenced,
}

/// Something to be written, in a transaction with others.
#[async_trait]
pub(super) trait Step: Send + Sync + 'static {
    type Output: Send + 'static;
    /// Whether it may bring messages for the engines to see.
    const ARRIVES: bool = false;
    /// Whether it erases: what it deletes must go from the write-ahead log too.
    const ERASES: bool = false;
    /// Whether it deleted anything.
    fn has_erased(_: &Self::Output) -> bool {
        false
    }
    async fn run(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Verdict<Self::Output>, sqlx::Error>;
}

pub(super) struct Release(pub(super) Lease);

pub(super) struct Freeze {
    pub(super) lease: Lease,
    pub(super) seq: Seq,
    pub(super) plan: NewPlan,
}

pub(super) struct Settle {
    pub(super) lease: Lease,
    pub(super) settlement: Settlement,
}

#[async_trait]
impl Step for LeaseRequest {
    type Output = Option<Lease>;

    async fn run(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Verdict<Self::Output>, sqlx::Error> {
        let now = to_ms(self.now);
        let token: Option<i64> = sqlx::query_scalar(sql::LEASE)
            .bind(&self.destination)
            .bind(&self.holder)
            .bind(now)
            .bind(now.saturating_add(duration_ms(self.ttl)))
            .fetch_optional(connection)
            .await?;
        Ok(Verdict::Done(token.map(|token| Lease {
            destination: self.destination.clone(),
            holder: self.holder.clone(),
            token,
        })))
    }
}

#[async_trait]
impl Step for Release {
    type Output = ();

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Verdict<()>, sqlx::Error> {
        let Release(lease) = self;
        let released = sqlx::query(sql::RELEASE)
            .bind(&lease.destination)
            .bind(&lease.holder)
            .bind(lease.token)
            .execute(connection)
            .await?
            .rows_affected();
        Ok(if released == 1 { Verdict::Done(()) } else { Verdict::Fenced })
    }
}

#[async_trait]
impl Step for Freeze {
    type Output = Vec<FrozenRequest>;

    async fn run(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Verdict<Self::Output>, sqlx::Error> {
        if !is_in_force(connection, &self.lease).await? {
            return Ok(Verdict::Fenced);
        }
        let found: Option<(i64, i64, i64)> = sqlx::query_as(sql::PLAN_STATE)
            .bind(self.seq.0)
            .bind(&self.lease.destination)
            .fetch_optional(&mut *connection)
            .await?;
        let Some((state, is_planned, lane)) = found else { return Ok(Verdict::Fenced) };
        if state == 0 && is_planned == 0 {
            self.write(connection, lane).await?;
        }
        Ok(Verdict::Done(frozen(connection, self.seq).await?))
    }
}

impl Freeze {
    async fn write(&self, connection: &mut SqliteConnection, lane: i64) -> Result<(), sqlx::Error> {
        let now = to_ms(self.plan.now);
        let mut is_pending = false;
        let mut is_failed = false;
        for (position, delivery) in (0_i64..).zip(&self.plan.deliveries) {
            let (request, state, failure) = match &delivery.outcome {
                Ok(request) => (
                    Some(self.write_request(connection, lane, request).await?),
                    DeliveryState::Pending,
                    None,
                ),
                Err(failure) => (None, DeliveryState::Failed, Some(failure)),
            };
            is_pending |= failure.is_none();
            is_failed |= failure.is_some();
            sqlx::query(sql::INSERT_DELIVERY)
                .bind(self.seq.0)
                .bind(position)
                .bind(request.map(|id| id.0))
                .bind(state.as_str())
                .bind(failure.map(|_| now))
                .bind(&delivery.subscription)
                .bind(&delivery.action)
                .bind(failure.map(|failure| failure.reason.as_str()))
                .bind(failure.map(|failure| failure.detail.as_str()))
                .bind(to_json(&delivery.warnings))
                .execute(&mut *connection)
                .await?;
        }
        let is_done = !is_pending;
        let planned = sqlx::query(sql::PLANNED)
            .bind(self.seq.0)
            .bind(self.unmatched())
            .bind(i64::from(is_done))
            .bind(is_done.then_some(now))
            .bind(i64::from(is_done && is_failed))
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
    ) -> Result<RequestId, sqlx::Error> {
        let id = sqlx::query_scalar(sql::INSERT_REQUEST)
            .bind(&self.lease.destination)
            .bind(lane)
            .bind(&request.method)
            .bind(&request.path)
            .bind(request.body.as_ref())
            .bind(request.idempotency_key.as_deref())
            .bind(to_ms(self.plan.now))
            .fetch_one(connection)
            .await?;
        Ok(RequestId(id))
    }

    /// A message without deliveries must never look delivered, so it always has a reason.
    fn unmatched(&self) -> Option<&str> {
        self.plan
            .deliveries
            .is_empty()
            .then(|| self.plan.unmatched.as_deref().unwrap_or("no subscription took it"))
    }
}

#[async_trait]
impl Step for Settle {
    type Output = ();

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Verdict<()>, sqlx::Error> {
        if !is_in_force(connection, &self.lease).await? {
            return Ok(Verdict::Fenced);
        }
        let request = self.settlement.request.0;
        let state: Option<String> = sqlx::query_scalar(sql::REQUEST_STATE)
            .bind(request)
            .bind(&self.lease.destination)
            .fetch_optional(&mut *connection)
            .await?;
        let known: Option<i64> = sqlx::query_scalar(sql::ATTEMPT_KNOWN)
            .bind(request)
            .bind(i64::from(self.settlement.attempt.number))
            .fetch_optional(&mut *connection)
            .await?;
        match (state.as_deref(), known) {
            (Some(state), _) if state == DeliveryState::Pending.as_str() => {
                self.write(connection).await?;
                Ok(Verdict::Done(()))
            }
            // Said twice, because the first answer was lost: it is settled.
            (Some(_), Some(_)) => Ok(Verdict::Done(())),
            // It ended some other way, or is none of this destination: the caller must look again.
            (Some(_) | None, _) => Ok(Verdict::Fenced),
        }
    }
}

impl Settle {
    async fn write(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let Settlement { request, attempt, consequence } = &self.settlement;
        let (state, failure, next_attempt_at) = match consequence {
            Consequence::Delivered => (DeliveryState::Delivered, None, None),
            Consequence::Failed(failure) => (DeliveryState::Failed, Some(failure), None),
            Consequence::Retry(at) => (DeliveryState::Pending, None, Some(to_ms(*at))),
            Consequence::Hold => (DeliveryState::Pending, None, None),
        };
        // While the destination is paused, the time within which a request is tried does not begin.
        let starts_window = !matches!(consequence, Consequence::Hold);
        let recorded = record(connection, *request, attempt).await?;
        let settled = sqlx::query(sql::SETTLE_REQUEST)
            .bind(request.0)
            .bind(state.as_str())
            .bind(recorded)
            .bind(starts_window.then(|| to_ms(attempt.started_at)))
            .bind(next_attempt_at)
            .execute(&mut *connection)
            .await?
            .rows_affected();
        touched(settled, 1)?;
        if state == DeliveryState::Pending {
            return Ok(());
        }
        let ended_at = ended_ms(attempt);
        let deliveries = sqlx::query(sql::SETTLE_DELIVERIES)
            .bind(request.0)
            .bind(state.as_str())
            .bind(ended_at)
            .bind(failure.map(|failure| failure.reason.as_str()))
            .bind(failure.map(|failure| failure.detail.as_str()))
            .execute(&mut *connection)
            .await?
            .rows_affected();
        touched(deliveries.min(1), 1)?;
        // None, while other deliveries of the message are pending.
        sqlx::query(sql::SETTLE_MESSAGES)
            .bind(request.0)
            .bind(ended_at)
            .execute(&mut *connection)
            .await?;
        sqlx::query(sql::SETTLE_ERASURES)
            .bind(request.0)
            .bind(DELETING_ACTION)
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// Writes an attempt; answers 0 when it was written before, else 1.
async fn record(
    connection: &mut SqliteConnection,
    request: RequestId,
    attempt: &Attempt,
) -> Result<i64, sqlx::Error> {
    let inserted = sqlx::query(sql::INSERT_ATTEMPT)
        .bind(request.0)
        .bind(i64::from(attempt.number))
        .bind(to_ms(attempt.started_at))
        .bind(duration_ms(attempt.duration))
        .bind(attempt.status.map(i64::from))
        .bind(&attempt.outcome)
        .bind(&attempt.excerpt)
        .execute(connection)
        .await?
        .rows_affected();
    Ok(i64::from(inserted > 0))
}

async fn is_in_force(
    connection: &mut SqliteConnection,
    lease: &Lease,
) -> Result<bool, sqlx::Error> {
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
) -> Result<Vec<FrozenRequest>, sqlx::Error> {
    let rows: Vec<RequestRow> =
        sqlx::query_as(sql::OPEN_REQUESTS).bind(seq.0).fetch_all(connection).await?;
    Ok(rows.into_iter().map(RequestRow::into_record).collect())
}

/// A guarded write that did not find what was read a moment before, in the same transaction.
fn touched(rows: u64, expected: u64) -> Result<(), sqlx::Error> {
    if rows == expected { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
}
