//! Accepts messages: the task that writes them in groups, and the transaction of a group. This is the hot path.
//!
//! While one group is being written, the next one gathers. A call is answered only after its group is committed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{Connection, Connections, Pooled};
use super::error::Fault;
use super::event_names::EventNames;
use super::hints::Hints;
use super::numbers::{self, Stream};
use super::options::Time;
use super::params::{Array, params, text};
use super::rows::{duration_ms, get, to_json, to_ms};
use super::streams::{LOCK_STREAMS, add_streams};
use super::transaction::{GROUP_TIMEOUT, TRIES_MAX};
use super::{partitions, startup};
use crate::queue::{Accepted, NewMessage};
use crate::store::meters::Meters;
use crate::store::order::AcceptOrder;

/// The arguments are described at the definition of the function.
const ACCEPT: &str = "
    SELECT @accept_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                     $19)";

/// Bounds of one group: they bound how long a transaction holds the lock and how long its first call waits for its
/// last.
const GROUP_MESSAGES_MAX: usize = 2_000;
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// After another process held the locks, this many groups take the locks first: that process will probably hold them
/// again.
const LOCKS_FIRST: u32 = 16;

/// How far the clocks of the database and of a process may differ before a duplicate is missed.
const SKEW_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The task that accepts messages. It has its own connection.
pub(super) struct Writer {
    pub(super) connections: Connections,
    pub(super) duplicate_window: Duration,
    pub(super) time: Time,
    pub(super) orders: UnboundedReceiver<AcceptOrder<Fault>>,
    pub(super) hints: Arc<Hints>,
    pub(super) closing: CancellationToken,
    /// Cancels a token when the task ends, for whatever reason.
    pub(super) ended: DropGuard,
}

/// The state that the task keeps between groups.
struct Memory {
    connections: Connections,
    /// `None` after a failure; the next group makes a new connection.
    connection: Option<Pooled>,
    duplicate_window: Duration,
    time: Time,
    event_names: EventNames,
    /// How many more groups take the locks first.
    locks_first: u32,
    meters: Meters,
}

impl Writer {
    /// Writes group after group until the store is closed or dropped.
    pub(super) async fn run(self) {
        let Self { connections, duplicate_window, time, orders, hints, closing, ended } = self;
        let event_names = EventNames::default();
        let mut memory = Memory {
            connections,
            connection: None,
            duplicate_window,
            time,
            event_names,
            locks_first: 0,
            meters: Meters::new(),
        };
        let mut queue = Queue { orders, next: None };
        loop {
            if queue.next.is_none() {
                queue.next = tokio::select! {
                    biased;
                    order = queue.orders.recv() => match order {
                        Some(order) => Some(order),
                        None => break,
                    },
                    // Calls sent before are still received.
                    () = closing.cancelled(), if !queue.orders.is_closed() => {
                        queue.orders.close();
                        continue;
                    }
                };
            }
            let mut group = Group::default();
            group.fill(&mut queue, |_| true);
            memory.write(group, &mut queue, &hints).await;
        }
        if let Some(connection) = memory.connection.take() {
            connection.close().await;
        }
        // Dropped before `hints`, which ends the engines and must not look like the cause.
        drop(ended);
    }
}

/// The waiting calls.
struct Queue {
    orders: UnboundedReceiver<AcceptOrder<Fault>>,
    /// The first of them, once it has been taken from the channel.
    next: Option<AcceptOrder<Fault>>,
}

/// Calls that are written in one transaction.
#[derive(Default)]
struct Group {
    orders: Vec<AcceptOrder<Fault>>,
    messages: usize,
    bytes: usize,
    /// When its transaction began; `None` before that.
    began_at: Option<Instant>,
}

impl Group {
    /// Takes waiting calls, as long as they fit and meet a condition.
    fn fill(&mut self, queue: &mut Queue, mut takes: impl FnMut(&AcceptOrder<Fault>) -> bool) {
        while let Some(order) = queue.next.take().or_else(|| queue.orders.try_recv().ok()) {
            let messages = self.messages + order.messages.len();
            let bytes = order.messages.iter().map(|message| message.payload.len()).sum::<usize>();
            let bytes = self.bytes + bytes;
            let has_room = messages <= GROUP_MESSAGES_MAX && bytes <= GROUP_BYTES_MAX;
            if !(has_room || self.orders.is_empty()) || !takes(&order) {
                queue.next = Some(order);
                return;
            }
            (self.messages, self.bytes) = (messages, bytes);
            self.orders.push(order);
        }
    }

