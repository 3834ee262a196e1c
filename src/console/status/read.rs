//! Reads the data behind the state of the service.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use super::found::{Found, HOUR, MINUTE, THROUGHPUT_MINUTES, WEEK};
use super::reported::{Rejected, rejected_by, reported};
use super::view::{Conflict, DestinationNow, Status};
use crate::console::state::AdminState;
use crate::queue::{ConflictKind, IdentityConflict, RequestId, Seq, TallyStep, Unavailable};

/// Reads the present state of the service.
pub(in crate::console) async fn read(state: &AdminState) -> Result<Status, Unavailable> {
    let now = state.clock.now();
    let replicas = state.store.replicas(now).await?;
    let configured: BTreeSet<String> = state.planners.keys().cloned().collect();
    let mut names = configured.clone();
    names.extend(state.store.destinations().await?);
    let reported = reported(&replicas);
    let mut depths = BTreeMap::new();
    for name in names {
        // The process that delivers counts regularly; without one, count here.
        if reported.get(name.as_str()).is_none_or(|(_, one)| one.waiting.is_none()) {
            let depth = state.depths.of(&name, async || state.store.depth(&name).await).await?;
            depths.insert(name, depth);
        }
    }
    let since = |span| now.checked_sub(span).unwrap_or(Timestamp::MIN);
    let minutes = state.store.tallies(TallyStep::Minute, since(HOUR), Timestamp::MAX).await?;
    let hours = state.store.tallies(TallyStep::Hour, since(WEEK), Timestamp::MAX).await?;
    let days = state.store.new_contacts(now).await?;
    let accepts = state.store.ready().await.is_ok();
    let conflicts = conflicts(state, since(WEEK)).await?;
    let caps = caps(state);
    let mut held = BTreeMap::new();
    for name in caps.keys() {
        held.insert(name.clone(), state.store.count_held(name).await?);
    }
    Ok(Status::of(Found {
        accepts,
        replicas,
        depths,
        configured,
        shadows: shadows(state),
        sources: state.sources.borrow().names().map(str::to_owned).collect(),
        minutes,
        hours,
        days,
        caps,
        held,
        conflicts,
    }))
}

/// The conflicts to show, each with a message.
pub(super) async fn conflicts(
    state: &AdminState,
    since: Timestamp,
) -> Result<Vec<Conflict>, Unavailable> {
    let mut found = state.store.conflicts(since).await?;
    found.retain(|one| match one.kind {
        ConflictKind::Addresses => {
            let planner = state.planners.get(&one.destination);
            let most = planner.map_or(0, |destination| {
                destination.borrow().contact_options().identity_addresses_max
            });
            one.count > u64::from(most)
        }
        ConflictKind::UserIds => true,
    });
    let requests: Vec<RequestId> = found.iter().map(|one| one.request).collect();
    let messages: HashMap<RequestId, Seq> = state
        .store
        .request_contents(&requests)
        .await?
        .into_iter()
        .filter_map(|one| Some((one.id, *one.seqs.last()?)))
        .collect();
    let conflict = |one: IdentityConflict| Conflict {
        destination: one.destination,
        kind: one.kind,
        day: one.day,
        count: one.count,
        seq: messages.get(&one.request).map(|seq| seq.0),
    };
    Ok(found.into_iter().map(conflict).collect())
}

/// Returns the state of delivery to one destination, as [`read`] does, but without the counts of an hour and a day.
pub(in crate::console) async fn delivery(
    state: &AdminState,
    destination: &str,
) -> Result<DestinationNow, Unavailable> {
    let now = state.clock.now();
    let replicas = state.store.replicas(now).await?;
    let mut depths = BTreeMap::new();
    if reported(&replicas).get(destination).is_none_or(|(_, one)| one.waiting.is_none()) {
        let depth = state.depths.of(destination, async || state.store.depth(destination).await);
        depths.insert(destination.to_owned(), depth.await?);
    }
    let from = now.checked_sub(MINUTE * (THROUGHPUT_MINUTES as i32 + 2)).unwrap_or(Timestamp::MIN);
    let found = Found {
        accepts: true,
        replicas,
        depths,
        configured: state.planners.keys().cloned().collect(),
        shadows: shadows(state),
        sources: BTreeSet::new(),
        minutes: state.store.tallies(TallyStep::Minute, from, Timestamp::MAX).await?,
        hours: Vec::new(),
        days: Vec::new(),
        caps: caps(state),
        held: BTreeMap::new(),
        conflicts: Vec::new(),
    };
    Ok(found.destination(destination, &reported(&found.replicas)))
}

/// Returns the destinations that are in shadow mode in this process.
pub(super) fn shadows(state: &AdminState) -> BTreeSet<String> {
    let all = state.planners.iter().filter(|(_, planner)| planner.borrow().is_shadow());
    all.map(|(name, _)| name.clone()).collect()
}

/// Returns how many contacts may be created in a day, for each destination with such a cap.
pub(super) fn caps(state: &AdminState) -> BTreeMap<String, u32> {
    let caps = state.planners.iter().map(|(name, planner)| {
        (name.clone(), planner.borrow().contact_options().new_contacts_per_day)
    });
    caps.filter(|(_, per_day)| *per_day > 0).collect()
}

/// Returns what all processes rejected in the last hour.
pub(in crate::console) async fn rejected(state: &AdminState) -> Result<Rejected, Unavailable> {
    Ok(rejected_by(&state.store.replicas(state.clock.now()).await?))
}
