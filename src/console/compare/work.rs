//! Compares messages in batches: one batch at a time in the whole process, on a blocking thread, and each within a
//! budget of computing time. So a mapping that loops over its own output, or is slow in another way, takes one thread
//! from other requests, and only for a moment.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value as Json;
use tokio::sync::Semaphore;

use super::case::{case, file};
use super::view::{Compared, ComparedMessage, Side, StoppedAt};
use super::{Draft, SHOWN_MAX};
use crate::clock::CpuLimit;
use crate::console::preview::PreviewedField;
use crate::destination::{Comparison, Destination, Revision, Stopped};
use crate::large::Turns;
use crate::queue::{Contents, MessageRecord, is_whole_event_name};
use crate::segment::{Message, MessageType};

/// How long a batch may compute for each changed subscription.
const BUDGET: Duration = Duration::from_millis(200);

/// The most messages in a batch.
pub(super) const BATCH_LENGTH: usize = 20;

/// The most messages that become cases.
const CASES_MAX: usize = 5;

/// The turn to compare a batch. Clones share it.
#[derive(Debug, Clone)]
pub struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// A message to compare.
#[derive(Debug)]
pub struct Given {
    /// Position in the order of acceptance.
    pub seq: Option<i64>,
    /// When it was accepted.
    pub received_at: Option<Timestamp>,
    /// Its contents.
    pub contents: GivenContents,
}

/// The contents of a message to compare.
#[derive(Debug)]
pub enum GivenContents {
    /// As they are stored.
    Stored(Contents),
    /// Already decoded.
    Read(Message),
}

/// A comparison in progress.
#[derive(Debug)]
pub struct Comparing {
    revisions: Vec<Revision>,
    after: Destination,
    turns: Turns,
    turn: Turn,
    /// How many messages are wanted.
    last: usize,
    compared: Compared,
    /// The destination that cases name; `None` if there is only one.
    destination: Option<String>,
    cases: Vec<Json>,
}

/// The comparison ended unexpectedly.
#[derive(Debug, thiserror::Error)]
#[error("the comparison ended unexpectedly")]
pub struct Broken;

impl Comparing {
    /// Begins to compare the given number of messages.
    pub fn new(
        revisions: Vec<Revision>,
        after: Destination,
        last: usize,
        turns: Turns,
        turn: Turn,
    ) -> Self {
        let names: Vec<&str> = revisions.iter().map(Revision::name).collect();
        let warnings = after.warnings().into_iter();
        let warnings = warnings
            .filter(|one| names.contains(&one.subscription.as_str()))
            .map(|one| one.to_string());
        let compared = Compared {
            notes: revisions.iter().flat_map(Revision::notes).collect(),
            warnings: warnings.collect(),
            ..Compared::default()
        };
        let (destination, cases) = (None, Vec::new());
        Self { revisions, after, turns, turn, last, compared, destination, cases }
    }

    /// Makes cases name their destination.
    pub fn name_destination(self, name: &str) -> Self {
        Self { destination: Some(name.to_owned()), ..self }
    }

    /// Begins to compare with a draft.
    pub fn of_draft(draft: Draft, last: usize, turns: Turns, turn: Turn) -> Self {
        Self::new(vec![draft.revision], draft.after, last, turns, turn)
    }

    /// Returns whether a subscription may take a message, as far as its record shows.
    pub(super) fn may_take(&self, record: &MessageRecord) -> bool {
        let event = record.event.as_deref().filter(|event| is_whole_event_name(event));
        self.revisions.iter().any(|revision| revision.may_take(record.kind, event))
    }

    /// Returns whether as many messages as wanted were compared, or a message took too long.
    pub(super) fn is_done(&self) -> bool {
        self.compared.counts.compared >= self.last as u64
            || self.compared.stopped.is_some()
            || self.revisions.is_empty()
    }

    /// Returns the result so far.
    pub(super) fn compared_mut(&mut self) -> &mut Compared {
        &mut self.compared
    }

    /// Compares given messages.
    pub async fn with_messages(mut self, messages: Vec<Message>) -> Result<Self, Broken> {
        let mut messages = messages.into_iter();
        loop {
            let given = |message| Given {
                seq: None,
                received_at: None,
                contents: GivenContents::Read(message),
            };
            let batch: Vec<Given> = messages.by_ref().take(BATCH_LENGTH).map(given).collect();
            if batch.is_empty() || self.is_done() {
                self.compared.looked.complete = batch.is_empty();
                return Ok(self);
            }
            self.compared.looked.messages += batch.len() as u64;
            self = self.batch(batch).await?;
        }
    }

