//! Replaying: the choice of messages, and the progress of a replay.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::ask::Filter;
use super::delivery::DeliveryState;
use super::error::Unavailable;
use super::failure::FailureReason;
use super::order::Seq;
use crate::segment::{Digests, LaneKey, MessageType};

/// The most message ids that one replay may name.
pub const REPLAY_IDS_MAX: usize = 500;

/// Makes messages that are done pending again.
#[async_trait]
pub trait Replays: Send + Sync {
    /// Replays a bounded number of the selected messages, in the order of acceptance, in a few transactions. Returns
    /// its progress, even if a transaction after the first one fails. Calling it again with [`ReplayChunk::next`] until
    /// that is `None` replays each message once, and no message that was accepted in the meantime.
    ///
    /// A replayed message is pending again, behind all messages accepted before, with the next replay number. Its
    /// deliveries stay in the record; the new ones supersede them.
    ///
    /// A message without contents is counted and left unchanged. So is a message that a deletion of the same person
    /// follows at the same destination: a later message, or this message itself, of any type, whose delivery with the
    /// action [`ActionKind::DeleteContact`](crate::action::ActionKind) was delivered; or a later `delete` message that
    /// is pending.
    async fn replay(&self, ask: &ReplayAsk) -> Result<ReplayChunk, Unavailable>;

    /// Replays a bounded number of the failed events whose contact has appeared since ([`Awaiting`]), each for the
    /// subscription under which it failed and with the urgency of an event. Returns the destination of each; empty
    /// means that nothing is left to do for now.
    async fn revive(&self, now: Timestamp) -> Result<Vec<String>, Unavailable>;
}

/// Appended to the failure's detail of an event that is replayed automatically.
pub(crate) const REVIVED: &str =
    " (sent again automatically, because its contact was created afterwards)";

/// How long an event is remembered after it stops waiting for its contact: its message may have another delivery that
/// is pending.
pub(crate) const AWAITING_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How a request bears on events that Loops refused because their contact did not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaiting {
    /// It is such an event. It is replayed if a request of its lane creates the contact in time.
    Begins {
        /// The lane of its message.
        lane: LaneKey,
        /// The end of the wait.
        until: Timestamp,
    },
    /// It may have created the contact that events of this lane wait for.
    Ends {
        /// The lane of its message.
        lane: LaneKey,
    },
}

/// Decides which of the selected messages are replayed, and for which subscriptions.
#[async_trait]
pub trait Choice: fmt::Debug + Send + Sync {
    /// Returns the messages to replay, in the order of `seqs`.
    async fn choose(&self, selection: &Selection, seqs: &[Seq])
    -> Result<Vec<Chosen>, Unavailable>;
}

/// A message that is to be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The message.
    pub seq: Seq,
    /// The subscriptions whose deliveries are made again; its other deliveries stand.
    pub subscriptions: Vec<String>,
}

/// Selects messages that are done, by their outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplayState {
    /// A delivery failed. Only failed deliveries are made again.
    #[default]
    Failed,
    /// No subscription took it.
    Unmatched,
    /// All its deliveries were delivered.
    Delivered,
    /// A delivery was shadowed, whatever the outcome of the others. Only shadowed deliveries are made again.
    Shadowed,
    /// Any of these. All deliveries are made again.
    All,
}

impl ReplayState {
    /// All variants.
    pub const ALL: [ReplayState; 5] = [
        ReplayState::Failed,
        ReplayState::Unmatched,
        ReplayState::Delivered,
        ReplayState::Shadowed,
        ReplayState::All,
    ];

    /// Returns the word that people write.
    pub fn as_str(self) -> &'static str {
        match self {
            ReplayState::Failed => "failed",
            ReplayState::Unmatched => "unmatched",
            ReplayState::Delivered => "delivered",
            ReplayState::Shadowed => "shadowed",
            ReplayState::All => "all",
        }
    }

    /// Returns the only state whose deliveries are made again; `None`: all deliveries are.
    pub fn only(self) -> Option<DeliveryState> {
        match self {
            ReplayState::Failed => Some(DeliveryState::Failed),
            ReplayState::Shadowed => Some(DeliveryState::Shadowed),
            ReplayState::Unmatched | ReplayState::Delivered | ReplayState::All => None,
        }
    }

    /// Parses the result of [`ReplayState::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Selects the messages to replay: messages that meet every given condition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Their outcome.
    pub state: ReplayState,
    /// Their ids; empty: any. At most [`REPLAY_IDS_MAX`].
    pub message_ids: Vec<String>,
    /// All other conditions, without a state. A delivery under [`Filter::subscription`] must have the outcome that is
    /// selected, and the messages are replayed for this subscription alone.
    pub filter: Filter,
}

