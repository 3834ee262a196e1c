//! The promises of [`crate::queue`], as cases that every store must pass.
//!
//! An engine implements [`Fixture`] and calls [`store_suite!`] once, which makes a test of each case. The list
//! of cases is in the macro, so that an engine cannot leave one out; a case that is missing from the list is
//! dead code, which does not compile here. After each case, the stores are closed and [`Fixture`] says whether
//! anything was left behind.
#![deny(dead_code)]

mod audit;
mod catalogue;
mod consent;
mod contacts;
mod data;
mod erasure;
mod feedback;
mod inbox;
mod list;
mod log;
mod merge;
mod new_contacts;
mod receipts;
mod replay;
mod replicas;
mod shadow;
mod shared;
mod tallies;
mod work;

pub(crate) use audit::*;
pub(crate) use catalogue::*;
pub(crate) use consent::*;
pub(crate) use contacts::*;
pub(crate) use data::*;
pub(crate) use erasure::*;
pub(crate) use feedback::*;
pub(crate) use inbox::*;
pub(crate) use list::*;
pub(crate) use log::*;
pub(crate) use merge::*;
pub(crate) use new_contacts::*;
pub(crate) use receipts::*;
pub(crate) use replay::*;
pub(crate) use replicas::*;
pub(crate) use shadow::*;
pub(crate) use shared::*;
pub(crate) use tallies::*;
pub(crate) use work::*;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use crate::action::{ActionKind, Endpoint, Unmatched, UnmatchedReason};
use crate::queue::{
    AcceptError, Attempt, AttemptOutcome, Consequence, Contents, Failure, FailureReason, Filter,
    FrozenRequest, Head, Lease, LeaseRequest, MessageRecord, NewDelivery, NewMerge, NewMessage,
    NewPlan, NewRequest, PendingAsk, Seq, Settlement, Store, Work, WorkError,
};
use crate::segment::{
    Digests, LaneKey, MessageHash, MessageType, PersonDigest, PersonIdKind, RequestDigest,
};

/// How long a closed store may take to end. Only a store that never ends reaches it.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// Where an engine keeps the data of one case. Dropping it deletes the data.
pub(crate) trait Fixture {
    /// Makes a location without data.
    async fn empty() -> Self;

    /// Opens a store on the data, with [`LIMITS`] and [`INSTALLATION_KEY`]. The suite calls it several times, also
    /// concurrently while there is no data yet. Each store behaves as if it belonged to another process.
    async fn open(&self) -> Arc<dyn Store>;

    /// Returns the names of things that the engine should have removed, now that all stores on the data are closed.
    fn left_behind(&self) -> Vec<String>;
}