    /// Returns the result, and up to five of its messages with the requests that they make, as a file for
    /// `check --cases`.
    pub fn finish(mut self) -> (Compared, Option<String>) {
        self.compared.finish();
        if self.revisions.is_empty() {
            self.compared.summary = "No subscription differs.".to_owned();
        }
        let cases = (!self.cases.is_empty()).then(|| file(self.cases));
        (self.compared, cases)
    }

    /// Compares a batch when its turn comes.
    pub(super) async fn batch(mut self, batch: Vec<Given>) -> Result<Self, Broken> {
        let permit = Arc::clone(&self.turn.0).acquire_owned().await.map_err(|_| Broken)?;
        let work = move || {
            self.compare(batch);
            drop(permit);
            self
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Broken)
    }

    fn compare(&mut self, batch: Vec<Given>) {
        let mut left = BUDGET * u32::try_from(self.revisions.len()).unwrap_or(u32::MAX);
        for given in batch {
            if self.is_done() {
                return;
            }
            // Decoding a message is not part of the budget, but large messages wait for their turn.
            let (message, _turn) = match given.contents {
                GivenContents::Read(message) => (Some(message), None),
                GivenContents::Stored(contents) => {
                    let turn = self.turns.block(contents.payload.len());
                    (contents.message(), turn)
                }
            };
            let Some(message) = message else {
                self.compared.looked.without_contents += 1;
                continue;
            };
            let limit = CpuLimit::new(left);
            let stopped = self.compare_message(&message, given.seq, given.received_at, &limit);
            left = left.saturating_sub(limit.spent());
            if let Err(detail) = stopped {
                let message_id = message.message_id().to_owned();
                self.compared.stopped = Some(StoppedAt { seq: given.seq, message_id, detail });
            }
        }
    }

    /// Compares one message. The error says what took too long.
    fn compare_message(
        &mut self,
        message: &Message,
        seq: Option<i64>,
        received_at: Option<Timestamp>,
        limit: &CpuLimit,
    ) -> Result<(), String> {
        let stop = || limit.is_over();
        let mut is_taken = false;
        for revision in &self.revisions {
            let too_long = |place: Stopped| too_long(revision.name(), &place);
            let found = revision.compare(message, &stop).map_err(too_long)?;
            let Some(comparison) = found else { continue };
            let is_shown =
                self.last <= SHOWN_MAX || comparison.change != crate::destination::Change::Same;
            if is_shown && self.compared.messages.len() < SHOWN_MAX {
                let shown = show(revision, message, &comparison, &stop).map_err(too_long)?;
                self.compared.messages.push(ComparedMessage { seq, received_at, ..shown });
            }
            self.compared.counts.add(&comparison);
            is_taken |= comparison.after.is_some();
        }
        if is_taken && self.cases.len() < CASES_MAX {
            let plan = self.after.plan_until(message, &stop);
            let plan = plan.map_err(|(name, place)| too_long(&name, &place))?;
            self.cases.extend(case(message, &plan, self.destination.as_deref()));
        }
        Ok(())
    }
}

fn too_long(name: &str, place: &Stopped) -> String {
    format!(
        "{place} of `{name}` took longer than its budget, {} ms for {BATCH_LENGTH} messages",
        BUDGET.as_millis()
    )
}

