//! Accepts messages: the task that writes them in groups, and the transaction of a group. This is the hot path.
//!
//! While one group is being written, the next one gathers. A call is answered only after the commit of its group.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_postgres::Row;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{ANSWER_TIMEOUT, Connection, Connections, Pooled};
use super::event_names::EventNames;
use super::hints::Hints;
use super::numbers::{self, STREAMS_MAX, Stream};
use super::params::{Array, params, text};
use super::rows::{duration_ms, get, to_json, to_ms};
use super::{Fault, Time, partitions, startup, tally};
use crate::queue::{Accepted, NewMessage, Stage};
use crate::segment::MessageType;
use crate::store::backlog::Admitted;
use crate::store::tally::{Counted, Tallies};

/// $1 destinations. From here to the commit, no other transaction gives numbers to messages of these destinations.
/// In the order of the streams, so that no two transactions wait for each other.
pub(super) const LOCK_STREAMS: &str = "
    SELECT destination, no, last, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
    FROM @streams WHERE destination = ANY($1) ORDER BY no FOR UPDATE";
/// $1 destinations. In another transaction than the messages: it may wait for others that do the same.
const ADD_STREAM: &str = "
    INSERT INTO @streams (destination, no)
    SELECT $1, COALESCE(MAX(no) + 1, 0) FROM @streams
    ON CONFLICT DO NOTHING";
const COUNT_STREAMS: &str = "SELECT COUNT(*) FROM @streams";
/// $1 digests of message ids, $2 the first sequence number that matters. A statement of its own behind the lock: it
/// then sees all that was committed under the lock before. One digest after another: if a list of them is compared with
/// a partition that is new, the planner assumes so many rows that it would read all of them by number.
pub(super) const STORED: &str = "
    SELECT m.source, m.message_id, m.received_at FROM unnest($1) h (hash) CROSS JOIN LATERAL (
        SELECT source, message_id, received_at FROM @messages WHERE message_hash = h.hash AND seq >= $2 OFFSET 0) m";
const INSERT: &str = "
    INSERT INTO @messages (seq, message_hash, lane, anonymous, email, received_at, payload_bytes, class, kind,
                           source, destination, message_id, event, warnings)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
const INSERT_PAYLOADS: &str = "INSERT INTO @payloads (seq, payload) SELECT * FROM unnest($1, $2)";
const INSERT_PENDING: &str = "
    INSERT INTO @pending (seq, lane, received_at, payload_bytes, class, source, destination, is_deletion)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)";
/// $1 days, $2 how far the times of their messages are from the times of their numbers. Changes nothing as long as
/// the clocks are right.
const NOTE_SLACK: &str = "
    UPDATE @days d SET slack_ms = u.slack_ms FROM unnest($1, $2) u (day, slack_ms)
    WHERE d.day = u.day AND d.slack_ms < u.slack_ms";
/// $1 destinations, $2 last numbers.
pub(super) const ADVANCE_STREAMS: &str = "
    UPDATE @streams s SET last = u.last FROM unnest($1, $2) u (destination, last)
    WHERE s.destination = u.destination";

/// Bounds of one group: they bound how long a transaction holds the lock and how long its first call waits for its
/// last.
const GROUP_MESSAGES_MAX: usize = 2_000;
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a group may take. Nobody waits for a server that does not answer.
pub(super) const GROUP_TIMEOUT: Duration = ANSWER_TIMEOUT;

/// How often a transaction is run again that was ended in favour of another one.
pub(super) const TRIES_MAX: u32 = 5;

/// A message is usually received within this time of the moment for which its number is given.
pub(super) const SLACK_MS: i64 = 60_000;

/// By how much the clocks of the database and of a process may differ before a duplicate is missed.
const SKEW_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Messages to be accepted.
#[derive(Debug)]
pub(super) struct AcceptOrder {
    pub(super) messages: Vec<NewMessage>,
    pub(super) reply: oneshot::Sender<Result<Vec<Accepted>, Fault>>,
    /// Room in the queue for the writer, given back when the order is dropped.
    pub(super) permits: [OwnedSemaphorePermit; 2],
    pub(super) admitted: Admitted,
}

/// The task that accepts messages, with a connection of its own.
pub(super) struct Writer {
    pub(super) connections: Connections,
    pub(super) duplicate_window: Duration,
    pub(super) time: Time,
    pub(super) orders: UnboundedReceiver<AcceptOrder>,
    pub(super) hints: Arc<Hints>,
    pub(super) closing: CancellationToken,
    /// Cancels a token when the task has ended, in whatever way.
    pub(super) ended: DropGuard,
}

