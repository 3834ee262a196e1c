//! Building blocks of the cases: messages, plans, settlements, and short ways to store and find them.

use super::*;

/// Freezes single messages.
#[async_trait::async_trait]
pub(crate) trait FreezeOne: Work {
    /// Freezes one message without merging.
    async fn freeze_one(
        &self,
        lease: &Lease,
        seq: Seq,
        plan: NewPlan,
    ) -> Result<Vec<FrozenRequest>, WorkError> {
        let merge = NewMerge {
            plans: vec![(seq, plan)],
            merged: Vec::new(),
            claims: Vec::new(),
            is_shadow: false,
            cap: None,
        };
        Ok(self.freeze(lease, merge).await?.requests)
    }
}
impl<T: Work + ?Sized> FreezeOne for T {}

/// The retention of the stores under test.
pub(crate) struct Limits {
    pub(crate) duplicate_window: Duration,
    pub(crate) delivered_retention: Duration,
    pub(crate) failed_retention: Duration,
    pub(crate) records_retention: Duration,
}

pub(crate) const LIMITS: Limits = Limits {
    duplicate_window: Duration::from_secs(1_000),
    delivered_retention: Duration::from_secs(2_000),
    failed_retention: Duration::from_secs(3_000),
    records_retention: Duration::from_secs(72 * 60 * 60),
};

pub(crate) const DESTINATION: &str = "main";

/// A time, in milliseconds after the beginning of the test.
pub(crate) fn at(ms: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap() + SignedDuration::from_millis(ms)
}

pub(crate) fn message(id: &str) -> NewMessage {
    NewMessage {
        source: "web".into(),
        destination: DESTINATION.into(),
        message_id: id.into(),
        message_hash: message_hash(id),
        kind: MessageType::Track,
        class: crate::queue::Class::Event,
        lane: lane("u1"),
        anonymous: None,
        email: None,
        event: Some("Tested".into()),
        received_at: at(0),
        payload: Bytes::from(format!(r#"{{"messageId":"{id}"}}"#)),
        warnings: Vec::new(),
        trace: None,
    }
}

/// The key of the installation, with which [`Fixture`] opens its stores.
pub(crate) const INSTALLATION_KEY: [u8; 32] = [7; 32];

pub(crate) fn message_hash(id: &str) -> MessageHash {
    Digests::new(&INSTALLATION_KEY).message_id(id)
}

/// The digest of a user's id.
pub(crate) fn user(id: &str) -> PersonDigest {
    Digests::new(&INSTALLATION_KEY).person(PersonIdKind::User, id)
}

/// The lane of a user.
pub(crate) fn lane(id: &str) -> LaneKey {
    user(id).into()
}

/// The latest messages of a user.
pub(crate) async fn of_person(
    store: &dyn Store,
    id: &str,
    before: Option<Seq>,
    limit: u32,
) -> Vec<MessageRecord> {
    let filter = Filter { persons: vec![user(id)], ..Filter::default() };
    store.list(&filter, before, limit).await.unwrap().messages
}

pub(crate) fn ask(holder: &str, now: Timestamp) -> LeaseRequest {
    LeaseRequest {
        destination: DESTINATION.into(),
        holder: holder.into(),
        now,
        ttl: Duration::from_millis(100),
    }
}

pub(crate) async fn lease(store: &dyn Store) -> Lease {
    store.lease(ask("a", at(0))).await.unwrap().unwrap()
}

pub(crate) fn request(n: u32) -> NewRequest {
    NewRequest {
        endpoint: Endpoint::SendEvent,
        body: Bytes::from(format!(r#"{{"n":{n}}}"#)),
        idempotency_key: (n != 0).then(|| format!("key-{n}")),
        expires_at: (n == 3).then(|| at(99)),
        is_redundant: false,
    }
}

pub(crate) fn failure() -> Failure {
    Failure { reason: FailureReason::Invalid, detail: "`userId` is missing".into() }
}

/// The digest of the request that each delivery was planned with.
pub(crate) const PLANNED: Option<RequestDigest> = Some(RequestDigest(-7));

pub(crate) fn delivery(name: &str, outcome: Result<NewRequest, Failure>) -> NewDelivery {
    NewDelivery {
        subscription: Some(name.into()),
        action: Some(ActionKind::SendEvent),
        warnings: Vec::new(),
        planned: PLANNED,
        outcome: outcome.into(),
    }
}

pub(crate) fn plan(deliveries: Vec<NewDelivery>) -> NewPlan {
    let unmatched = deliveries
        .is_empty()
        .then(|| Unmatched { reason: UnmatchedReason::Integrations, detail: "turned off".into() });
    NewPlan { now: at(1), deliveries, unmatched }
}

/// The attempt with this number, which started at `at(10 × number)` and took 5 ms.
pub(crate) fn attempt(number: u32, outcome: AttemptOutcome) -> Attempt {
    Attempt {
        number,
        started_at: at(10 * i64::from(number)),
        duration: Duration::from_millis(5),
        status: Some(200),
        outcome,
        excerpt: "{}".into(),
    }
}

/// The destination is paused, and the request was not tried before.
pub(crate) const HOLD: Consequence = Consequence::Hold { first_attempt_at: None };

pub(crate) fn settlement(
    request: &FrozenRequest,
    number: u32,
    consequence: Consequence,
) -> Settlement {
    let outcome = match consequence {
        Consequence::Delivered | Consequence::Shadowed => AttemptOutcome::Delivered,
        Consequence::Failed(_) | Consequence::TakenApart | Consequence::EventFailed(_) => {
            AttemptOutcome::Refused
        }
        Consequence::EventDelivered => AttemptOutcome::DeliveredBefore,
        Consequence::Hold { .. } => AttemptOutcome::Unauthorized,
        Consequence::Retry(_) | Consequence::Begin => AttemptOutcome::Retry,
    };
    let attempt = attempt(number, outcome);
    let now = attempt.started_at + attempt.duration;
    Settlement {
        request: request.id,
        now,
        attempt: (consequence != Consequence::Shadowed).then_some(attempt),
        consequence,
        contact: None,
        awaiting: None,
    }
}

/// Accepts one message; returns its sequence number.
pub(crate) async fn put(store: &dyn Store, message: NewMessage) -> Seq {
    let id = message.message_id.clone();
    store.accept(vec![message]).await.unwrap();
    record(store, &id).await.seq
}

pub(crate) async fn record(store: &dyn Store, id: &str) -> MessageRecord {
    let mut found = store.by_message_id(message_hash(id), id).await.unwrap();
    assert!(!found.is_empty(), "{id} is not there");
    found.remove(0)
}

pub(crate) async fn heads(store: &dyn Store) -> Vec<Head> {
    let ask = [PendingAsk { after: Seq(0), limit: 1_000 }; 3];
    let mut heads = store.pending(DESTINATION, ask).await.unwrap().concat();
    heads.sort_by_key(|head| head.seq);
    heads
}
