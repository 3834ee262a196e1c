//! Chooses the messages to replay after a mapping has changed: those for which the current subscriptions would send a
//! different request.
//!
//! Each delivery keeps a digest of the request that its subscription made. So the comparison works even if the request
//! itself is gone, was merged with others, or was not needed. Changes that a guard or a merge makes to a request later
//! do not count.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::spawn_blocking;

use super::state::Planners;
use crate::destination::Destination;
use crate::queue::{
    Choice, Chosen, Contents, DeliveryState, Log, MessageRecord, Selection, Seq, Unavailable,
};
use crate::segment::Digests;

/// The most messages whose contents are in memory at once.
const READ_AT_ONCE: usize = 20;

/// Chooses messages for which the subscriptions would send a different request.
#[derive(Clone)]
pub struct Changed {
    log: Arc<dyn Log>,
    planners: Arc<HashMap<String, Arc<Destination>>>,
}

impl Changed {
    /// Compares with these planners, by the name of their destination.
    pub fn new(log: Arc<dyn Log>, planners: HashMap<String, Arc<Destination>>) -> Self {
        Self { log, planners: Arc::new(planners) }
    }

    /// Compares with the subscriptions in force.
    pub(super) fn in_force(log: Arc<dyn Log>, planners: &Planners) -> Self {
        let now = planners.iter().map(|(name, now)| (name.clone(), Arc::clone(&now.borrow())));
        Self::new(log, now.collect())
    }

    /// Returns the subscriptions that would send a different request for a message, and those that newly take it.
    fn subscriptions(
        &self,
        selection: &Selection,
        record: &MessageRecord,
        contents: &Contents,
        digests: &Digests,
    ) -> Vec<String> {
        let planner = self.planners.get(&record.destination);
        let Some((planner, message)) = planner.zip(contents.message()) else { return Vec::new() };
        let standing = || record.deliveries.iter().filter(|delivery| !delivery.is_superseded);
        let only = selection.filter.subscription.as_deref();
        let plan = planner.plan(&message);
        let planned = plan.deliveries.iter().filter(|now| {
            // A delivery that would fail now is not worth a replay.
            let Some(made_now) = now.digest(digests) else { return false };
            if only.is_some_and(|only| only != now.subscription) {
                return false;
            }
            let name = Some(now.subscription.as_str());
            match standing().find(|before| before.subscription.as_deref() == name) {
                // A replay of failures does not repeat what was delivered.
                Some(before) if selection.state.only().is_some_and(|only| before.state != only) => {
                    false
                }
                Some(before) => before.planned != Some(made_now),
                // The subscription was renamed if the same request was delivered under another name.
                None => !standing().any(|before| {
                    let is_ended =
                        matches!(before.state, DeliveryState::Delivered | DeliveryState::Shadowed);
                    is_ended && before.planned == Some(made_now)
                }),
            }
        });
        planned.map(|now| now.subscription.clone()).collect()
    }
}

impl std::fmt::Debug for Changed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Changed").finish_non_exhaustive()
    }
}

#[async_trait]
impl Choice for Changed {
    async fn choose(
        &self,
        selection: &Selection,
        seqs: &[Seq],
    ) -> Result<Vec<Chosen>, Unavailable> {
        let mut chosen = Vec::new();
        for seqs in seqs.chunks(READ_AT_ONCE) {
            let records = self.log.messages(seqs).await?;
            let contents = self.log.contents(seqs).await?;
            let (changed, selection, digests) =
                (self.clone(), selection.clone(), self.log.digests());
            // Mapping takes computing time, so it runs on a blocking thread.
            let found = spawn_blocking(move || {
                let of = |contents: &Contents| {
                    let record = records.iter().find(|record| record.seq == contents.seq)?;
                    let subscriptions =
                        changed.subscriptions(&selection, record, contents, &digests);
                    let is_changed = !subscriptions.is_empty();
                    is_changed.then_some(Chosen { seq: record.seq, subscriptions })
                };
                contents.iter().filter_map(of).collect::<Vec<Chosen>>()
            });
            chosen.extend(found.await.map_err(|panicked| Unavailable(Box::new(panicked)))?);
        }
        Ok(chosen)
    }
}