    fn calls(&self) -> Vec<&[NewMessage]> {
        self.orders.iter().map(|order| &*order.messages).collect()
    }

    fn messages(&self) -> impl Iterator<Item = &NewMessage> {
        self.orders.iter().flat_map(|order| &order.messages)
    }
}

impl Memory {
    /// Writes a group and answers its calls. If one call may be to blame for a failure, each is written separately, so
    /// that it cannot harm the others.
    async fn write(&mut self, mut group: Group, queue: &mut Queue, hints: &Hints) {
        match self.commit(&mut group, Some(queue)).await {
            Err(fault) if fault.is_of_one_call() && group.orders.len() > 1 => {
                for order in group.orders {
                    let mut alone = Group { orders: vec![order], ..Group::default() };
                    let committed = self.commit(&mut alone, None).await;
                    answer(alone, committed, hints);
                }
            }
            committed => answer(group, committed, hints),
        }
    }

    /// Writes the calls in one transaction, together with calls that arrive in the meantime; returns whether each
    /// message of each call is new.
    async fn commit(
        &mut self,
        group: &mut Group,
        mut queue: Option<&mut Queue>,
    ) -> Result<Vec<Vec<Accepted>>, Fault> {
        let mut tries = 0;
        let began_at = Instant::now();
        group.began_at = Some(began_at);
        loop {
            tries += 1;
            let tried = tokio::time::timeout(GROUP_TIMEOUT, async {
                let tried = self.try_to_commit(group, queue.as_deref_mut()).await;
                if let Err(fault) = &tried {
                    self.roll_back(fault).await;
                }
                tried
            });
            let fault = match tried.await {
                Ok(Ok(accepted)) => {
                    self.meters.committed(began_at.elapsed(), group.messages().count());
                    return Ok(accepted);
                }
                Ok(Err(fault)) => fault,
                Err(_) => {
                    // A statement of the group may still be running.
                    self.connection.take().inspect(|connection| connection.outdate());
                    Fault::Slow
                }
            };
            if tries >= TRIES_MAX || !(fault.is_conflict() || fault.is_missing_partition()) {
                self.event_names = EventNames::default();
                return Err(fault);
            }
        }
    }

    /// Rolls back. If that fails, the next group makes a new connection.
    async fn roll_back(&mut self, fault: &Fault) {
        if let Some(connection) = self.connection.take()
            && fault.is_answer()
            && connection.batch("ROLLBACK").await.is_ok()
        {
            self.connection = Some(connection);
        }
    }

    async fn try_to_commit(
        &mut self,
        group: &mut Group,
        queue: Option<&mut Queue>,
    ) -> Result<Vec<Vec<Accepted>>, Fault> {
        self.connection.take_if(|connection| connection.is_useless());
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let connection = self.connections.get_to_write().await?;
                startup::check_durable(&connection).await?;
                none.insert(connection)
            }
        };
        let known: Vec<&NewMessage> = group.messages().collect();
        let mut event_names = self.event_names.of(connection, &known).await?;
        let destinations: BTreeSet<String> =
            known.iter().map(|message| message.destination.clone()).collect();
        let destinations: Array<String> = destinations.into_iter().collect();
        // One round trip is enough while no other process accepts messages for these destinations.
        if self.locks_first == 0 {
            let judged = Judged::new(&group.calls(), self.duplicate_window);
            let accept = Accept { judged, event_names: &event_names, destinations: &destinations };
            if let Some(answers) = accept.commit(connection, connection.begin(), self.time).await? {
                return Ok(answers);
            }
            self.locks_first = LOCKS_FIRST;
        } else {
            self.locks_first -= 1;
        }
        let lock = params![destinations];
        let (begun, locked) = tokio::join!(
            biased;
            connection.begin(),
            connection.query(LOCK_STREAMS, lock),
        );
        begun?;
        let locked = locked?;
        let locked: HashSet<&str> =
            locked.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        let missing = destinations.0.iter().map(String::as_str);
        let missing: Vec<&str> = missing.filter(|name| !locked.contains(name)).collect();
        if !missing.is_empty() {
            connection.batch("ROLLBACK").await?;
            add_streams(connection, &missing).await?;
            return Box::pin(self.try_to_commit(group, queue)).await;
        }
        if let Some(queue) = queue {
            // More calls have arrived while another process held the lock. This transaction does not write names of
            // events, so calls with new names are left to the next group.
            let before = known.len();
            group.fill(queue, |order| {
                let is_locked =
                    |message: &NewMessage| locked.contains(message.destination.as_str());
                order.messages.iter().all(is_locked) && self.event_names.knows(&order.messages)
            });
            let more: Vec<&NewMessage> = group.messages().skip(before).collect();
            event_names.extend(self.event_names.of(connection, &more).await?);
        }
        let judged = Judged::new(&group.calls(), self.duplicate_window);
        let accept = Accept { judged, event_names: &event_names, destinations: &destinations };
        let answers = accept.commit(connection, async { Ok(()) }, self.time).await?;
        answers.ok_or(Fault::Broken("a stream vanished"))
    }
}

