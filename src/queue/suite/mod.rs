//! The promises of [`crate::queue`], as cases that every store must pass.
//!
//! An engine implements [`Fixture`] and calls [`store_suite!`] once, which makes a test of each case. The list
//! of cases is in the macro, so that an engine cannot leave one out; a case that is missing from the list is
//! dead code, which does not compile here. After each case, the stores are closed and [`Fixture`] says whether
//! anything was left behind.
#![deny(dead_code)]

mod erasure;
mod inbox;
mod log;
mod merge;
mod replay;
mod shared;
mod work;

pub(crate) use erasure::*;
pub(crate) use inbox::*;
pub(crate) use log::*;
pub(crate) use merge::*;
pub(crate) use replay::*;
pub(crate) use shared::*;
pub(crate) use work::*;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use crate::action::{ActionKind, Endpoint, Unmatched, UnmatchedReason};
use crate::queue::{
    AcceptError, Attempt, AttemptOutcome, Consequence, Failure, FailureReason, Filter,
    FrozenRequest, Head, Lease, LeaseRequest, MessageRecord, NewDelivery, NewMerge, NewMessage,
    NewPlan, NewRequest, PendingAsk, Seq, Settlement, Store, Work, WorkError,
};
use crate::segment::{Digests, LaneKey, MessageHash, MessageType, PersonDigest, PersonIdKind};

/// How long a closed store may take to end. Only a store that never ends takes so long.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// Where an engine keeps the data of one case. Dropping it deletes the data.
pub(crate) trait Fixture {
    /// Makes a place without data.
    async fn empty() -> Self;

    /// Opens a store on the data, with [`LIMITS`] and [`INSTALLATION_KEY`]. The suite calls it several times, also concurrently while
    /// there are no data yet: each store behaves like one of another process.
    async fn open(&self) -> Arc<dyn Store>;

    /// Names everything that the engine should have removed, now that all stores on the data are closed.
    fn left_behind(&self) -> Vec<String>;
}

/// Makes a test of each case, over the engine of a [`Fixture`].
macro_rules! store_suite {
    ($fixture:ty) => {
        $crate::queue::suite::store_suite! { $fixture, on_one:
            tells_new_from_duplicate,
            keeps_the_edge_of_the_duplicate_window,
            accepts_a_large_batch_in_order,
            reads_pending_in_pages_by_destination,
            reads_a_lane_in_parts,
            names_all_destinations_that_are_waited_for,
            tells_the_depth,
            hints_at_arrivals,
            is_ready,
            leases_to_one_holder_at_a_time,
            releases_a_lease_once,
            opens_what_is_pending,
            freezes_requests_in_order,
            ends_a_message_that_needs_no_request,
            keeps_a_retry_for_later,
            does_not_start_the_window_of_what_it_holds,
            shows_the_earliest_next_attempt,
            ends_a_message_with_its_last_delivery,
            gives_a_request_up_without_an_attempt,
            sets_a_broken_message_aside,
            fences_whoever_lost_the_lease,
            a_merged_request_carries_its_deliveries,
            a_refused_merged_request_is_taken_apart,
            a_merged_request_goes_on_without_a_message_that_is_set_aside,
            merged_requests_go_with_their_records,
            merging_writes_all_or_nothing,
            shows_everything_about_a_message,
            shows_what_was_noticed_when_a_message_came,
            shows_a_message_that_failed_before_any_subscription_was_asked,
            finds_one_id_of_several_sources,
            finds_a_person_in_pages,
            purges_in_time,
            keeps_a_record_from_when_it_ended,
            purges_a_bounded_number_at_once,
            replays_behind_what_waits,
            keeps_the_order_of_acceptance_over_replays,
            keeps_what_was_delivered_before_a_replay,
            replays_for_one_subscription_alone,
            a_failure_that_stands_keeps_a_message_failed,
            chooses_what_to_replay,
            replays_each_once_in_bounded_parts,
            counts_what_has_no_contents_left,
            erases_whose_deletion_was_delivered,
            erases_only_for_a_deletion_that_was_delivered,
            erases_when_the_deletion_is_over_though_another_delivery_of_it_failed,
            erases_a_bounded_number_at_once,
            does_not_bring_back_who_is_being_deleted,
            replays_nothing_from_before_a_deletion_whatever_its_type,
            knows_a_deletion_that_overtook_a_replay,
        }
        $crate::queue::suite::store_suite! { $fixture, on_two:
            two_share_one_order_and_one_memory,
            one_message_sent_to_two_is_kept_once,
            a_lease_passes_from_one_to_the_other,
            only_one_of_two_gets_a_free_lease,
        }
    };
    ($fixture:ty, $run:ident: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::queue::suite::$run::<$fixture>($crate::queue::suite::$case).await;
            }
        )*
    };
}
pub(crate) use store_suite;

