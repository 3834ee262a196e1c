//! The list of processes and leases.

use super::*;
use crate::queue::{
    CheckIn, DestinationStatus, LeaseHolder, LeaseState, PauseReason, PauseStatus, ProcessStatus,
    REPLICAS_KEPT, Replica,
};

/// A process that has been running for ten seconds.
fn process(name: &str, now: Timestamp) -> CheckIn {
    CheckIn {
        name: name.to_owned(),
        host: format!("host of {name}"),
        version: "1.2.3".to_owned(),
        uptime: Duration::from_secs(10),
        status: status(7),
        now,
    }
}

fn replica(name: &str, first_seen_at: Timestamp, last_seen_at: Timestamp) -> Replica {
    Replica {
        name: name.to_owned(),
        host: format!("host of {name}"),
        version: "1.2.3".to_owned(),
        started_at: first_seen_at - SignedDuration::from_secs(10),
        last_seen_at,
        status: status(7),
    }
}

/// A status with a value for each field.
fn status(free_bytes: u64) -> ProcessStatus {
    let pause = PauseStatus { since: at(1), reason: PauseReason::Key, check_at: at(2) };
    let destination = DestinationStatus {
        is_shadow: true,
        pause: Some(pause),
        rate: 5,
        rate_max: 10,
        requests: 300,
        failing_since: Some(at(3)),
        failing_status: Some(503),
        next_retry_at: Some(at(4)),
        waiting: Some([1, 2, 3]),
        oldest_received_at: Some(at(5)),
        oldest_event_at: Some(at(7)),
        held: Some(6),
        held_since: Some(at(7)),
    };
    ProcessStatus {
        free_bytes: Some(free_bytes),
        is_space_low: true,
        reloaded_at: Some(at(6)),
        rejected: [("a \"source\"".to_owned(), [("bad_json".to_owned(), 7)].into())].into(),
        destinations: [("é".to_owned(), destination)].into(),
    }
}

async fn replicas(store: &dyn Store) -> Vec<Replica> {
    store.replicas(at(0)).await.unwrap().replicas
}

pub(crate) async fn shows_who_holds_which_lease(store: &dyn Store) {
    let leases = async || store.replicas(at(7)).await.unwrap().leases;
    assert_eq!(leases().await, []);
    let ask = |destination: &str, holder: &str, now| LeaseRequest {
        destination: destination.to_owned(),
        ..ask(holder, now)
    };
    let ttl = ask("any", "any", at(0)).ttl;
    let state = |destination: &str, token, holder: Option<(&str, Timestamp, Timestamp)>| {
        let holder = holder.map(|(holder, since, renewed)| LeaseHolder {
            holder: holder.to_owned(),
            since,
            until: renewed + SignedDuration::try_from(ttl).unwrap(),
        });
        LeaseState { destination: destination.to_owned(), token, holder }
    };
    let of_b = store.lease(ask("two", "b", at(0))).await.unwrap().unwrap();
    store.lease(ask("one", "a", at(1))).await.unwrap().unwrap();
    store.lease(ask("one", "a", at(5))).await.unwrap().unwrap();
    let one = state("one", 1, Some(("a", at(1), at(5))));
    assert_eq!(leases().await, [one, state("two", 1, Some(("b", at(0), at(0))))]);
    // The lease passes to another process, which gives it back.
    store.lease(ask("one", "b", at(1_000))).await.unwrap().unwrap();
    store.release(&of_b).await.unwrap();
    let one = state("one", 2, Some(("b", at(1_000), at(1_000))));
    assert_eq!(leases().await, [one, state("two", 1, None)]);
    assert_eq!(store.replicas(at(7)).await.unwrap().now, at(7));
}

pub(crate) async fn lists_processes_until_they_check_out_or_are_not_seen_for_a_day(
    store: &dyn Store,
) {
    assert_eq!(replicas(store).await, []);
    for (name, now) in [("b", at(0)), ("a", at(1)), ("c", at(2))] {
        store.check_in(&process(name, now)).await.unwrap();
    }
    let (a, b, c) =
        (replica("a", at(1), at(1)), replica("b", at(0), at(0)), replica("c", at(2), at(2)));
    assert_eq!(replicas(store).await, [b.clone(), a, c.clone()]);
    store.check_out("a").await.unwrap();
    store.check_out("a").await.unwrap();
    assert_eq!(replicas(store).await, [b, c.clone()]);
    // A later report changes when the process was last seen, not when it started.
    let later = at(0) + SignedDuration::try_from(REPLICAS_KEPT).unwrap();
    let process_c =
        CheckIn { uptime: Duration::from_secs(11), status: status(8), ..process("c", later) };
    store.check_in(&process_c).await.unwrap();
    let c = Replica { last_seen_at: later, status: status(8), ..c };
    assert_eq!(replicas(store).await, [replica("b", at(0), at(0)), c.clone()]);
    let too_late = later + SignedDuration::from_millis(1);
    store.check_in(&process("c", too_late)).await.unwrap();
    assert_eq!(replicas(store).await, [Replica { last_seen_at: too_late, status: status(7), ..c }]);
}

pub(crate) async fn two_stores_list_the_same_processes(a: &dyn Store, b: &dyn Store) {
    let (one, two) = (process("a", at(0)), process("b", at(1)));
    let (one, two) = tokio::join!(a.check_in(&one), b.check_in(&two));
    one.and(two).unwrap();
    let expected = [replica("a", at(0), at(0)), replica("b", at(1), at(1))];
    assert_eq!(replicas(a).await, expected);
    assert_eq!(replicas(b).await, expected);
}
