//! Compares what happened with the promises, which are those of the README.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::loops::{Effect, Loops, values};
use crate::queue::{
    Accepted, FailureReason, FrozenRequest, Lease, MessageRecord, MessageState, RequestId,
};

/// The kind of a message, which decides how it may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Identify,
    Track,
    Delete,
    /// Loops will never take its request.
    Poison,
    /// No subscription matches it.
    Page,
    /// Its user id is a placeholder that stands for "no id".
    Placeholder,
}

/// A message that a sender has sent.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) user: String,
    pub(super) kind: Kind,
    /// The properties that an identify or a track sets.
    pub(super) properties: Vec<String>,
    /// The plan that an identify gives its person.
    pub(super) plan: Option<&'static str>,
    /// Whether it was acknowledged.
    pub(super) is_acknowledged: bool,
    /// Its positions in the order of acceptance. There are several if it was sent again after the duplicate window.
    accepted: Vec<usize>,
    /// How often a request with this message was refused because of the key.
    unauthorized: u32,
    /// When the first attempt at a request with this message began.
    first_tried_at: Option<Instant>,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) messages: Vec<Message>,
    /// The effects at Loops, in order.
    pub(super) effects: Vec<Effect>,
    pub(super) violations: Vec<String>,
    /// Whether a process started under a clock that had been set a day forward.
    pub(super) may_expire: bool,
    /// The messages in each request.
    requests: HashMap<RequestId, Vec<usize>>,
    accepted: usize,
    token: i64,
}

pub(super) fn id(number: usize) -> String {
    format!("m{number}")
}

fn number(id: &str) -> usize {
    id[1..].parse().unwrap()
}

