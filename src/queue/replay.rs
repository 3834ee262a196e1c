//! Replaying: which messages, and how far a replay has come.

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{FailureReason, Seq, Unavailable};
use crate::segment::PersonHash;

/// The most message ids that one replay may name.
pub const REPLAY_IDS_MAX: usize = 500;

/// Puts messages that are done back to work.
#[async_trait]
pub trait Replays: Send + Sync {
    /// Replays a bounded number of the messages that are asked for, in the order of acceptance, all
    /// in few transactions; answers how far it came. Asked again with [`ReplayChunk::next`] until
    /// that is `None`, it has replayed each message once, and none that was accepted in between.
    ///
    /// A replayed message is pending again, behind all that was accepted before, with the next
    /// replay number. Its deliveries stay in the record; those that are made anew supersede their
    /// predecessors. One without contents is counted and stays as it is.
    async fn replay(&self, ask: &ReplayAsk) -> Result<ReplayChunk, Unavailable>;
}

/// Which of the messages that are done, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayState {
    /// A delivery failed. Deliveries that did not fail are not made again.
    Failed,
    /// No subscription took it.
    Unmatched,
    /// All its deliveries were delivered.
    Delivered,
    /// Any of these. All deliveries are made again.
    All,
}

impl ReplayState {
    /// All of them.
    pub const ALL: [ReplayState; 4] =
        [ReplayState::Failed, ReplayState::Unmatched, ReplayState::Delivered, ReplayState::All];

    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            ReplayState::Failed => "failed",
            ReplayState::Unmatched => "unmatched",
            ReplayState::Delivered => "delivered",
            ReplayState::All => "all",
        }
    }

    /// Reads [`ReplayState::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Which messages are replayed: those that fit all that is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// What became of them.
    pub state: ReplayState,
    /// Their ids; empty: any. At most [`REPLAY_IDS_MAX`].
    pub message_ids: Vec<String>,
    /// Whom they are about.
    pub person: Option<PersonHash>,
    /// Why a delivery of them failed.
    pub reason: Option<FailureReason>,
    /// Name of their destination.
    pub destination: Option<String>,
    /// Name of a subscription under which they have a delivery (of that state). They are replayed for
    /// this subscription alone.
    pub subscription: Option<String>,
    /// Taken in then or later.
    pub from: Option<Timestamp>,
    /// Taken in before then.
    pub to: Option<Timestamp>,
}

/// A part of a replay.
#[derive(Debug, Clone)]
pub struct ReplayAsk {
    /// Which messages.
    pub selection: Selection,
    /// Where to go on; `None` at the beginning.
    pub position: Option<ReplayPosition>,
    /// Whether to count only.
    pub is_dry_run: bool,
}

/// How far a replay has come, in the order of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayPosition {
    /// The last place that was looked at.
    pub after: Seq,
    /// The last place that will be looked at.
    pub until: Seq,
}

/// What a part of a replay came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayChunk {
    /// Messages that are pending again; in a dry run, that would be.
    pub replayed: u64,
    /// Messages that fit, whose contents are past their time, or erased, or about to be: a deletion of
    /// their person stands behind them.
    pub without_contents: u64,
    /// Where to go on; `None` at the end.
    pub next: Option<ReplayPosition>,
}

/// What a message that was replayed is worked on for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replay {
    /// How many times it was replayed: 0 for a message that was not.
    pub number: u32,
    /// The one subscription that it is replayed for.
    pub only: Option<String>,
    /// Subscriptions under which it has a delivery that stands.
    pub settled: Vec<String>,
}

impl Replay {
    /// Whether the message is to be delivered under this subscription.
    pub fn wants(&self, subscription: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == subscription)
            && !self.settled.iter().any(|settled| settled == subscription)
    }
}

/// What people write to choose messages; [`Criteria::selection`] checks it.
#[derive(Debug, Clone, Default)]
pub struct Criteria {
    /// Ids of messages.
    pub message_ids: Vec<String>,
    /// A user id, or an anonymous id or an e-mail address for messages that have no user id.
    pub user: Option<String>,
    /// `failed` (the default), `unmatched`, `delivered` or `all`.
    pub state: Option<String>,
    /// One of [`FailureReason::ALL`].
    pub reason: Option<String>,
    /// Name of a destination.
    pub destination: Option<String>,
    /// Name of a subscription.
    pub subscription: Option<String>,
    /// A time, or a day in UTC.
    pub from: Option<String>,
    /// A time, or a day in UTC.
    pub to: Option<String>,
    /// Whether all that failed are meant.
    pub all_failed: bool,
}

