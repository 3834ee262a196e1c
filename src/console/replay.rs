//! Replays for a bounded time and records it, for the API and the page.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::audit::{self, Actor};
use super::numbers::number;
use super::state::AdminState;
use crate::queue::{AuditAction, ReplayAsk, ReplayPosition, Seq, Unavailable, replay_arguments};

/// The result of a replay, or of counting for one, in one request.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) replayed: u64,
    pub(super) without_contents: u64,
    /// How many matching messages were left out because nothing changes for them.
    pub(super) unchanged: u64,
    /// How many messages there are for each subscription, if [`ReplayAsk::choice`] is set.
    pub(super) by_subscription: BTreeMap<String, u64>,
    /// The last sequence number that the replay examines.
    pub(super) until: Seq,
    /// Where to continue; `None` at the end.
    pub(super) next: Option<ReplayPosition>,
    /// Why it stopped early.
    pub(super) fault: Option<Unavailable>,
}

/// Replays or counts, until the end or until the time is up.
pub(super) async fn run(state: &AdminState, mut ask: ReplayAsk, time: Duration) -> Part {
    let began = Instant::now();
    let until = ask.position.map(|position| position.until).unwrap_or_default();
    let mut part = Part { until, next: ask.position, ..Part::default() };
    loop {
        match state.store.replay(&ask).await {
            Ok(chunk) => {
                part.replayed += chunk.replayed;
                part.without_contents += chunk.without_contents;
                part.unchanged += chunk.unchanged;
                for (name, count) in chunk.by_subscription {
                    *part.by_subscription.entry(name).or_default() += count;
                }
                part.until = chunk.until;
                part.next = chunk.next;
                ask.position = chunk.next;
            }
            Err(fault) => {
                part.fault = Some(fault);
                return part;
            }
        }
        if part.next.is_none() || began.elapsed() >= time {
            return part;
        }
    }
}

/// Does the same for a replay that a person asked for. The result is recorded even if the client disconnects; `None` if
/// the replay panicked.
pub(super) async fn run_on_record(
    state: &AdminState,
    actor: &Actor,
    ask: ReplayAsk,
    time: Duration,
) -> Option<Part> {
    let (state, actor) = (state.clone(), actor.clone());
    let arguments = replay_arguments(&ask);
    let task = tokio::spawn(async move {
        let part = run(&state, ask, time).await;
        if part.fault.is_none() || part.replayed > 0 {
            let rest = if part.next.is_some() { "; the rest is still to be replayed" } else { "" };
            let (replayed, without_contents) =
                (number(part.replayed), number(part.without_contents));
            let result = format!("{replayed} replayed, {without_contents} without contents{rest}");
            audit::record(&state, &actor, AuditAction::Replay, &arguments, result).await;
        }
        part
    });
    task.await.ok()
}