fn show(
    revision: &Revision,
    message: &Message,
    comparison: &Comparison,
    stop: &dyn Fn() -> bool,
) -> Result<ComparedMessage, Stopped> {
    let before = comparison.before.as_ref().map(Side::of);
    let after = comparison.after.as_ref().map(Side::of);
    let event = message.value().get("event").and_then(|event| event.as_str());
    let is_track = message.kind() == MessageType::Track;
    let fields = revision.explain(message, stop)?;
    Ok(ComparedMessage {
        subscription: revision.name().to_owned(),
        seq: None,
        message_id: message.message_id().to_owned(),
        r#type: message.kind(),
        event: event.filter(|_| is_track).map(str::to_owned),
        received_at: None,
        change: comparison.change,
        difference: ComparedMessage::lines(before.as_ref(), after.as_ref()),
        fields: fields.into_iter().map(PreviewedField::from).collect(),
        before,
        after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::DestinationOptions;
    use crate::destination::subscription::read;
    use crate::js::decode::decode;

    fn destination() -> Destination {
        let text = r#"{"name":"s","action":"sendEvent","events":["*"]}"#;
        let subscription = read(&decode(text.as_bytes()).unwrap(), 0).unwrap();
        Destination::compile(&[subscription], DestinationOptions::default()).unwrap()
    }

    fn comparing(draft: &str, last: usize) -> Comparing {
        let draft = Draft::of_text(draft, Some("s"), &destination()).unwrap();
        Comparing::of_draft(draft, last, Turns::default(), Turn::default())
    }

    fn messages(count: usize) -> Vec<Message> {
        let text =
            r#"{"type":"track","userId":"u","event":"Signed Up","properties":{"plan":"pro"}}"#;
        let message = Message::from_stored(decode(text.as_bytes()).unwrap()).unwrap();
        vec![message; count]
    }

    const RENAMES: &str =
        "name: s\naction: sendEvent\nevents: ['*']\nmapping: {eventName: renamed}";

    #[tokio::test(flavor = "multi_thread")]
    async fn as_many_as_wanted_are_compared_and_twenty_shown() {
        for (last, given, compared, shown) in
            [(20, 19, 19, 19), (20, 21, 20, 20), (1000, 41, 41, 20), (1, 1, 1, 1)]
        {
            let comparing = comparing(RENAMES, last).with_messages(messages(given)).await.unwrap();
            let (found, cases) = comparing.finish();
            assert_eq!((found.counts.compared, found.messages.len()), (compared, shown));
            assert_eq!(found.counts.changed, compared);
            assert!(found.changes && found.summary.contains("change"), "{}", found.summary);
            let cases: Json = serde_json::from_str(&cases.unwrap()).unwrap();
            assert_eq!(cases.as_array().unwrap().len(), given.min(5));
            assert_eq!(cases[0]["expect"]["requests"][0]["body"]["eventName"], "renamed");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_stays_the_same_is_shown_among_few_alone() {
        let same = "name: s\naction: sendEvent\nevents: ['*']";
        for (last, shown) in [(20, 20), (21, 0)] {
            let comparing = comparing(same, last).with_messages(messages(30)).await.unwrap();
            let (found, _) = comparing.finish();
            assert_eq!((found.messages.len(), found.changes), (shown, false));
            assert_eq!(found.counts.same, last as u64);
        }
    }

    /// A mapping that doubles its own output again and again.
    fn doubling() -> String {
        let doubled = |inner: String| {
            format!(
                r#"{{"@transform":{{"apply":{{"l":[{inner},{inner}]}},"mapping":{{"@path":"$.l"}}}}}}"#
            )
        };
        let value =
            (0..9).fold(r#"{"@path":"$.properties"}"#.to_owned(), |inner, _| doubled(inner));
        format!(
            r#"{{"name":"s","action":"sendEvent","events":["*"],"mapping":{{"eventProperties":{{"list":{value}}}}}}}"#
        )
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_mapping_that_takes_longer_than_its_budget_is_stopped() {
        // However fast the machine is, messages enough make it take longer, unless there is none.
        let mut comparing = comparing(&doubling(), 1000);
        let text = format!(
            r#"{{"type":"track","userId":"u","event":"e","messageId":"slow","properties":{{{}}}}}"#,
            (0..200).map(|n| format!(r#""k{n}":{n}"#)).collect::<Vec<_>>().join(",")
        );
        let slow = Message::from_stored(decode(text.as_bytes()).unwrap()).unwrap();
        comparing = comparing.with_messages(vec![slow; 200]).await.unwrap();
        let (found, _) = comparing.finish();
        let stopped = found.stopped.unwrap();
        assert_eq!(stopped.message_id, "slow");
        assert!(
            stopped.detail.contains("`eventProperties`")
                && stopped.detail.contains("took longer than its budget"),
            "{}",
            stopped.detail
        );
        assert!(!found.looked.complete);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_case_that_takes_longer_than_the_budget_is_stopped() {
        // The draft is quick, but a case holds what the whole destination makes of its message.
        let slow = doubling().replace(r#""name":"s""#, r#""name":"slow""#);
        let quick = r#"{"name":"s","action":"sendEvent","events":["*"]}"#;
        let read = |text: &str| read(&decode(text.as_bytes()).unwrap(), 0).unwrap();
        let subscriptions = [read(quick), read(&slow)];
        let destination =
            Destination::compile(&subscriptions, DestinationOptions::default()).unwrap();
        let draft = Draft::of_text(RENAMES, Some("s"), &destination).unwrap();
        let comparing = Comparing::of_draft(draft, 20, Turns::default(), Turn::default());
        let text = format!(
            r#"{{"type":"track","userId":"u","event":"e","properties":{{{}}}}}"#,
            (0..5_000).map(|n| format!(r#""k{n}":{n}"#)).collect::<Vec<_>>().join(",")
        );
        let message = Message::from_stored(decode(text.as_bytes()).unwrap()).unwrap();
        let (found, _) = comparing.with_messages(vec![message; 20]).await.unwrap().finish();
        let detail = found.stopped.unwrap().detail;
        assert!(detail.contains("of `slow` took longer than its budget"), "{detail}");
    }
}