/// Asks for a part of a replay.
#[derive(Debug, Clone)]
pub struct ReplayAsk {
    /// Which messages.
    pub selection: Selection,
    /// Where to continue; `None` at the beginning.
    pub position: Option<ReplayPosition>,
    /// Whether to count the messages without replaying them.
    pub is_dry_run: bool,
    /// Which of the selected messages are replayed; `None`: all of them.
    pub choice: Option<Arc<dyn Choice>>,
    /// The current time.
    pub now: Timestamp,
}

/// The progress of a replay, in the order of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayPosition {
    /// The last sequence number that was examined.
    pub after: Seq,
    /// The last sequence number that will be examined.
    pub until: Seq,
}

/// The result of a part of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplayChunk {
    /// How many messages are pending again, or would be if this is a dry run.
    pub replayed: u64,
    /// How many of the selected messages cannot be replayed, because their contents are past their retention or erased,
    /// or a deletion of their person follows.
    pub without_contents: u64,
    /// How many of the selected messages [`ReplayAsk::choice`] left out.
    pub unchanged: u64,
    /// With a choice, how many messages are replayed for each subscription.
    pub by_subscription: BTreeMap<String, u64>,
    /// The last sequence number that the replay examines. A replay that begins at 0 and ends there takes nothing that
    /// was accepted since this replay began.
    pub until: Seq,
    /// Where to continue; `None` at the end.
    pub next: Option<ReplayPosition>,
}

/// The deliveries that a replayed message is to get.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replay {
    /// How many times it was replayed; 0: never.
    pub number: u32,
    /// The only subscription that it is replayed for; `None`: any.
    pub only: Option<String>,
    /// Subscriptions under which it has a delivery that stands.
    pub settled: Vec<String>,
    /// Whether a deletion of the same person that was accepted later has been delivered since the replay was requested.
    /// If so, nothing is delivered.
    pub is_before_deletion: bool,
}

impl Replay {
    /// Returns whether the message is to be delivered under this subscription.
    ///
    /// ```
    /// use segment_loops::queue::Replay;
    ///
    /// // One of two deliveries failed: only that one is made again.
    /// let replay = Replay { number: 1, settled: vec!["Upsert".to_owned()], ..Replay::default() };
    /// assert!(replay.wants("Send an event") && !replay.wants("Upsert"));
    /// // The person was deleted in the meantime: nothing is sent.
    /// assert!(!Replay { is_before_deletion: true, ..replay }.wants("Send an event"));
    /// ```
    pub fn wants(&self, subscription: &str) -> bool {
        !self.is_before_deletion
            && self.only.as_deref().is_none_or(|only| only == subscription)
            && !self.settled.iter().any(|settled| settled == subscription)
    }
}

/// The conditions as people write them; [`Criteria::selection`] checks them.
#[derive(Debug, Clone, Default)]
pub struct Criteria {
    /// Ids of messages.
    pub message_ids: Vec<String>,
    /// A user id, an anonymous id or an e-mail address.
    pub user: Option<String>,
    /// `failed` (the default), `unmatched`, `delivered`, `shadowed` or `all`.
    pub state: Option<String>,
    /// One of [`FailureReason::ALL`].
    pub reason: Option<String>,
    /// Name of a destination.
    pub destination: Option<String>,
    /// Name of a source.
    pub source: Option<String>,
    /// One of [`MessageType::ALL`].
    pub kind: Option<String>,
    /// Name of an event.
    pub event: Option<String>,
    /// Name of a subscription.
    pub subscription: Option<String>,
    /// A time, or a day in UTC.
    pub from: Option<String>,
    /// A time, or a day in UTC.
    pub to: Option<String>,
    /// Whether to replay every failed message.
    pub all_failed: bool,
}