/// The messages of a group, and which of them repeat an earlier message of the same group.
struct Judged<'a> {
    messages: Vec<&'a NewMessage>,
    /// The number of messages of each call.
    calls: Vec<usize>,
    /// The indices of the messages that may be new.
    first: Vec<usize>,
    window_ms: i64,
}

impl<'a> Judged<'a> {
    fn new(calls: &[&'a [NewMessage]], window: Duration) -> Self {
        let window_ms = duration_ms(window);
        let messages: Vec<&NewMessage> = calls.iter().copied().flatten().collect();
        let mut seen: HashMap<(&str, &str), (usize, i64)> = HashMap::with_capacity(messages.len());
        let mut first = Vec::with_capacity(messages.len());
        let of_call = calls.iter().enumerate().flat_map(|(call, of)| of.iter().map(move |_| call));
        for (index, (message, call)) in messages.iter().zip(of_call).enumerate() {
            let received_ms = to_ms(message.received_at);
            let key = (&*message.source, &*message.message_id);
            let is_repeat = seen.get(&key).is_some_and(|(of_call, before_ms)| {
                *of_call == call || *before_ms >= received_ms.saturating_sub(window_ms)
            });
            if !is_repeat {
                seen.insert(key, (call, received_ms));
                first.push(index);
            }
        }
        Self { messages, calls: calls.iter().map(|call| call.len()).collect(), first, window_ms }
    }

    /// Returns whether each message of each call is new, given which of the `first` ones duplicate stored messages.
    /// Those indices start at 1.
    fn answers(&self, duplicates: &[i32]) -> Vec<Vec<Accepted>> {
        let mut all = vec![Accepted::Duplicate; self.messages.len()];
        for index in &self.first {
            all[*index] = Accepted::New;
        }
        for number in duplicates {
            let index = usize::try_from(*number - 1).ok().and_then(|first| self.first.get(first));
            if let Some(index) = index {
                all[*index] = Accepted::Duplicate;
            }
        }
        let mut all = all.into_iter();
        self.calls.iter().map(|messages| all.by_ref().take(*messages).collect()).collect()
    }
}

/// A group of messages to be stored.
struct Accept<'a> {
    judged: Judged<'a>,
    /// The names under which the messages' events are listed.
    event_names: &'a [Option<String>],
    /// The destinations of all messages, each once.
    destinations: &'a Array<String>,
}

