//! A person: the ids, the messages, and what Loops reported.

use std::collections::BTreeSet;

use super::asker::{ContactKey, Events, Held};
use super::filter::PERSONS_MAX;
use super::state::{AdminState, store_fault};
use super::status::{self, DestinationNow, Rejected};
use super::verdict::{Facts, Verdict, judge};
use super::view::{FeedbackEvent, MessageReport};
use crate::http::error::ApiError;
use crate::queue::{Contents, FeedbackRecord, Filter, MessageRecord, MessageState, Seq};
use crate::segment::{Message, PersonDigest, PersonIdKind};

/// How many messages are read.
const MESSAGES_MAX: u32 = 50;

/// How many events that Loops reported are read.
const FEEDBACK_MAX: u32 = 100;

/// In how many of the latest messages ids are searched for, and how many are in memory at once.
const READ_MAX: usize = 20;
const READ_AT_ONCE: usize = 4;

/// A person whom messages are about.
pub(super) struct Person {
    /// All digests by which messages were looked up.
    pub(super) digests: Vec<PersonDigest>,
    /// The ids in the latest messages that still have contents.
    pub(super) ids: Vec<KnownId>,
    /// The latest messages, newest first.
    pub(super) messages: Vec<MessageRecord>,
    /// Whether there are no older ones.
    pub(super) is_complete: bool,
    /// What Loops reported, newest first.
    pub(super) feedback: Vec<FeedbackRecord>,
    /// Whether Loops has ever reported anything to the destination of the latest message.
    pub(super) has_heard: bool,
    /// The state of delivery at the destinations of waiting messages.
    destinations: Vec<DestinationNow>,
    /// What was rejected in the last hour; empty if there are messages.
    rejected: Rejected,
}

/// An id of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownId {
    pub(super) kind: PersonIdKind,
    pub(super) id: String,
    pub(super) digest: PersonDigest,
    /// How many of the messages that were read have it.
    pub(super) messages: usize,
}

impl Person {
    /// Finds the person behind some digests.
    ///
    /// Many messages carry only one id of their person. So messages with another id of a found message are included,
    /// unless they are about other users, who may share a device or an address.
    pub(super) async fn find(state: &AdminState, asked: &[PersonDigest]) -> Result<Self, ApiError> {
        let found = list(state, asked).await?;
        let mut ids: Vec<KnownId> = Vec::new();
        let seqs: Vec<Seq> = found.0.iter().map(|message| message.seq).take(READ_MAX).collect();
        for seqs in seqs.chunks(READ_AT_ONCE) {
            for contents in state.store.contents(seqs).await.map_err(store_fault)? {
                let Some(message) = read(state, &contents).await else { continue };
                add(&mut ids, known_ids(state, &message));
            }
        }
        let mut digests = asked.to_vec();
        for id in &ids {
            if !digests.contains(&id.digest) && digests.len() < PERSONS_MAX {
                digests.push(id.digest);
            }
        }
        let (messages, is_complete) = match digests.len() == asked.len() {
            true => found,
            false => {
                let (mut messages, is_complete) = list(state, &digests).await?;
                let are_all_judged = drop_others(state, &mut messages, &found.0, &ids).await?;
                (messages, is_complete && are_all_judged)
            }
        };
        let feedback = state.store.by_person(&digests, FEEDBACK_MAX).await;
        let feedback = feedback.map_err(store_fault)?;
        let has_heard = match messages.first() {
            Some(first) => has_heard(state, &first.destination).await?,
            None => false,
        };
        let destinations = destinations(state, &messages).await?;
        let rejected = match messages.is_empty() {
            true => status::rejected(state).await.map_err(store_fault)?,
            false => Rejected::new(),
        };
        Ok(Self {
            digests,
            ids,
            messages,
            is_complete,
            feedback,
            has_heard,
            destinations,
            rejected,
        })
    }

    /// Returns the verdict, which takes into account what Loops holds if it was asked.
    pub(super) fn verdict(&self, held: Option<&Held>, say: impl Fn(&str) -> String) -> Verdict {
        let facts = Facts {
            messages: &self.messages,
            feedback: &self.feedback,
            has_heard: self.has_heard,
            held,
            events: None,
            destinations: &self.destinations,
            rejected: Some(&self.rejected),
        };
        judge(&facts, say)
    }

    /// Returns the key with which to ask Loops for the contact: the user id of the latest message that has one, else an
    /// address.
    pub(super) fn contact_key(&self) -> Option<ContactKey> {
        let first = |kind| self.ids.iter().find(move |id| id.kind == kind).map(|id| id.id.clone());
        first(PersonIdKind::User)
            .map(ContactKey::UserId)
            .or_else(|| first(PersonIdKind::Email).map(ContactKey::Email))
    }
}

/// Reads the latest messages about a person, and returns whether these are all.
async fn list(
    state: &AdminState,
    persons: &[PersonDigest],
) -> Result<(Vec<MessageRecord>, bool), ApiError> {
    let filter = Filter { persons: persons.to_vec(), ..Filter::default() };
    let page = state.store.list(&filter, None, MESSAGES_MAX).await.map_err(store_fault)?;
    Ok((page.messages, page.next.is_none()))
}

