//! Counts what happened to messages and deliveries, by minute and by hour. The counts are collected during a
//! transaction and written at its end.

use std::collections::HashMap;

use jiff::Timestamp;

use super::values::to_ms;
use crate::queue::{NewDelivery, NewMerge, NewOutcome, Stage, TallyStep};

/// The key of a count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Counted {
    pub(super) stage: Stage,
    pub(super) destination: String,
    pub(super) source: String,
    /// Empty for stages of whole messages.
    pub(super) subscription: String,
    /// Empty where the stage needs none.
    pub(super) reason: String,
}

impl Counted {
    /// Creates a key without subscription and reason.
    pub(super) fn new(stage: Stage, destination: &str, source: &str) -> Self {
        Self {
            stage,
            destination: destination.to_owned(),
            source: source.to_owned(),
            subscription: String::new(),
            reason: String::new(),
        }
    }
}

/// The counts of a transaction.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    /// Keyed by the minute since the epoch.
    counts: HashMap<(i64, Counted), i64>,
}

impl Tallies {
    pub(super) fn add(&mut self, at: Timestamp, counted: Counted, count: i64) {
        let minute = to_ms(at).div_euclid(TallyStep::Minute.ms());
        *self.counts.entry((minute, counted)).or_default() += count;
    }

    /// Returns how many were added for a stage and a destination.
    pub(super) fn count(&self, stage: Stage, destination: &str) -> i64 {
        let is_it =
            |counted: &Counted| counted.stage == stage && counted.destination == destination;
        self.counts.iter().filter(|((_, counted), _)| is_it(counted)).map(|(_, count)| count).sum()
    }

    /// Counts a planned delivery: its warnings, and its outcome if it needs no request.
    pub(super) fn add_delivery(
        &mut self,
        at: Timestamp,
        delivery: &NewDelivery,
        destination: &str,
        source: &str,
    ) {
        let of_delivery = |stage, reason: &str| Counted {
            subscription: delivery.subscription.clone().unwrap_or_default(),
            reason: reason.to_owned(),
            ..Counted::new(stage, destination, source)
        };
        if !delivery.warnings.is_empty() {
            self.add(at, of_delivery(Stage::DeliveryWarned, ""), 1);
        }
        let stage = match delivery.outcome {
            NewOutcome::Request(_) => return,
            NewOutcome::NotNeeded(_) => Stage::DeliveryDelivered,
            NewOutcome::Failed(_) => Stage::DeliveryFailed,
        };
        let (reason, _) = delivery.outcome.ended().unwrap_or_default();
        self.add(at, of_delivery(stage, reason), 1);
    }

    /// Counts the requests that these plans make, and those that they save.
    pub(super) fn add_economy(&mut self, merge: &NewMerge, destination: &str, source: &str) {
        let Some((_, first)) = merge.plans.first() else { return };
        let economy = merge.economy();
        let made = Counted::new(Stage::Request, destination, source);
        let saved = economy.saved().map(|(how, count)| {
            let saved = Counted::new(Stage::RequestSaved, destination, source);
            (Counted { reason: how.to_owned(), ..saved }, count)
        });
        for (counted, count) in [(made, economy.requests)].into_iter().chain(saved) {
            if count > 0 {
                self.add(first.now, counted, i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    /// Returns the additions to the stored counts. All processes use the same order, so that they cannot deadlock.
    pub(super) fn into_rows(self) -> Vec<TallyRow> {
        let mut rows = Vec::with_capacity(self.counts.len() * TallyStep::ALL.len());
        for ((minute, counted), count) in self.counts {
            for step in TallyStep::ALL {
                let at = minute * TallyStep::Minute.ms();
                let at = at - at.rem_euclid(step.ms());
                rows.push(TallyRow { step: step.ms(), at, counted: counted.clone(), count });
            }
        }
        rows.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        rows.dedup_by(|later, first| {
            let is_same = later.key() == first.key();
            if is_same {
                first.count += later.count;
            }
            is_same
        });
        rows
    }
}

/// An addition to one stored count.
#[derive(Debug)]
pub(super) struct TallyRow {
    /// The length of the interval in milliseconds.
    pub(super) step: i64,
    /// Its beginning.
    pub(super) at: i64,
    pub(super) counted: Counted,
    pub(super) count: i64,
}

impl TallyRow {
    fn key(&self) -> (i64, i64, &Counted) {
        (self.step, self.at, &self.counted)
    }
}