impl Accept<'_> {
    /// Stores messages in one round trip, from BEGIN to COMMIT; returns whether each message of each call is new.
    /// Returns `None` if nothing was stored, because a stream is missing or locked by another transaction.
    async fn commit(
        &self,
        connection: &Connection,
        begin: impl Future<Output = Result<(), Fault>>,
        time: Time,
    ) -> Result<Option<Vec<Vec<Accepted>>>, Fault> {
        let Judged { messages, first, window_ms, .. } = &self.judged;
        let of = |value: fn(&NewMessage) -> i64| -> Array<i64> {
            first.iter().map(|index| value(messages[*index])).collect()
        };
        let digest = |value: fn(&NewMessage) -> Option<i64>| -> Array<Option<i64>> {
            first.iter().map(|index| value(messages[*index])).collect()
        };
        let word = |value: fn(&NewMessage) -> &str| -> Array<&str> {
            first.iter().map(|index| value(messages[*index])).collect()
        };
        let message_hash = of(|message| message.message_hash.0);
        let lane = of(|message| message.lane.0);
        let anonymous = digest(|message| message.anonymous.map(|anonymous| anonymous.0));
        let email = digest(|message| message.email.map(|email| email.0));
        let received_at = of(|message| to_ms(message.received_at));
        let each = || first.iter().map(|index| messages[*index]);
        let payload_bytes: Array<i32> = each()
            .map(|message| i32::try_from(message.payload.len()).unwrap_or(i32::MAX))
            .collect();
        let class: Array<i16> =
            each().map(|message| i16::try_from(message.class.code()).unwrap_or(i16::MAX)).collect();
        let kind = word(|message| message.kind.as_str());
        let source = word(|message| &message.source);
        let destination = word(|message| &message.destination);
        let message_id: Array<_> = each().map(|message| text(&message.message_id)).collect();
        let event: Array<Option<&str>> =
            first.iter().map(|index| self.event_names[*index].as_deref()).collect();
        let warnings: Array<Option<String>> =
            each().map(|message| to_json(&message.warnings)).collect();
        let trace: Array<Option<Vec<u8>>> =
            each().map(|message| message.trace.map(|trace| trace.to_bytes().to_vec())).collect();
        let payload: Array<&[u8]> = each().map(|message| &message.payload[..]).collect();
        let earliest_ms = received_at.0.iter().copied().min().unwrap_or_default();
        let since_ms = earliest_ms.saturating_sub(*window_ms).saturating_sub(duration_ms(SKEW_MAX));
        let since = numbers::first_at(since_ms);
        let now_ms = (time == Time::OfCallers).then_some(earliest_ms);
        let params = params![
            now_ms,
            *window_ms,
            since,
            *self.destinations,
            message_hash,
            lane,
            anonymous,
            email,
            received_at,
            payload_bytes,
            class,
            kind,
            source,
            destination,
            message_id,
            event,
            warnings,
            trace,
            payload,
        ];
        crate::crash::point("commit.before");
        // After an error, the server runs no more statements of the transaction, and COMMIT rolls back.
        let (begun, stored, committed) = tokio::join!(
            biased;
            begin,
            connection.query_one(ACCEPT, params),
            connection.batch("COMMIT"),
        );
        begun?;
        let stored = match stored {
            Err(fault) if fault.is_missing_partition() => {
                make_partitions(connection, self.destinations, now_ms).await?;
                Err(fault)
            }
            stored => stored,
        }?;
        committed?;
        let duplicates: Option<Vec<i32>> = get(&stored, 0)?;
        crate::crash::point("commit.after");
        Ok(duplicates.map(|duplicates| self.judged.answers(&duplicates)))
    }
}

/// Makes the partitions of the day for which the streams give numbers now.
async fn make_partitions(
    connection: &Connection,
    destinations: &Array<String>,
    now_ms: Option<i64>,
) -> Result<(), Fault> {
    let mut days = BTreeSet::new();
    for row in connection.query(LOCK_STREAMS, params![*destinations]).await? {
        let mut stream = Stream { no: get(&row, 1)?, last: get(&row, 2)? };
        days.insert(numbers::day(stream.next(now_ms.unwrap_or(get(&row, 3)?))));
    }
    partitions::make(connection, days.into_iter().collect()).await
}

/// Answers the calls of a group.
fn answer(group: Group, committed: Result<Vec<Vec<Accepted>>, Fault>, hints: &Hints) {
    if let Ok(accepted) = &committed {
        let messages = group.messages().zip(accepted.iter().flatten());
        let destinations: BTreeSet<&str> = messages
            .filter(|(_, accepted)| **accepted == Accepted::New)
            .map(|(message, _)| message.destination.as_str())
            .collect();
        if !destinations.is_empty() {
            hints.has_arrived(destinations);
        }
    }
    let (group_messages, began_at) = (group.messages().count(), group.began_at);
    let mut accepted = committed.map(Vec::into_iter);
    for order in group.orders {
        let outcome = match &mut accepted {
            Ok(accepted) => accepted.next().ok_or(Fault::Closed),
            Err(fault) => Err(fault.clone()),
        };
        order.answer(outcome, began_at, group_messages);
    }
}