/// Drops messages about other users. Messages that were asked for stay. A message found by another id stays if it is
/// known not to be about another user. If its contents are gone, or it is beyond those that are read, it is dropped: it
/// could be about anybody who shares the id. Returns whether none was dropped for that reason.
async fn drop_others(
    state: &AdminState,
    messages: &mut Vec<MessageRecord>,
    asked: &[MessageRecord],
    ids: &[KnownId],
) -> Result<bool, ApiError> {
    let is_user = |id: &&KnownId| id.kind == PersonIdKind::User;
    let users: Vec<PersonDigest> = ids.iter().filter(is_user).map(|id| id.digest).collect();
    if users.is_empty() {
        return Ok(true);
    }
    let is_asked = |seq: Seq| asked.iter().any(|message| message.seq == seq);
    let added = messages.iter().map(|message| message.seq).filter(|seq| !is_asked(*seq));
    let added: Vec<Seq> = added.collect();
    let (mut judged, mut own) = (0, Vec::new());
    for seqs in added[..added.len().min(READ_MAX)].chunks(READ_AT_ONCE) {
        for contents in state.store.contents(seqs).await.map_err(store_fault)? {
            let Some(message) = read(state, &contents).await else { continue };
            judged += 1;
            let found = known_ids(state, &message);
            if found.iter().find(is_user).is_none_or(|user| users.contains(&user.digest)) {
                own.push(contents.seq);
            }
        }
    }
    messages.retain(|message| is_asked(message.seq) || own.contains(&message.seq));
    Ok(judged == added.len())
}

/// Returns whether Loops has ever reported anything to a destination.
pub(super) async fn has_heard(state: &AdminState, destination: &str) -> Result<bool, ApiError> {
    Ok(state.store.last_heard(destination).await.map_err(store_fault)?.is_some())
}

/// Returns the verdict on one message. `feedback` is about its person.
pub(super) async fn judge_one(
    state: &AdminState,
    record: &MessageRecord,
    feedback: &[FeedbackRecord],
    events: Option<(&str, &Events)>,
    say: impl Fn(&str) -> String,
) -> Result<Verdict, ApiError> {
    let has_heard = has_heard(state, &record.destination).await?;
    let messages = std::slice::from_ref(record);
    let destinations = &destinations(state, messages).await?;
    let facts = Facts { messages, feedback, has_heard, events, destinations, ..Facts::default() };
    Ok(judge(&facts, say))
}

/// Reads the state of delivery at the destinations of waiting messages.
async fn destinations(
    state: &AdminState,
    messages: &[MessageRecord],
) -> Result<Vec<DestinationNow>, ApiError> {
    let waiting = messages.iter().filter(|message| message.state() == MessageState::Pending);
    let names: BTreeSet<&str> = waiting.map(|message| message.destination.as_str()).collect();
    let mut destinations = Vec::with_capacity(names.len());
    for name in names {
        destinations.push(status::delivery(state, name).await.map_err(store_fault)?);
    }
    Ok(destinations)
}

/// Reads what Loops reported about the person of a message, newest first.
pub(super) async fn feedback_of(
    state: &AdminState,
    message: &Message,
) -> Result<Vec<FeedbackRecord>, ApiError> {
    let persons: Vec<PersonDigest> =
        known_ids(state, message).into_iter().map(|id| id.digest).collect();
    state.store.by_person(&persons, FEEDBACK_MAX).await.map_err(store_fault)
}

/// Returns the events that a message may have caused.
pub(super) fn since<'a>(
    feedback: &'a [FeedbackRecord],
    record: &MessageRecord,
) -> impl Iterator<Item = &'a FeedbackRecord> {
    // Loops' times are whole seconds.
    let received = record.received_at.as_second();
    let destination = record.destination.clone();
    feedback
        .iter()
        .filter(move |event| event.destination == destination && event.at.as_second() >= received)
}

/// Reports on a message, for programs.
pub(super) async fn report(
    state: &AdminState,
    record: &MessageRecord,
) -> Result<MessageReport, ApiError> {
    let feedback = match message_of(state, record.seq).await? {
        Some(message) => feedback_of(state, &message).await?,
        None => Vec::new(),
    };
    let verdict = judge_one(state, record, &feedback, None, str::to_owned).await?;
    Ok(MessageReport {
        message: record.into(),
        verdict: verdict.into(),
        feedback: since(&feedback, record).cloned().map(FeedbackEvent::from).collect(),
    })
}

/// Decodes a message; a large one waits for its turn.
pub(super) async fn read(state: &AdminState, contents: &Contents) -> Option<Message> {
    state.turns.decode(contents.payload.len(), || contents.message()).await
}

/// Reads the contents of a message; `None` if they are gone or cannot be decoded.
pub(super) async fn message_of(state: &AdminState, seq: Seq) -> Result<Option<Message>, ApiError> {
    let contents = state.store.contents(&[seq]).await.map_err(store_fault)?;
    match contents.first() {
        Some(contents) => Ok(read(state, contents).await),
        None => Ok(None),
    }
}

/// Returns the ids of the person in a message.
pub(super) fn known_ids(state: &AdminState, message: &Message) -> Vec<KnownId> {
    let digests = state.store.digests();
    let of = |(kind, id): (PersonIdKind, std::borrow::Cow<'_, str>)| KnownId {
        digest: digests.person(kind, &id),
        kind,
        id: id.into_owned(),
        messages: 1,
    };
    message.person_ids().map(of).collect()
}

fn add(ids: &mut Vec<KnownId>, found: Vec<KnownId>) {
    for id in found {
        match ids.iter_mut().find(|known| known.digest == id.digest) {
            Some(known) => known.messages += 1,
            None => ids.push(id),
        }
    }
}