/// Makes a test of each case, over the engine of a [`Fixture`].
macro_rules! store_suite {
    ($fixture:ty) => {
        $crate::queue::suite::store_suite! { $fixture, on_one:
            recognizes_duplicates,
            keeps_the_edge_of_the_duplicate_window,
            accepts_a_large_batch_in_order,
            reads_pending_in_pages_by_destination,
            reads_a_lane_in_parts,
            lists_destinations_with_pending_messages,
            reports_the_depth_of_a_destination,
            signals_arrivals,
            is_ready,
            leases_to_one_holder_at_a_time,
            releases_a_lease_once,
            shows_who_holds_which_lease,
            lists_processes_until_they_check_out_or_are_not_seen_for_a_day,
            opens_pending_messages,
            freezes_requests_in_order,
            ends_a_message_that_needs_no_request,
            schedules_a_retry,
            a_held_request_does_not_start_its_retry_window,
            an_event_counts_as_tried_before_it_is_sent,
            counts_the_retry_window_from_the_earliest_attempt,
            shows_the_earliest_next_attempt,
            ends_a_message_with_its_last_delivery,
            gives_up_a_request_without_an_attempt,
            sets_a_broken_message_aside,
            refuses_steps_under_a_lost_lease,
            a_merged_request_carries_its_deliveries,
            what_a_request_carries_can_be_read,
            the_traces_of_what_a_request_carries_can_be_read,
            a_refused_merged_request_is_taken_apart,
            neighbours_of_an_event_that_ended_are_sent_alone,
            neighbours_of_an_event_that_was_set_aside_are_sent_alone,
            a_merged_request_goes_on_without_a_message_that_is_set_aside,
            merged_requests_go_with_their_records,
            merging_writes_all_or_nothing,
            shows_everything_about_a_message,
            keeps_the_warnings_of_a_message,
            shows_a_message_that_failed_before_any_subscription_was_tried,
            finds_the_same_id_from_several_sources,
            finds_a_message_by_its_number,
            reads_contents_until_their_retention_is_over,
            finds_a_person_in_pages,
            finds_a_person_by_any_id,
            lists_what_meets_every_condition,
            lists_what_ended_behind_a_long_queue,
            lists_replayed_messages_by_the_time_they_were_received,
            groups_failures_by_cause,
            remembers_the_names_of_events,
            bounds_the_names_of_events_of_a_source,
            counts_each_message_once_however_it_ends,
            counts_merged_deliveries_by_source,
            counts_a_repeated_step_once,
            counts_by_minute_and_by_hour,
            keeps_counts_by_minute_for_two_days,
            purges_a_bounded_number_of_counts_per_call,
            knows_the_newest_time,
            purges_after_each_retention,
            keeps_a_record_from_the_time_it_ended,
            purges_what_a_clock_that_was_ahead_has_written,
            purges_a_bounded_number_per_call,
            replays_behind_pending_messages,
            keeps_the_order_of_acceptance_over_replays,
            a_replay_keeps_earlier_deliveries,
            replays_for_one_subscription_alone,
            replays_what_a_choice_takes_for_its_subscriptions,
            a_failure_that_stands_keeps_a_message_failed,
            replays_only_selected_messages,
            replays_each_once_in_bounded_parts,
            replays_nothing_twice_when_a_part_is_repeated,
            counts_messages_without_contents,
            erases_after_a_delivered_deletion,
            erases_after_nothing_but_a_delivered_deletion,
            erases_once_a_partly_failed_deletion_is_done,
            erases_a_bounded_number_per_call,
            does_not_replay_a_person_being_deleted,
            an_event_is_revived_once_its_contact_appears,
            what_a_person_replays_is_not_revived_too,
            each_delivery_that_waits_is_revived,
            replays_nothing_from_before_a_deletion_whatever_its_type,
            a_deletion_overtakes_a_replay,
            erases_once_a_half_delivered_deletion_is_set_aside,
            erases_nothing_of_another_person_with_the_same_address,
            only_the_message_id_finds_what_was_erased,
            records_feedback_once,
            finds_the_feedback_about_a_person_by_any_id,
            lists_the_feedback_of_a_destination,
            hands_a_webhook_on_until_that_is_ended,
            bounds_what_waits_to_be_handed_on,
            feedback_is_kept_as_long_as_records,
            a_webhook_is_handed_on_for_a_day,
            erases_feedback_about_a_deleted_person,
            erases_much_feedback_in_bounded_parts,
            learns_what_loops_accepted,
            finds_contacts_that_are_mixed_up,
            forgets_what_may_not_be_true,
            a_contact_of_two_lanes_is_shared,
            a_request_that_is_on_its_way_shares_its_contact,
            an_address_of_thousands_is_shared_by_all_of_them,
            what_loops_reports_counts_more_than_an_earlier_attempt,
            contacts_go_with_their_person,
            contacts_are_forgotten_after_a_long_time,
            counts_each_new_contact_once,
            a_contact_that_loops_reported_is_not_new,
            a_contact_that_was_deleted_is_new_again,
            holds_what_would_create_too_many_contacts,
            what_is_held_is_not_the_oldest_that_waits,
            what_is_held_goes_on_when_there_is_room,
            discards_what_is_held,
            what_is_held_keeps_nobody_from_being_deleted,
            a_merge_without_room_holds_nothing,
            a_list_makes_contacts_known,
            each_deletion_has_a_receipt,
            a_receipt_can_be_made_before_the_first_attempt,
            a_refused_deletion_stays_open_until_a_later_one_covers_it,
            a_deletion_that_was_refused_twice_ends_with_one_replay,
            loops_confirms_a_deletion_before_its_answer_or_after,
            leaving_beside_a_deletion_is_nobodys_wish,
            who_leaves_after_coming_back_has_left,
            it_is_known_when_a_person_was_deleted,
            receipts_are_listed_in_pages_and_kept_for_400_days,
            who_left_is_known,
            who_came_back_has_not_left,
            a_request_that_loops_accepted_brings_back_who_had_left_before,
            an_opt_out_that_was_taken_back_before_it_arrived_does_not_count,
            who_left_outlives_retention_and_not_the_person,
            a_delivery_without_a_request_is_delivered,
            what_is_shadowed_has_ended_and_was_not_tried,
            a_shadowed_request_ends_all_that_it_carries,
            what_is_shadowed_teaches_nothing,
            a_shadowed_deletion_erases_nothing,
            replays_what_was_shadowed_and_nothing_else,
            what_was_shadowed_and_stands_keeps_a_message_shadowed,
            what_was_shadowed_is_kept_like_what_was_delivered,
            lists_what_people_did_newest_first,
            keeps_what_people_did_as_long_as_records,
            only_the_holder_of_the_lease_keeps_a_catalogue,
        }
        $crate::queue::suite::store_suite! { $fixture, on_two:
            two_stores_share_order_and_duplicates,
            a_catalogue_is_kept_for_each_destination_and_seen_by_all,
            two_stores_keep_one_copy_of_a_message,
            a_lease_passes_between_two_stores,
            only_one_of_two_stores_gets_a_free_lease,
            two_stores_list_the_same_processes,
            two_stores_record_a_webhook_once_and_hand_it_on_once,
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
    // Opened concurrently, so that both find no schema and create it.
    let (a, b) = tokio::join!(fixture.open(), fixture.open());
    case(&*a, &*b).await;
    end(&fixture, &[a, b]).await;
}

/// Closes the stores of a case. They must end, refuse every later call, and leave nothing behind but data that another
/// store can open.
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
