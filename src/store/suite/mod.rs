//! The guarantees of [`crate::queue`], as cases that every store must pass. Written against the traits
//! alone: an engine provides an empty store, opened with [`LIMITS`], and lists the cases with
//! [`store_suite`].

mod erasure;
mod inbox;
mod log;
mod merge;
mod replay;
mod shared;
mod work;

pub(super) use erasure::*;
pub(super) use inbox::*;
pub(super) use log::*;
pub(super) use merge::*;
pub(super) use replay::*;
pub(super) use shared::*;
pub(super) use work::*;

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use crate::action::{ActionKind, Endpoint, Unmatched, UnmatchedReason};
use crate::queue::{
    Attempt, AttemptOutcome, Consequence, Failure, FailureReason, FrozenRequest, Head,
    Housekeeping, Inbox, Lease, LeaseRequest, Log, MessageRecord, NewDelivery, NewMerge,
    NewMessage, NewPlan, NewRequest, PendingAsk, Replays, Seq, Settlement, Work, WorkError,
};
use crate::segment::ids::OrderKeyKind;
use crate::segment::{LaneKey, MessageHash, MessageType, PersonHash};

/// All that a store can do.
#[async_trait::async_trait]
pub(in crate::store) trait Store:
    Inbox + Work + Log + Replays + Housekeeping
{
    /// Freezes one message, merged with none.
    async fn freeze_one(
        &self,
        lease: &Lease,
        seq: Seq,
        plan: NewPlan,
    ) -> Result<Vec<FrozenRequest>, WorkError> {
        self.freeze(lease, NewMerge { plans: vec![(seq, plan)], merged: Vec::new() }).await
    }
}
impl<T: Inbox + Work + Log + Replays + Housekeeping> Store for T {}

/// How the stores under test keep things.
pub(in crate::store) struct Limits {
    pub(in crate::store) duplicate_window: Duration,
    pub(in crate::store) delivered_retention: Duration,
    pub(in crate::store) failed_retention: Duration,
    pub(in crate::store) records_retention: Duration,
}

pub(in crate::store) const LIMITS: Limits = Limits {
    duplicate_window: Duration::from_secs(1_000),
    delivered_retention: Duration::from_secs(2_000),
    failed_retention: Duration::from_secs(3_000),
    records_retention: Duration::from_secs(4_000),
};

/// Makes a test of each case: `$one` gives an empty store, `$two` two stores on the same data;
/// both come with a guard that is kept until the case has ended.
macro_rules! store_suite {
    (one: $one:path { $($case:ident),* $(,)? } two: $two:path { $($shared:ident),* $(,)? }) => {
        $(
            #[tokio::test]
            async fn $case() {
                let (store, _guard) = $one().await;
                $crate::store::suite::$case(&store).await;
            }
        )*
        $(
            #[tokio::test]
            async fn $shared() {
                let (a, b, _guard) = $two().await;
                $crate::store::suite::$shared(&a, &b).await;
            }
        )*
    };
}
pub(in crate::store) use store_suite;

pub(in crate::store) const DESTINATION: &str = "main";

/// A moment, in milliseconds after the beginning of the test.
pub(in crate::store) fn at(ms: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap() + SignedDuration::from_millis(ms)
}

pub(in crate::store) fn message(id: &str) -> NewMessage {
    NewMessage {
        source: "web".into(),
        destination: DESTINATION.into(),
        message_id: id.into(),
        message_hash: MessageHash::of(id),
        kind: MessageType::Track,
        class: crate::queue::Class::Event,
        lane: LaneKey::of(OrderKeyKind::User, "u1"),
        person: PersonHash::of("u1"),
        received_at: at(0),
        payload: Bytes::from(format!(r#"{{"messageId":"{id}"}}"#)),
        warnings: Vec::new(),
    }
}

pub(in crate::store) fn ask(holder: &str, now: Timestamp) -> LeaseRequest {
    LeaseRequest {
        destination: DESTINATION.into(),
        holder: holder.into(),
        now,
        ttl: Duration::from_millis(100),
    }
}

pub(in crate::store) async fn lease(store: &impl Store) -> Lease {
    store.lease(ask("a", at(0))).await.unwrap().unwrap()
}

pub(in crate::store) fn request(n: u32) -> NewRequest {
    NewRequest {
        endpoint: Endpoint::SendEvent,
        body: Bytes::from(format!(r#"{{"n":{n}}}"#)),
        idempotency_key: (n != 0).then(|| format!("key-{n}")),
        expires_at: (n == 3).then(|| at(99)),
    }
}

pub(in crate::store) fn failure() -> Failure {
    Failure { reason: FailureReason::Invalid, detail: "`userId` is missing".into() }
}

pub(in crate::store) fn delivery(name: &str, outcome: Result<NewRequest, Failure>) -> NewDelivery {
    NewDelivery {
        subscription: Some(name.into()),
        action: Some(ActionKind::SendEvent),
        warnings: Vec::new(),
        outcome,
    }
}

pub(in crate::store) fn plan(deliveries: Vec<NewDelivery>) -> NewPlan {
    let unmatched = deliveries
        .is_empty()
        .then(|| Unmatched { reason: UnmatchedReason::Integrations, detail: "turned off".into() });
    NewPlan { now: at(1), deliveries, unmatched }
}

/// The attempt with this number, at `at(10 × number)`, that took 5 ms.
pub(in crate::store) fn attempt(number: u32, outcome: AttemptOutcome) -> Attempt {
    Attempt {
        number,
        started_at: at(10 * i64::from(number)),
        duration: Duration::from_millis(5),
        status: Some(200),
        outcome,
        excerpt: "{}".into(),
    }
}

pub(in crate::store) fn settlement(
    request: &FrozenRequest,
    number: u32,
    consequence: Consequence,
) -> Settlement {
    let outcome = match consequence {
        Consequence::Delivered => AttemptOutcome::Delivered,
        Consequence::Failed(_) | Consequence::TakenApart => AttemptOutcome::Refused,
        Consequence::Hold => AttemptOutcome::Unauthorized,
        Consequence::Retry(_) => AttemptOutcome::Retry,
    };
    let attempt = attempt(number, outcome);
    let now = attempt.started_at + attempt.duration;
    Settlement { request: request.id, now, attempt: Some(attempt), consequence }
}

/// Accepts one message and answers its place.
pub(in crate::store) async fn put(store: &impl Store, message: NewMessage) -> Seq {
    let id = message.message_id.clone();
    store.accept(vec![message]).await.unwrap();
    record(store, &id).await.seq
}

pub(in crate::store) async fn record(store: &impl Store, id: &str) -> MessageRecord {
    let mut found = store.by_message_id(MessageHash::of(id), id).await.unwrap();
    assert!(!found.is_empty(), "{id} is not there");
    found.remove(0)
}

pub(in crate::store) async fn heads(store: &impl Store) -> Vec<Head> {
    let ask = [PendingAsk { after: Seq(0), limit: 1_000 }; 3];
    let mut heads = store.pending(DESTINATION, ask).await.unwrap().concat();
    heads.sort_by_key(|head| head.seq);
    heads
}
