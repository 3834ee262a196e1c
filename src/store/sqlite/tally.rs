//! Counts of what happened to messages and deliveries, by minute and by hour, written in the transaction
//! that makes them true.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::error::Fault;
use super::rows::to_ms;
use crate::queue::{Stage, TallyStep};

/// ?1 step, ?2 beginning of the interval, ?3 stage, ?4 destination, ?5 source, ?6 subscription, ?7 reason,
/// ?8 count.
pub(super) const ADD: &str = "
    INSERT INTO tallies (step, at, stage, destination, source, subscription, reason, count)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT DO UPDATE SET count = count + excluded.count";

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// Something that needs neither a subscription nor a reason.
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
    /// By minute since the epoch.
    counts: HashMap<(i64, Counted), i64>,
}

impl Tallies {
    pub(super) fn add(&mut self, at: Timestamp, counted: Counted, count: i64) {
        let minute = to_ms(at).div_euclid(TallyStep::Minute.ms());
        *self.counts.entry((minute, counted)).or_default() += count;
    }

    pub(super) fn write(self, transaction: &Connection) -> Result<(), Fault> {
        if self.counts.is_empty() {
            return Ok(());
        }
        let mut statement = transaction.prepare_cached(ADD)?;
        for ((minute, counted), count) in self.counts {
            let Counted { stage, destination, source, subscription, reason } = counted;
            for step in TallyStep::ALL {
                let at = minute * TallyStep::Minute.ms();
                statement.execute(params![
                    step.ms(),
                    at - at.rem_euclid(step.ms()),
                    stage.as_str(),
                    destination,
                    source,
                    subscription,
                    reason,
                    count,
                ])?;
            }
        }
        Ok(())
    }
}