/// Runs a case over one store.
pub(crate) async fn on_one<F: Fixture>(case: impl AsyncFnOnce(&dyn Store)) {
    let fixture = F::empty().await;
    let store = fixture.open().await;
    case(&*store).await;
    end(&fixture, &[store]).await;
}

/// Runs a case over two stores on the same data.
pub(crate) async fn on_two<F: Fixture>(case: impl AsyncFnOnce(&dyn Store, &dyn Store)) {
    let fixture = F::empty().await;
    // Concurrently, so that both find no schema and make one.
    let (a, b) = tokio::join!(fixture.open(), fixture.open());
    case(&*a, &*b).await;
    end(&fixture, &[a, b]).await;
}

/// Closes the stores of a case: they end, refuse every later call and leave nothing behind but the data,
/// which another store can open.
async fn end(fixture: &impl Fixture, stores: &[Arc<dyn Store>]) {
    let pending = heads(&*stores[0]).await;
    for store in stores {
        let ended = timeout(Duration::ZERO, store.ended()).await;
        assert!(ended.is_err(), "the store ended before it was closed");
        close(&**store).await;
    }
    assert_eq!(fixture.left_behind(), [""; 0]);
    let again = fixture.open().await;
    again.ready().await.unwrap();
    assert_eq!(heads(&*again).await, pending, "closing and opening changed what is pending");
    close(&*again).await;
    assert_eq!(fixture.left_behind(), [""; 0]);
}

async fn close(store: &dyn Store) {
    store.close().await;
    timeout(END_TIMEOUT, store.ended()).await.expect("the store goes on though it was closed");
    let accepted = store.accept(vec![message("late")]).await;
    assert!(matches!(accepted, Err(AcceptError::Unavailable(_))), "{accepted:?}");
    store.lease(ask("late", at(0))).await.expect_err("a closed store gave a lease");
    store.depth(DESTINATION).await.expect_err("a closed store was read");
    store.ready().await.expect_err("a closed store is ready");
    store.close().await;
}

/// Freezes single messages.
#[async_trait::async_trait]
pub(crate) trait FreezeOne: Work {
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
impl<T: Work + ?Sized> FreezeOne for T {}

/// How the stores under test keep things.
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
    records_retention: Duration::from_secs(4_000),
};

pub(crate) const DESTINATION: &str = "main";

/// A moment, in milliseconds after the beginning of the test.
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
    }
}

pub(crate) fn failure() -> Failure {
    Failure { reason: FailureReason::Invalid, detail: "`userId` is missing".into() }
}

pub(crate) fn delivery(name: &str, outcome: Result<NewRequest, Failure>) -> NewDelivery {
    NewDelivery {
        subscription: Some(name.into()),
        action: Some(ActionKind::SendEvent),
        warnings: Vec::new(),
        outcome,
    }
}

pub(crate) fn plan(deliveries: Vec<NewDelivery>) -> NewPlan {
    let unmatched = deliveries
        .is_empty()
        .then(|| Unmatched { reason: UnmatchedReason::Integrations, detail: "turned off".into() });
    NewPlan { now: at(1), deliveries, unmatched }
}

/// The attempt with this number, at `at(10 × number)`, that took 5 ms.
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

pub(crate) fn settlement(
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