/// Why criteria are not valid. The messages are for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CriteriaProblem {
    /// There is no condition.
    #[error(
        "choose messages by message id, user, reason, destination, source, type, event, subscription or time of receipt, or all that failed; a state alone is not enough"
    )]
    Nothing,
    /// Too many ids.
    #[error("at most {REPLAY_IDS_MAX} message ids can be given at once")]
    ManyIds,
    /// No such state.
    #[error("the state must be failed, unmatched, delivered, shadowed or all")]
    State,
    /// No such reason.
    #[error("the reason must be one of {}", FailureReason::ALL.map(FailureReason::as_str).join(", "))]
    Reason,
    /// No such type.
    #[error("the type must be one of {}", MessageType::ALL.map(MessageType::as_str).join(", "))]
    Type,
    /// Only tracks have an event.
    #[error("only tracks have an event: leave the type out")]
    EventOfOthers,
    /// Only failed messages have a reason.
    #[error("a reason is for failed messages: leave the state out")]
    ReasonOfOthers,
    /// Unmatched messages have no subscription.
    #[error("unmatched messages have no subscription: choose them by another condition")]
    SubscriptionOfUnmatched,
    /// `all_failed` with another state.
    #[error(
        "all failed messages and another state contradict each other: leave the state out, or choose by another condition"
    )]
    AllOfOthers,
    /// Not a time.
    #[error("{0} must be a time such as 2026-11-01T12:00:00Z, or a day such as 2026-11-01 (UTC)")]
    Time(&'static str),
}

impl Criteria {
    /// Checks the criteria. The caller checks whether the destination exists.
    ///
    /// ```
    /// use segment_loops::queue::{Criteria, CriteriaProblem, FailureReason, ReplayState};
    /// use segment_loops::segment::Digests;
    ///
    /// let digests = Digests::new(&[7; 32]);
    /// let criteria = Criteria {
    ///     reason: Some("refused".to_owned()),
    ///     from: Some("2026-11-01".to_owned()),
    ///     ..Criteria::default()
    /// };
    /// let selection = criteria.selection(&digests)?;
    /// assert_eq!(selection.state, ReplayState::Failed);
    /// assert_eq!(selection.filter.reason, Some(FailureReason::Refused));
    /// assert_eq!(selection.filter.from.unwrap().to_string(), "2026-11-01T00:00:00Z");
    ///
    /// // Criteria that name nothing are refused: they would replay every failure.
    /// assert_eq!(Criteria::default().selection(&digests), Err(CriteriaProblem::Nothing));
    /// # Ok::<(), CriteriaProblem>(())
    /// ```
    pub fn selection(self, digests: &Digests) -> Result<Selection, CriteriaProblem> {
        let state = match self.state {
            None => ReplayState::Failed,
            Some(text) => ReplayState::parse(&text).ok_or(CriteriaProblem::State)?,
        };
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let filter = Filter {
            persons: filled(self.user).map(|id| digests.any_person(&id)).unwrap_or_default(),
            state: None,
            is_held: false,
            reason: filled(self.reason)
                .map(|text| FailureReason::parse(&text).ok_or(CriteriaProblem::Reason))
                .transpose()?,
            destination: filled(self.destination),
            source: filled(self.source),
            kind: filled(self.kind)
                .map(|text| {
                    let mut all = MessageType::ALL.into_iter();
                    all.find(|kind| kind.as_str() == text).ok_or(CriteriaProblem::Type)
                })
                .transpose()?,
            event: filled(self.event),
            subscription: filled(self.subscription),
            from: filled(self.from).map(|text| time("from", &text)).transpose()?,
            to: filled(self.to).map(|text| time("to", &text)).transpose()?,
        };
        let selection = Selection { state, message_ids: self.message_ids, filter };
        let filter = &selection.filter;
        if selection.message_ids.len() > REPLAY_IDS_MAX {
            return Err(CriteriaProblem::ManyIds);
        }
        if filter.event.is_some() && filter.kind.is_some_and(|kind| kind != MessageType::Track) {
            return Err(CriteriaProblem::EventOfOthers);
        }
        if filter.reason.is_some() && state != ReplayState::Failed {
            return Err(CriteriaProblem::ReasonOfOthers);
        }
        if filter.subscription.is_some() && state == ReplayState::Unmatched {
            return Err(CriteriaProblem::SubscriptionOfUnmatched);
        }
        if self.all_failed && state != ReplayState::Failed {
            return Err(CriteriaProblem::AllOfOthers);
        }
        if !self.all_failed && selection.is_everything() {
            return Err(CriteriaProblem::Nothing);
        }
        Ok(selection)
    }
}

