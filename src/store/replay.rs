//! Replays the messages that an engine found: decides which ones, splits them into parts, and reports progress.

use crate::queue::{Chosen, ReplayAsk, ReplayChunk, ReplayPosition, Seq, Unavailable};
use crate::store::backlog::Size;

/// How many messages become pending in one transaction. Small, since senders wait for it.
pub(super) const MESSAGES_MAX: usize = 200;

/// The selected messages, and where to continue.
pub(super) struct Found {
    /// In the order of acceptance.
    pub(super) messages: Vec<Selected>,
    pub(super) until: Seq,
    pub(super) next: Option<ReplayPosition>,
}

pub(super) struct Selected {
    pub(super) seq: Seq,
    /// Its position in the order of acceptance.
    pub(super) accepted: Seq,
    pub(super) payload_bytes: u64,
    pub(super) is_replayable: bool,
}

/// Messages that become pending in one transaction.
#[derive(Default)]
pub(super) struct Part {
    pub(super) seqs: Vec<Seq>,
    /// The only subscriptions whose deliveries are made again; `None` means all that the selection covers.
    pub(super) again: Option<Vec<String>>,
    bytes: u64,
}

impl Part {
    /// Returns how much room the part takes in the backlog.
    pub(super) fn size(&self) -> Size {
        Size { messages: self.seqs.len() as u64, bytes: self.bytes }
    }

    fn add(&mut self, message: &Selected) {
        self.seqs.push(message.seq);
        self.bytes += message.payload_bytes;
    }
}

/// An engine that can make messages pending again.
pub(super) trait Requeue: Sync {
    /// Makes the messages pending as soon as the backlog has room; returns how many. A message that is no longer done,
    /// or has lost its contents in the meantime, stays unchanged.
    fn requeue(
        &self,
        ask: &ReplayAsk,
        part: Part,
    ) -> impl Future<Output = Result<u64, Unavailable>> + Send;
}

/// Replays the messages that were found, or only counts them in a dry run.
pub(super) async fn replay(
    store: &impl Requeue,
    ask: &ReplayAsk,
    found: Found,
) -> Result<ReplayChunk, Unavailable> {
    let Found { messages, until, next } = found;
    let mut chunk = ReplayChunk { until, next, ..ReplayChunk::default() };
    let mut seen = None;
    for messages in messages.chunks(MESSAGES_MAX) {
        match (replay_some(store, ask, messages, &mut chunk).await, seen) {
            (Ok(()), _) => {}
            // The next call begins with this part, and fails unless the store works again.
            (Err(_), Some(after)) => {
                chunk.next = Some(ReplayPosition { after, until });
                break;
            }
            (Err(fault), None) if chunk.replayed == 0 => return Err(fault),
            (Err(_), None) => {
                let after = ask.position.map_or(Seq::default(), |position| position.after);
                chunk.next = Some(ReplayPosition { after, until });
                break;
            }
        }
        seen = messages.last().map(|message| message.accepted);
    }
    Ok(chunk)
}

/// Replays messages, each part in one transaction.
async fn replay_some(
    store: &impl Requeue,
    ask: &ReplayAsk,
    messages: &[Selected],
    chunk: &mut ReplayChunk,
) -> Result<(), Unavailable> {
    let replayable: Vec<&Selected> =
        messages.iter().filter(|message| message.is_replayable).collect();
    let (parts, left_out) = parts(ask, &replayable).await?;
    for part in parts {
        let (count, again) = (part.seqs.len() as u64, part.again.clone());
        let replayed = match ask.is_dry_run {
            true => count,
            false => store.requeue(ask, part).await?,
        };
        chunk.replayed += replayed;
        for name in again.into_iter().flatten() {
            *chunk.by_subscription.entry(name).or_default() += replayed;
        }
    }
    chunk.unchanged += left_out;
    chunk.without_contents += (messages.len() - replayable.len()) as u64;
    Ok(())
}

/// Splits the messages, in order, into parts with the same subscriptions. Also returns how many messages the choice
/// leaves out.
async fn parts(ask: &ReplayAsk, messages: &[&Selected]) -> Result<(Vec<Part>, u64), Unavailable> {
    let mut parts: Vec<Part> = Vec::new();
    let Some(choice) = &ask.choice else {
        let mut part = Part::default();
        messages.iter().for_each(|message| part.add(message));
        parts.extend((!messages.is_empty()).then_some(part));
        return Ok((parts, 0));
    };
    let seqs: Vec<Seq> = messages.iter().map(|message| message.seq).collect();
    let mut chosen = choice.choose(&ask.selection, &seqs).await?.into_iter().peekable();
    let mut left_out = 0;
    for message in messages {
        let Some(Chosen { subscriptions, .. }) = chosen.next_if(|one| one.seq == message.seq)
        else {
            left_out += 1;
            continue;
        };
        let again = Some(subscriptions);
        if parts.last().is_none_or(|part| part.again != again) {
            parts.push(Part { again, ..Part::default() });
        }
        if let Some(part) = parts.last_mut() {
            part.add(message);
        }
    }
    Ok((parts, left_out))
}