impl Ledger {
    pub(super) fn violate(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(super) fn sent(
        &mut self,
        user: String,
        kind: Kind,
        properties: Vec<String>,
        plan: Option<&'static str>,
    ) -> usize {
        self.messages.push(Message {
            user,
            kind,
            properties,
            plan,
            is_acknowledged: false,
            accepted: Vec::new(),
            unauthorized: 0,
            first_tried_at: None,
        });
        self.messages.len() - 1
    }

    pub(super) fn accepted(&mut self, ids: &[String], accepted: &[Accepted]) {
        for (id, accepted) in ids.iter().zip(accepted) {
            let message = &mut self.messages[number(id)];
            match accepted {
                Accepted::New => {
                    self.accepted += 1;
                    message.accepted.push(self.accepted);
                }
                Accepted::Duplicate if message.accepted.is_empty() => {
                    self.violations.push(format!("{id} is a duplicate of nothing"));
                }
                Accepted::Duplicate => {}
            }
        }
    }

    pub(super) fn leased(&mut self, lease: &Lease) {
        self.token = self.token.max(lease.token);
    }

    /// Checks fencing: a process that lost its lease changes nothing.
    pub(super) fn stepped(&mut self, step: &str, lease: &Lease) {
        if lease.token < self.token {
            self.violate(format!(
                "{step} of {} changed something after it lost its lease",
                lease.holder
            ));
        }
    }

    /// Returns whether a message was accepted a second time, after the duplicate window. Its event then has the same
    /// key, so that Loops takes it once, but it has another body if the neighbours or the configuration have changed.
    pub(super) fn came_again(&self, number: Option<u64>) -> bool {
        number.is_some_and(|number| self.messages[number as usize].accepted.len() > 1)
    }

    /// Notes an attempt.
    pub(super) fn tried(&mut self, body: &[u8]) {
        for (_, number) in values(&serde_json::from_slice(body).unwrap()) {
            self.messages[number].first_tried_at.get_or_insert_with(Instant::now);
        }
    }

    /// Notes the requests of messages.
    pub(super) fn frozen(&mut self, requests: &[FrozenRequest]) {
        for request in requests {
            let numbers = values(&serde_json::from_slice(&request.body).unwrap());
            let numbers = numbers.into_iter().map(|(_, number)| number).collect();
            self.requests.insert(request.id, numbers);
        }
    }

    /// Notes that the beginning of an attempt is on disk: from then on, Loops may have the request.
    pub(super) fn begun(&mut self, request: RequestId) {
        for number in self.requests.get(&request).into_iter().flatten() {
            self.messages[*number].first_tried_at.get_or_insert_with(Instant::now);
        }
    }

    /// Notes a request that was refused because of the key.
    pub(super) fn unauthorized(&mut self, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        for (number, message) in self.messages.iter_mut().enumerate() {
            let is_in = |name: &String| text.contains(&format!("\"{name}\":{number}"));
            let is_deleted =
                message.kind == Kind::Delete && text.contains(&format!("\"{}\"", message.user));
            if message.properties.iter().any(is_in) || is_deleted {
                message.unauthorized += 1;
            }
        }
    }

    /// Checks the promises once nothing is pending any more. `records` has the records of each message.
    pub(super) fn check(&mut self, records: &[Vec<MessageRecord>], loops: &Loops) {
        let mut violations = Vec::new();
        let effects = self.effects_by_message();
        let mut is_moved = vec![false; self.messages.len()];
        for (n, message) in self.messages.iter().enumerate() {
            // Promise 1. Durable ack: every acknowledged message is kept.
            if records[n].len() != message.accepted.len()
                || message.is_acknowledged && records[n].is_empty()
            {
                violations.push(format!(
                    "m{n} was accepted {} times, acknowledged: {}, but {} are kept",
                    message.accepted.len(),
                    message.is_acknowledged,
                    records[n].len()
                ));
            }
            is_moved[n] =
                records[n].len() != 1 || records[n].iter().any(|record| record.replay > 0);
            let replays: usize = records[n].iter().map(|record| record.replay as usize).sum();
            let is_deleted = |one: &Message| one.kind == Kind::Delete && one.user == message.user;
            // A failed message is replayed once more than it is delivered. A message of a deleted person is not sent
            // again.
            let may_fail = self.may_be_late(message) || message.unauthorized >= 4;
            let is_sent_by_each_replay = message.kind == Kind::Track
                && message.accepted.len() == 1
                && !may_fail
                && !self.messages.iter().any(is_deleted);
            let least = match replays {
                0 => 1,
                _ if is_sent_by_each_replay => 1 + replays,
                _ => 0,
            };
            for record in &records[n] {
                // A message that came again has the same key, which Loops does not know if a merged request was
                // refused.
                let most = message.accepted.len() + replays;
                self.check_end(n, record, (least, most), &effects[n], &mut violations);
            }
        }
        self.check_order(&is_moved, &mut violations);
        self.check_deletions(&mut violations);
        self.check_plans(records, &is_moved, loops, &mut violations);
        self.violations.append(&mut violations);
    }

    /// Returns for each message how often each of its properties reached Loops.
    fn effects_by_message(&self) -> Vec<BTreeMap<&str, usize>> {
        let mut found = vec![BTreeMap::new(); self.messages.len()];
        for effect in &self.effects {
            for (name, number) in &effect.values {
                *found[*number].entry(name.as_str()).or_default() += 1;
            }
        }
        found
    }

    /// Promises 2 and 4. Nothing vanishes: each message ends, for a reason. Delivered messages reached Loops: events
    /// once for each time they were sent, contacts at least once.
    fn check_end(
        &self,
        n: usize,
        record: &MessageRecord,
        (least, most): (usize, usize),
        effects: &BTreeMap<&str, usize>,
        violations: &mut Vec<String>,
    ) {
        let message = &self.messages[n];
        let state = record.state();
        let reasons: Vec<FailureReason> = record
            .deliveries
            .iter()
            .filter(|one| !one.is_superseded)
            .filter_map(|one| Some(one.failure.as_ref()?.reason))
            .collect();
        let is_refused = reasons == [FailureReason::Refused];
        let is_blamed = is_refused && message.unauthorized >= 4;
        let is_late = reasons == [FailureReason::Expired] && self.may_be_late(message);
        let is_right = match message.kind {
            Kind::Identify | Kind::Track | Kind::Delete => {
                // A replay after the person's deletion is not sent.
                state == MessageState::Delivered
                    || is_blamed
                    || is_late
                    || state == MessageState::Unmatched && record.replay > 0
            }
            Kind::Poison => {
                is_refused || is_late || state == MessageState::Unmatched && record.replay > 0
            }
            Kind::Page => state == MessageState::Unmatched,
            Kind::Placeholder => {
                reasons == [FailureReason::PlaceholderId]
                    || state == MessageState::Unmatched && record.replay > 0
            }
        };
        if !is_right {
            violations.push(format!("m{n} ({:?}) ended as {state:?} {reasons:?}", message.kind));
        }
        let most = match message.kind {
            Kind::Track => most,
            Kind::Identify => usize::MAX,
            _ => 0,
        };
        let least = if state == MessageState::Delivered { least } else { 0 };
        for name in &message.properties {
            let count = effects.get(name.as_str()).copied().unwrap_or_default();
            if count < least || count > most {
                violations.push(format!(
                    "m{n} ({:?}) ended as {state:?}, replayed {} times, and {name} reached Loops {count} times",
                    message.kind, record.replay
                ));
            }
        }
    }

    /// Returns whether Loops may have forgotten the key of the message's event.
    fn may_be_late(&self, message: &Message) -> bool {
        let window = Duration::from_secs(24 * 3600);
        self.may_expire || message.first_tried_at.is_some_and(|at| at.elapsed() > window)
    }

    /// Promise 3. Order per contact: the effects at Loops for a person follow the order of acceptance. Messages that
    /// were replayed, or came again after the duplicate window, are ignored, because they moved to the end of the
    /// order.
    fn check_order(&self, is_moved: &[bool], violations: &mut Vec<String>) {
        let mut last: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for effect in &self.effects {
            let places: BTreeSet<usize> = effect
                .values
                .iter()
                .filter(|(_, number)| !is_moved[*number])
                .map(|(_, number)| self.messages[*number].accepted[0])
                .collect();
            let Some(first) = places.first() else { continue };
            let last = last.entry(&effect.user).or_default();
            // A request whose response was lost is sent again, or a part of it.
            if last.last().is_some_and(|last| last >= first) && !places.is_subset(last) {
                violations.push(format!(
                    "for {}, what was accepted as {places:?} reached Loops after {last:?}",
                    effect.user
                ));
            }
            last.extend(places);
        }
    }

    /// Even if requests were skipped as unchanged, each contact has the plan that its person's messages gave it last.
    /// People of whom a message failed, was replayed or came again are ignored.
    fn check_plans(
        &self,
        records: &[Vec<MessageRecord>],
        is_moved: &[bool],
        loops: &Loops,
        violations: &mut Vec<String>,
    ) {
        let mut plans: BTreeMap<&str, Option<(usize, Option<&str>)>> = BTreeMap::new();
        for (n, message) in self.messages.iter().enumerate() {
            let plan = plans.entry(&message.user).or_insert(Some((0, None)));
            let is_certain = !is_moved[n]
                && records[n].iter().all(|record| record.state() == MessageState::Delivered);
            match (message.kind, message.accepted.first()) {
                (_, None) => {}
                (Kind::Identify | Kind::Delete, Some(_)) if !is_certain => *plan = None,
                (Kind::Identify | Kind::Delete, Some(place)) => {
                    if let Some((last, value)) = plan
                        && *last < *place
                        && (message.plan.is_some() || message.kind == Kind::Delete)
                    {
                        (*last, *value) = (*place, message.plan);
                    }
                }
                _ => {}
            }
        }
        for (user, plan) in plans {
            if let Some((_, plan)) = plan
                && loops.plan(user) != plan
            {
                let held = loops.plan(user);
                violations.push(format!("{user} has the plan {held:?} and was given {plan:?}"));
            }
        }
    }

    /// Promise 9. Nobody is harmed: once a person is deleted, nothing that was accepted before brings them back.
    fn check_deletions(&self, violations: &mut Vec<String>) {
        let mut deleted: BTreeMap<&str, usize> = BTreeMap::new();
        for effect in &self.effects {
            if effect.is_deletion {
                let of_user = |message: &&Message| {
                    message.kind == Kind::Delete && message.user == effect.user
                };
                let deletion = self.messages.iter().find(of_user);
                let place = deletion.and_then(|message| message.accepted.first());
                deleted.insert(&effect.user, place.copied().unwrap_or_default());
                continue;
            }
            let Some(deleted) = deleted.get(effect.user.as_str()) else { continue };
            for (name, number) in &effect.values {
                if self.messages[*number].accepted.iter().all(|place| place < deleted) {
                    violations.push(format!(
                        "{name} of m{number} made {} again, who was deleted",
                        effect.user
                    ));
                }
            }
        }
    }
}