/// What the task keeps between groups.
struct Memory {
    connections: Connections,
    /// `None` after a failure: the next group makes another.
    connection: Option<Pooled>,
    duplicate_window: Duration,
    time: Time,
    event_names: EventNames,
}

impl Writer {
    /// Writes group after group until the store is closed or dropped.
    pub(super) async fn run(self) {
        let Self { connections, duplicate_window, time, orders, hints, closing, ended } = self;
        let event_names = EventNames::default();
        let mut memory =
            Memory { connections, connection: None, duplicate_window, time, event_names };
        let mut queue = Queue { orders, next: None };
        loop {
            if queue.next.is_none() {
                queue.next = tokio::select! {
                    biased;
                    order = queue.orders.recv() => match order {
                        Some(order) => Some(order),
                        None => break,
                    },
                    // What was sent before is still received.
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
        // Before `hints` is dropped, which ends the engines: nobody may take that for the cause.
        drop(ended);
    }
}

/// The calls that wait.
struct Queue {
    orders: UnboundedReceiver<AcceptOrder>,
    /// The first of them, once it was looked at.
    next: Option<AcceptOrder>,
}

/// The calls that are written in one transaction.
#[derive(Default)]
struct Group {
    orders: Vec<AcceptOrder>,
    messages: usize,
    bytes: usize,
}

impl Group {
    /// Takes those that wait, as long as there is room for them and they meet a condition.
    fn fill(&mut self, queue: &mut Queue, mut takes: impl FnMut(&AcceptOrder) -> bool) {
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
    /// Writes a group and answers its calls. If one of them may be to blame for a failure, each is written by
    /// itself, so that it cannot harm the others.
    async fn write(&mut self, mut group: Group, queue: &mut Queue, hints: &Hints) {
        match self.commit(&mut group, Some(queue)).await {
            Err(fault) if fault.is_of_one_call() && group.orders.len() > 1 => {
                for order in group.orders {
                    let mut alone = Group { orders: vec![order], ..Group::default() };
                    let committed = self.commit(&mut alone, None).await;
                    answer(alone.orders, committed, hints);
                }
            }
            committed => answer(group.orders, committed, hints),
        }
    }

    /// Writes calls in one transaction, and those that meanwhile arrive in the queue; returns whether each message of
    /// each call is new.
    async fn commit(
        &mut self,
        group: &mut Group,
        mut queue: Option<&mut Queue>,
    ) -> Result<Vec<Vec<Accepted>>, Fault> {
        let mut tries = 0;
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
                Ok(Ok(accepted)) => return Ok(accepted),
                Ok(Err(fault)) => fault,
                Err(_) => {
                    // A statement of the group may be under way still.
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

    /// Rolls back. If that fails, the next group makes another connection.
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
        let lock = params![destinations];
        let (begun, locked) = tokio::join!(
            biased;
            connection.begin(),
            connection.query(LOCK_STREAMS, lock),
        );
        begun?;
        let locked = locked?;
        let (mut streams, mut now_ms) = (HashMap::new(), 0);
        for row in &locked {
            let stream = Stream { no: get(row, 1)?, last: get(row, 2)? };
            streams.insert(get::<&str>(row, 0)?, stream);
            now_ms = get(row, 3)?;
        }
        let missing = destinations.0.iter().map(String::as_str);
        let missing: Vec<&str> = missing.filter(|name| !streams.contains_key(name)).collect();
        if !missing.is_empty() {
            connection.batch("ROLLBACK").await?;
            add_streams(connection, &missing).await?;
            return Box::pin(self.try_to_commit(group, queue)).await;
        }
        if let Some(queue) = queue {
            // While another process had the lock, more have arrived. Names of events are not written in this
            // transaction: calls with new ones are for the next group.
            let before = known.len();
            group.fill(queue, |order| {
                let is_locked =
                    |message: &NewMessage| streams.contains_key(message.destination.as_str());
                order.messages.iter().all(is_locked) && self.event_names.knows(&order.messages)
            });
            let more: Vec<&NewMessage> = group.messages().skip(before).collect();
            event_names.extend(self.event_names.of(connection, &more).await?);
        }
        let group = &*group;
        let messages: Vec<&NewMessage> = group.messages().collect();
        let hashes: BTreeSet<i64> = messages.iter().map(|message| message.message_hash.0).collect();
        let hashes: Array<i64> = hashes.into_iter().collect();
        let window_ms = duration_ms(self.duplicate_window);
        let earliest_ms = messages.iter().map(|message| to_ms(message.received_at)).min();
        let since_ms = earliest_ms
            .unwrap_or_default()
            .saturating_sub(window_ms)
            .saturating_sub(duration_ms(SKEW_MAX));
        let since = numbers::first_at(since_ms);
        let stored = connection.query(STORED, params![hashes, since]).await?;
        if self.time == Time::OfCallers {
            now_ms = earliest_ms.unwrap_or_default();
        }
        let (answers, fresh) = judge(&group.calls(), &stored, window_ms)?;
        if fresh.is_empty() {
            connection.batch("COMMIT").await?;
            return Ok(answers);
        }
        let fresh: Vec<Fresh<'_>> = fresh
            .into_iter()
            .map(|index| {
                let message = messages[index];
                let stream = streams.get_mut(message.destination.as_str());
                let stream = stream.ok_or(Fault::Broken("a stream vanished"))?;
                let seq = stream.next(now_ms);
                Ok(Fresh { seq, message, event: event_names[index].as_deref() })
            })
            .collect::<Result<_, Fault>>()?;
        let inserted = insert(connection, &fresh, &streams).await;
        if inserted.as_ref().is_err_and(Fault::is_missing_partition) {
            connection.batch("ROLLBACK").await?;
            let days: BTreeSet<i32> = fresh.iter().map(|fresh| numbers::day(fresh.seq)).collect();
            partitions::make(connection, days.into_iter().collect()).await?;
        }
        inserted.map(|()| answers)
    }
}

/// A message to be inserted.
struct Fresh<'a> {
    seq: i64,
    message: &'a NewMessage,
    /// The name under which its event is listed.
    event: Option<&'a str>,
}

/// A message that was accepted, as far as it matters to those that may be its duplicates.
struct Seen {
    received_ms: i64,
    /// The call of this group that contains it; `None` if it was stored before.
    call: Option<usize>,
}

/// Returns whether each message of each call is new, and the indices of those that are, in the order of all.
fn judge(
    calls: &[&[NewMessage]],
    stored: &[Row],
    window_ms: i64,
) -> Result<(Vec<Vec<Accepted>>, Vec<usize>), Fault> {
    let mut seen: HashMap<(&str, &str), Seen> = HashMap::with_capacity(stored.len());
    for row in stored {
        let received_ms: i64 = get(row, 2)?;
        let entry =
            seen.entry((get(row, 0)?, get(row, 1)?)).or_insert(Seen { received_ms, call: None });
        entry.received_ms = entry.received_ms.max(received_ms);
    }
    let ids: Vec<_> = calls.iter().copied().flatten().map(|m| text(&m.message_id)).collect();
    let (mut answers, mut fresh) = (Vec::with_capacity(calls.len()), Vec::new());
    let mut index = 0;
    for (call, messages) in calls.iter().enumerate() {
        let mut accepted = Vec::with_capacity(messages.len());
        for message in *messages {
            let key = (&*message.source, &*ids[index]);
            let received_ms = to_ms(message.received_at);
            let is_duplicate = seen.get(&key).is_some_and(|before| {
                before.call == Some(call)
                    || before.received_ms >= received_ms.saturating_sub(window_ms)
            });
            if is_duplicate {
                accepted.push(Accepted::Duplicate);
            } else {
                seen.insert(key, Seen { received_ms, call: Some(call) });
                fresh.push(index);
                accepted.push(Accepted::New);
            }
            index += 1;
        }
        answers.push(accepted);
    }
    Ok((answers, fresh))
}

/// Adds the streams of new destinations.
async fn add_streams(connection: &Connection, destinations: &[&str]) -> Result<(), Fault> {
    for destination in destinations {
        // Another process may add the same, or take the number for another one: then it is tried again.
        let count = connection.query_one(COUNT_STREAMS, params![]).await?;
        if get::<i64>(&count, 0)? >= i64::from(STREAMS_MAX) {
            return Err(Fault::ManyDestinations);
        }
        connection.execute(ADD_STREAM, params![*destination]).await?;
    }
    Ok(())
}

/// Inserts messages and commits.
async fn insert(
    connection: &Connection,
    fresh: &[Fresh<'_>],
    streams: &HashMap<&str, Stream>,
) -> Result<(), Fault> {
    let of = |value: fn(&NewMessage) -> i64| -> Array<i64> {
        fresh.iter().map(|fresh| value(fresh.message)).collect()
    };
    let digest = |value: fn(&NewMessage) -> Option<i64>| -> Array<Option<i64>> {
        fresh.iter().map(|fresh| value(fresh.message)).collect()
    };
    let word = |value: fn(&NewMessage) -> &str| -> Array<&str> {
        fresh.iter().map(|fresh| value(fresh.message)).collect()
    };
    let seq: Array<i64> = fresh.iter().map(|fresh| fresh.seq).collect();
    let lane = of(|message| message.lane.0);
    let received_at = of(|message| to_ms(message.received_at));
    let payload_bytes: Array<i32> = fresh
        .iter()
        .map(|fresh| i32::try_from(fresh.message.payload.len()).unwrap_or(i32::MAX))
        .collect();
    let class: Array<i16> = fresh
        .iter()
        .map(|fresh| i16::try_from(fresh.message.class.code()).unwrap_or(i16::MAX))
        .collect();
    let source = word(|message| &message.source);
    let destination = word(|message| &message.destination);
    let message_id: Array<_> = fresh.iter().map(|fresh| text(&fresh.message.message_id)).collect();
    let event: Array<Option<&str>> = fresh.iter().map(|fresh| fresh.event).collect();
    let warnings: Array<Option<String>> =
        fresh.iter().map(|fresh| to_json(&fresh.message.warnings)).collect();
    let payload: Array<&[u8]> = fresh.iter().map(|fresh| &fresh.message.payload[..]).collect();
    let names: Array<&str> = streams.keys().copied().collect();
    let last: Array<i64> = streams.values().map(|stream| stream.last).collect();
    let mut tallies = Tallies::default();
    for Fresh { message, .. } in fresh {
        let counted = Counted::new(Stage::Received, &message.destination, &message.source);
        tallies.add(message.received_at, counted, 1);
    }
    let message_hash = of(|message| message.message_hash.0);
    let anonymous = digest(|message| message.anonymous.map(|anonymous| anonymous.0));
    let email = digest(|message| message.email.map(|email| email.0));
    let kind = word(|message| message.kind.as_str());
    let messages = params![
        seq,
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
    ];
    let payloads = params![seq, payload];
    let advance = params![names, last];
    let is_deletion: Array<bool> =
        fresh.iter().map(|fresh| fresh.message.kind == MessageType::Delete).collect();
    let pending =
        params![seq, lane, received_at, payload_bytes, class, source, destination, is_deletion];
    let slack = slack(fresh);
    let (days, slack_ms): (Array<i32>, Array<i64>) =
        (slack.keys().copied().collect(), slack.values().copied().collect());
    let slack = params![days, slack_ms];
    let note_slack = async {
        match days.0.is_empty() {
            true => Ok(0),
            false => connection.execute(NOTE_SLACK, slack).await,
        }
    };
    crate::crash::point("commit.before");
    // One round trip. After an error the server runs nothing more of the transaction, and COMMIT rolls back.
    let (inserted, with_payloads, made_pending, noted, advanced, counted, committed) = tokio::join!(
        biased;
        connection.execute(INSERT, messages),
        connection.execute(INSERT_PAYLOADS, payloads),
        connection.execute(INSERT_PENDING, pending),
        note_slack,
        connection.execute(ADVANCE_STREAMS, advance),
        tally::write(connection, tallies),
        connection.batch("COMMIT"),
    );
    inserted?;
    with_payloads?;
    made_pending?;
    noted?;
    advanced?;
    counted?;
    committed?;
    crate::crash::point("commit.after");
    Ok(())
}

/// By how much the times of messages differ from those of their numbers, by day, where that is more than usual.
fn slack(fresh: &[Fresh<'_>]) -> BTreeMap<i32, i64> {
    let mut slack: BTreeMap<i32, i64> = BTreeMap::new();
    for Fresh { seq, message, .. } in fresh {
        let ms = (to_ms(message.received_at) - numbers::given_at(*seq)).saturating_abs();
        if ms > SLACK_MS {
            let most = slack.entry(numbers::day(*seq)).or_default();
            *most = ms.max(*most);
        }
    }
    slack
}

/// Answers the calls of a group.
fn answer(group: Vec<AcceptOrder>, committed: Result<Vec<Vec<Accepted>>, Fault>, hints: &Hints) {
    if let Ok(accepted) = &committed {
        let messages = group.iter().flat_map(|order| &order.messages);
        let messages = messages.zip(accepted.iter().flatten());
        let destinations: BTreeSet<&str> = messages
            .filter(|(_, accepted)| **accepted == Accepted::New)
            .map(|(message, _)| message.destination.as_str())
            .collect();
        if !destinations.is_empty() {
            hints.has_arrived(destinations);
        }
    }
    let mut accepted = committed.map(Vec::into_iter);
    for AcceptOrder { reply, permits, admitted, .. } in group {
        let answer = match &mut accepted {
            Ok(accepted) => accepted.next().ok_or(Fault::Closed),
            Err(fault) => Err(fault.clone()),
        };
        // Release the permits before replying.
        drop((permits, admitted));
        // The caller may have gone away; what was written stays.
        let _ = reply.send(answer);
    }
}