impl Selection {
    /// Returns whether the state is the only condition.
    pub fn is_everything(&self) -> bool {
        self.message_ids.is_empty() && self.filter == Filter::default()
    }
}

fn time(name: &'static str, text: &str) -> Result<Timestamp, CriteriaProblem> {
    parse_time(text).ok_or(CriteriaProblem::Time(name))
}

/// Parses a time as people write it: RFC 3339, or a date with or without a time of day, in UTC.
///
/// ```
/// use segment_loops::queue::parse_time;
///
/// for (text, time) in [
///     ("2026-11-01", "2026-11-01T00:00:00Z"),
///     ("2026-11-01T12:00", "2026-11-01T12:00:00Z"),
///     ("2026-11-01T12:00:00+01:00", "2026-11-01T11:00:00Z"),
/// ] {
///     assert_eq!(parse_time(text), Some(time.parse()?), "{text}");
/// }
/// assert_eq!(parse_time("yesterday"), None);
/// # Ok::<(), jiff::Error>(())
/// ```
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let civil = || {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        TimeZone::UTC.to_timestamp(civil).ok()
    };
    text.parse().ok().or_else(civil)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criteria_are_checked() {
        type Change = fn(&mut Criteria);
        let digests = Digests::new(&[0; 32]);
        let cases: [(Change, Result<(), CriteriaProblem>); 18] = [
            (|_| {}, Err(CriteriaProblem::Nothing)),
            (|c| c.user = Some(String::new()), Err(CriteriaProblem::Nothing)),
            (|c| c.state = Some("all".into()), Err(CriteriaProblem::Nothing)),
            (|c| c.all_failed = true, Ok(())),
            (|c| c.user = Some("u1".into()), Ok(())),
            (|c| c.message_ids = vec!["m".into(); REPLAY_IDS_MAX], Ok(())),
            (
                |c| c.message_ids = vec!["m".into(); REPLAY_IDS_MAX + 1],
                Err(CriteriaProblem::ManyIds),
            ),
            (|c| c.state = Some("pending".into()), Err(CriteriaProblem::State)),
            (|c| c.reason = Some("bad luck".into()), Err(CriteriaProblem::Reason)),
            (|c| c.reason = Some("expired".into()), Ok(())),
            (
                |c| (c.reason, c.state) = (Some("expired".into()), Some("all".into())),
                Err(CriteriaProblem::ReasonOfOthers),
            ),
            (
                |c| (c.subscription, c.state) = (Some("S".into()), Some("unmatched".into())),
                Err(CriteriaProblem::SubscriptionOfUnmatched),
            ),
            (
                |c| (c.all_failed, c.state) = (true, Some("delivered".into())),
                Err(CriteriaProblem::AllOfOthers),
            ),
            (|c| c.kind = Some("click".into()), Err(CriteriaProblem::Type)),
            (|c| (c.kind, c.event) = (Some("track".into()), Some("Signed Up".into())), Ok(())),
            (
                |c| (c.kind, c.event) = (Some("page".into()), Some("Signed Up".into())),
                Err(CriteriaProblem::EventOfOthers),
            ),
            (|c| c.from = Some("yesterday".into()), Err(CriteriaProblem::Time("from"))),
            (|c| c.to = Some("2026-11-01T12:00:00+01:00".into()), Ok(())),
        ];
        for (n, (change, expected)) in cases.into_iter().enumerate() {
            let mut criteria = Criteria::default();
            change(&mut criteria);
            assert_eq!(criteria.selection(&digests).map(|_| ()), expected, "case {n}");
        }
        let day = Criteria { from: Some("2026-11-01".into()), ..Criteria::default() };
        let from = day.selection(&digests).unwrap().filter.from.unwrap();
        assert_eq!(from.to_string(), "2026-11-01T00:00:00Z");
    }
}