/// Why criteria choose nothing. The texts are for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CriteriaMistake {
    /// Nothing was said.
    #[error(
        "say which messages: by message id, user, reason, destination, subscription, or time of receipt (from, to); or all that failed"
    )]
    Nothing,
    /// Too many ids.
    #[error("at most {REPLAY_IDS_MAX} message ids can be given at once")]
    ManyIds,
    /// No such state.
    #[error("the state must be failed, unmatched, delivered or all")]
    State,
    /// No such reason.
    #[error("the reason must be one of {}", FailureReason::ALL.map(FailureReason::as_str).join(", "))]
    Reason,
    /// What did not fail has no reason.
    #[error("a reason is for failed messages: leave the state out")]
    ReasonOfOthers,
    /// What is unmatched has no subscription.
    #[error("unmatched messages have no subscription: choose them by something else")]
    SubscriptionOfUnmatched,
    /// Not only those that failed.
    #[error(
        "all that failed are not all of that state: leave the state out, or choose by something else"
    )]
    AllOfOthers,
    /// Not a time.
    #[error("{0} must be a time such as 2026-11-01T12:00:00Z, or a day such as 2026-11-01 (UTC)")]
    Time(&'static str),
}

impl Criteria {
    /// Checks them. Whether the destination exists is for the caller to know.
    pub fn selection(self) -> Result<Selection, CriteriaMistake> {
        let state = match self.state {
            None => ReplayState::Failed,
            Some(text) => ReplayState::parse(&text).ok_or(CriteriaMistake::State)?,
        };
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let selection = Selection {
            state,
            message_ids: self.message_ids,
            person: filled(self.user).map(|user| PersonHash::of(&user)),
            reason: filled(self.reason)
                .map(|text| FailureReason::parse(&text).ok_or(CriteriaMistake::Reason))
                .transpose()?,
            destination: filled(self.destination),
            subscription: filled(self.subscription),
            from: filled(self.from).map(|text| time("from", &text)).transpose()?,
            to: filled(self.to).map(|text| time("to", &text)).transpose()?,
        };
        if selection.message_ids.len() > REPLAY_IDS_MAX {
            return Err(CriteriaMistake::ManyIds);
        }
        if selection.reason.is_some() && state != ReplayState::Failed {
            return Err(CriteriaMistake::ReasonOfOthers);
        }
        if selection.subscription.is_some() && state == ReplayState::Unmatched {
            return Err(CriteriaMistake::SubscriptionOfUnmatched);
        }
        if self.all_failed && state != ReplayState::Failed {
            return Err(CriteriaMistake::AllOfOthers);
        }
        if !self.all_failed && selection.is_everything() {
            return Err(CriteriaMistake::Nothing);
        }
        Ok(selection)
    }
}

impl Selection {
    /// Whether nothing but the state is said.
    fn is_everything(&self) -> bool {
        self.message_ids.is_empty()
            && self.person.is_none()
            && self.reason.is_none()
            && self.destination.is_none()
            && self.subscription.is_none()
            && self.from.is_none()
            && self.to.is_none()
    }
}

fn time(name: &'static str, text: &str) -> Result<Timestamp, CriteriaMistake> {
    let civil = || {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        TimeZone::UTC.to_timestamp(civil).ok()
    };
    text.parse().ok().or_else(civil).ok_or(CriteriaMistake::Time(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criteria_are_checked() {
        type Change = fn(&mut Criteria);
        let cases: [(Change, Result<(), CriteriaMistake>); 15] = [
            (|_| {}, Err(CriteriaMistake::Nothing)),
            (|c| c.user = Some(String::new()), Err(CriteriaMistake::Nothing)),
            (|c| c.state = Some("all".into()), Err(CriteriaMistake::Nothing)),
            (|c| c.all_failed = true, Ok(())),
            (|c| c.user = Some("u1".into()), Ok(())),
            (|c| c.message_ids = vec!["m".into(); REPLAY_IDS_MAX], Ok(())),
            (
                |c| c.message_ids = vec!["m".into(); REPLAY_IDS_MAX + 1],
                Err(CriteriaMistake::ManyIds),
            ),
            (|c| c.state = Some("pending".into()), Err(CriteriaMistake::State)),
            (|c| c.reason = Some("bad luck".into()), Err(CriteriaMistake::Reason)),
            (|c| c.reason = Some("expired".into()), Ok(())),
            (
                |c| (c.reason, c.state) = (Some("expired".into()), Some("all".into())),
                Err(CriteriaMistake::ReasonOfOthers),
            ),
            (
                |c| (c.subscription, c.state) = (Some("S".into()), Some("unmatched".into())),
                Err(CriteriaMistake::SubscriptionOfUnmatched),
            ),
            (
                |c| (c.all_failed, c.state) = (true, Some("delivered".into())),
                Err(CriteriaMistake::AllOfOthers),
            ),
            (|c| c.from = Some("yesterday".into()), Err(CriteriaMistake::Time("from"))),
            (|c| c.to = Some("2026-11-01T12:00:00+01:00".into()), Ok(())),
        ];
        for (n, (change, expected)) in cases.into_iter().enumerate() {
            let mut criteria = Criteria::default();
            change(&mut criteria);
            assert_eq!(criteria.selection().map(|_| ()), expected, "case {n}");
        }
        let day = Criteria { from: Some("2026-11-01".into()), ..Criteria::default() };
        let from = day.selection().unwrap().from.unwrap();
        assert_eq!(from.to_string(), "2026-11-01T00:00:00Z");
    }
}
