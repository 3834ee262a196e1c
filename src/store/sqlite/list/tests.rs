//! Lists and groups match a plain model, whatever the filter and however they are read in pages.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use rusqlite::params;

use super::candidates::*;
use super::*;
use crate::queue::Class;
use crate::segment::{MessageType, PersonDigest};
use crate::store::sqlite::recent::Known;

fn empty() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("../schema.sql")).unwrap();
    connection
}

/// A moment this many seconds after the epoch.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A message as the model and the database know it.
#[derive(Debug, Clone)]
struct Message {
    /// The message was deleted, but the minute in which it was received was not.
    is_purged: bool,
    is_replayed: bool,
    is_done: bool,
    source: &'static str,
    destination: &'static str,
    event: Option<&'static str>,
    class: i64,
    lane: Option<i64>,
    anonymous: Option<i64>,
    email: Option<i64>,
    second: i64,
    deliveries: Vec<Delivered>,
    /// Also if deliveries of an earlier replay still count.
    is_unmatched: bool,
    unmatched: &'static str,
}

#[derive(Debug, Clone)]
struct Delivered {
    subscription: &'static str,
    is_superseded: bool,
    failed_for: Option<FailureReason>,
    detail: &'static str,
}

/// Messages with their sequence numbers.
struct World {
    connection: Connection,
    messages: Vec<(i64, Message)>,
    /// The last message whose persons the writer knows.
    known_through: i64,
}

impl Message {
    fn kind(&self) -> MessageType {
        if self.event.is_some() { MessageType::Track } else { MessageType::Identify }
    }

    fn counting(&self) -> impl Iterator<Item = &Delivered> {
        self.deliveries.iter().filter(|delivery| !delivery.is_superseded)
    }

    fn state(&self) -> MessageState {
        if !self.is_done {
            MessageState::Pending
        } else if self.counting().any(|delivery| delivery.failed_for.is_some()) {
            MessageState::Failed
        } else if self.counting().next().is_some() {
            MessageState::Delivered
        } else {
            MessageState::Unmatched
        }
    }

    fn unmatched(&self) -> Option<&'static str> {
        let is_unmatched = self.state() == MessageState::Unmatched
            || self.state() == MessageState::Delivered && self.is_unmatched;
        is_unmatched.then_some(self.unmatched)
    }

    fn meets(&self, filter: &Filter) -> bool {
        let persons = [self.lane, self.anonymous, self.email];
        let is_of = |person: &PersonDigest| persons.contains(&Some(person.0));
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
        let received_at = at(self.second);
        (filter.persons.is_empty() || filter.persons.iter().any(is_of))
            && filter.state.is_none_or(|state| state == self.state())
            && is(&filter.destination, self.destination)
            && is(&filter.source, self.source)
            && filter.kind.is_none_or(|kind| kind == self.kind())
            && (filter.event.is_none() || filter.event.as_deref() == self.event)
            && filter.from.is_none_or(|from| received_at >= from)
            && filter.to.is_none_or(|to| received_at < to)
            && (filter.reason.is_none() && filter.subscription.is_none()
                || self.counting().any(|delivery| delivery.meets(filter)))
    }
}

impl Delivered {
    fn meets(&self, filter: &Filter) -> bool {
        filter.subscription.as_deref().is_none_or(|name| name == self.subscription)
            && (filter.reason.is_none() || filter.reason == self.failed_for)
    }
}

impl World {
    /// Accepts the messages in order, replays some, and sorts all up to a number into `persons`.
    fn new(messages: Vec<Message>, sorted_through: i64) -> Self {
        let connection = empty();
        let mut last_seq = i64::try_from(messages.len()).unwrap();
        let mut world = World { connection, messages: Vec::new(), known_through: 0 };
        for (first_seq, message) in (1..).zip(messages) {
            world.note_minute(first_seq, message.second);
            if message.is_purged {
                continue;
            }
            let seq = if message.is_replayed {
                last_seq += 1;
                last_seq
            } else {
                first_seq
            };
            world.insert(seq, first_seq, &message, sorted_through);
            world.messages.push((seq, message));
        }
        world
            .connection
            .execute("UPDATE meta SET value = ?1 WHERE name = 'sorted_through'", [sorted_through])
            .unwrap();
        world.messages.sort_by_key(|(seq, _)| -seq);
        world
    }

    /// Deletes minutes as if they were past the retention of records.
    fn purge_minutes(&self, before: i64) {
        self.connection.execute("DELETE FROM minutes WHERE minute < ?1", [before]).unwrap();
    }

    fn note_minute(&self, seq: i64, second: i64) {
        self.connection
            .execute(
                "INSERT INTO minutes VALUES (?1, ?2, ?2) ON CONFLICT DO UPDATE SET
                 first_seq = MIN(first_seq, ?2), last_seq = MAX(last_seq, ?2)",
                [second.div_euclid(60), seq],
            )
            .unwrap();
    }

    fn event_id(&self, message: &Message) -> Option<i64> {
        let name = message.event?;
        let find = "SELECT id FROM event_names WHERE source = ?1 AND name = ?2";
        let insert = "INSERT OR IGNORE INTO event_names VALUES (NULL, ?1, ?2, 0, 0)";
        self.connection.execute(insert, [message.source, name]).unwrap();
        Some(self.connection.query_row(find, [message.source, name], |row| row.get(0)).unwrap())
    }

    fn insert(&self, seq: i64, first_seq: i64, message: &Message, sorted_through: i64) {
        let insert =
            "INSERT INTO messages (seq, state, is_failed, class, message_hash, lane, anonymous,
                email, received_at, event_id, kind, source, destination, message_id, payload_bytes,
                unmatched)
            VALUES (?1, ?2, ?3, ?4, ?1, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'm' || ?1, 0, ?13)";
        self.connection
            .execute(
                insert,
                params![
                    seq,
                    message.is_done,
                    message.state() == MessageState::Failed,
                    message.class,
                    message.lane,
                    message.anonymous,
                    message.email,
                    message.second * 1_000,
                    self.event_id(message),
                    message.kind().as_str(),
                    message.source,
                    message.destination,
                    message.unmatched(),
                ],
            )
            .unwrap();
        if seq <= sorted_through {
            let sort = "INSERT OR IGNORE INTO persons VALUES (?1, ?2)";
            for person in [message.lane, message.anonymous, message.email].into_iter().flatten() {
                self.connection.execute(sort, [person, seq]).unwrap();
            }
        }
        if message.is_replayed {
            let replayed = "INSERT INTO replays (seq, number, first_seq) VALUES (?1, 1, ?2)";
            self.connection.execute(replayed, [seq, first_seq]).unwrap();
        }
        for (position, delivery) in (0_i64..).zip(&message.deliveries) {
            let state = match (delivery.failed_for, message.is_done) {
                (Some(_), _) => "failed",
                (None, true) => "delivered",
                (None, false) => "pending",
            };
            let insert = "INSERT INTO deliveries (seq, position, is_superseded, state, ended_at,
                    subscription, action, reason, detail)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'sendEvent', ?7, ?8)";
            self.connection
                .execute(
                    insert,
                    params![
                        seq,
                        position,
                        delivery.is_superseded,
                        state,
                        seq * 10,
                        delivery.subscription,
                        delivery.failed_for.map(FailureReason::as_str),
                        delivery.failed_for.map(|_| delivery.detail),
                    ],
                )
                .unwrap();
        }
    }

    /// Resolves a filter with what the writer knows: all messages of the persons up to one, and one message that may
    /// belong to others.
    fn sought(&self, filter: &Filter) -> Sought {
        let is_known = |(seq, message): &&(i64, Message)| {
            let persons = [message.lane, message.anonymous, message.email];
            let is_of = |person: &PersonDigest| persons.contains(&Some(person.0));
            *seq <= self.known_through && filter.persons.iter().any(is_of)
        };
        let mut seqs: Vec<i64> =
            self.messages.iter().filter(is_known).map(|(seq, _)| *seq).collect();
        // This message may be someone else's, or known twice.
        let is_there = self.messages.iter().any(|(seq, _)| *seq == self.known_through);
        if !filter.persons.is_empty() && is_there {
            seqs.push(self.known_through);
        }
        Sought { filter: filter.clone(), known: Known { through: self.known_through, seqs } }
    }

    /// All pages of a list.
    fn listed(&self, filter: &Filter, limit: u32, examined_max: usize) -> Vec<i64> {
        let mut seqs = Vec::new();
        let mut before = None;
        loop {
            let sought = self.sought(filter);
            let page = list_bounded(&self.connection, &sought, before, limit, examined_max);
            let page = page.unwrap();
            assert!(page.messages.len() <= limit as usize);
            seqs.extend(page.messages.iter().map(|message| message.seq.0));
            let Some(next) = page.next else { return seqs };
            assert!(before.is_none_or(|before| next < before), "it goes on");
            assert!(self.messages.iter().any(|(seq, _)| *seq < next.0), "nothing follows {next:?}");
            before = Some(next);
        }
    }

    fn expected(&self, filter: &Filter) -> Vec<i64> {
        let meets = self.messages.iter().filter(|(_, message)| message.meets(filter));
        meets.map(|(seq, _)| *seq).collect()
    }

    fn expected_failures(&self, filter: &Filter) -> Causes {
        let mut causes = Causes::new();
        for (seq, message) in self.messages.iter().filter(|(_, message)| message.meets(filter)) {
            for delivery in message.counting().filter(|delivery| delivery.meets(filter)) {
                let Some(reason) = delivery.failed_for else { continue };
                let Delivered { subscription, detail, .. } = delivery;
                let cause = [message.destination, subscription, reason.as_str(), detail].join("/");
                let (count, _, oldest) = causes.entry(cause).or_insert((0, *seq, *seq));
                (*count, *oldest) = (*count + 1, *seq);
            }
        }
        causes
    }
}

/// Maps a cause to its number of failures, its newest and its oldest message.
type Causes = BTreeMap<String, (u64, i64, i64)>;

fn causes(found: &FailureGroups) -> Causes {
    let of = |group: &FailureGroup| {
        let FailureGroup { destination, subscription, reason, cause, .. } = group;
        let subscription = subscription.as_deref().unwrap_or_default();
        let (last, first) = (to_ms(group.last_at) / 10, to_ms(group.first_at) / 10);
        assert_eq!((&group.example, group.example_seq.0), (&format!("m{last}"), last));
        let cause = [destination, subscription, reason.as_str(), cause].join("/");
        (cause, (group.deliveries, last, first))
    };
    found.groups.iter().map(of).collect()
}

fn deliveries() -> impl Strategy<Value = Vec<Delivered>> {
    let reasons = prop::option::of(select(vec![FailureReason::Refused, FailureReason::Invalid]));
    let delivery = (select(vec!["s", "t"]), any::<bool>(), reasons, select(vec!["", "why", "how"]));
    let delivery = delivery.prop_map(|(subscription, is_superseded, failed_for, detail)| {
        Delivered { subscription, is_superseded, failed_for, detail }
    });
    prop::collection::vec(delivery, 0..4)
}

prop_compose! {
    fn messages()(
        (is_purged, is_replayed) in (prop::bool::weighted(0.2), prop::bool::weighted(0.3)),
        is_done in prop::bool::weighted(0.8),
        source in select(vec!["web", "app"]),
        destination in select(vec!["main", "other"]),
        event in prop::option::of(select(vec!["Signed Up", "Left"])),
        class in 0..3_i64,
        (lane, anonymous, email) in
            (prop::option::of(1..3_i64), prop::option::of(2..5_i64), prop::option::of(4..6_i64)),
        second in 0..300_i64,
        deliveries in deliveries(),
        (is_unmatched, unmatched) in (any::<bool>(), select(vec!["consent", "replay", "later"])),
    ) -> Message {
        Message {
            is_purged, is_replayed, is_done, source, destination, event, class, lane, anonymous, email,
            second, deliveries, is_unmatched, unmatched,
        }
    }
}

fn sometimes<T: Clone + std::fmt::Debug + 'static>(
    values: Vec<T>,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.15, select(values))
}

prop_compose! {
    fn filters()(
        persons in prop::collection::vec((1..6_i64).prop_map(PersonDigest), 0..3),
        has_persons in prop::bool::weighted(0.3),
        state in sometimes(MessageState::ALL.to_vec()),
        reason in sometimes(vec![FailureReason::Refused, FailureReason::Invalid]),
        destination in sometimes(vec!["main".to_owned(), "none".to_owned()]),
        source in sometimes(vec!["web".to_owned()]),
        kind in sometimes(vec![MessageType::Track, MessageType::Identify]),
        event in sometimes(vec!["Signed Up".to_owned(), "Unheard".to_owned()]),
        subscription in sometimes(vec!["s".to_owned(), "none".to_owned()]),
        from in prop::option::weighted(0.3, 0..300_i64),
        to in prop::option::weighted(0.3, 0..300_i64),
    ) -> Filter {
        Filter {
            persons: if has_persons { persons } else { Vec::new() },
            is_held: false,
            state, reason, destination, source, kind, event, subscription,
            from: from.map(at),
            to: to.map(at),
        }
    }
}

proptest! {
    #[test]
    fn a_list_has_each_message_that_meets_its_filter_once_newest_first(
        messages in prop::collection::vec(messages(), 0..40),
        // Only if the clock was never set back are messages in the order of their times.
        (is_in_order, minutes_purged) in (any::<bool>(), 0..6_i64),
        sorted_through in 0..60_i64,
        known_through in 0..60_i64,
        filter in filters(),
        limit in 1..8_u32,
        examined_max in 1..30_usize,
    ) {
        let mut messages = messages;
        if is_in_order {
            messages.sort_by_key(|message| message.second);
        }
        let mut world = World::new(messages, sorted_through);
        world.known_through = known_through;
        if is_in_order {
            world.purge_minutes(minutes_purged);
        }
        let expected = world.expected(&filter);
        prop_assert_eq!(&world.listed(&filter, limit, examined_max), &expected);
        prop_assert_eq!(&world.listed(&filter, 500, EXAMINED_MAX), &expected);

        let failures = failures_bounded(&world.connection, &world.sought(&filter), READ_MAX).unwrap();
        prop_assert!(failures.is_complete);
        prop_assert_eq!(causes(&failures), world.expected_failures(&filter));
    }
}

fn message(seq: i64) -> Message {
    Message {
        is_purged: false,
        is_replayed: false,
        is_done: true,
        source: "web",
        destination: "main",
        event: Some("Signed Up"),
        class: Class::Event.code(),
        lane: Some(1),
        anonymous: None,
        email: None,
        second: seq,
        deliveries: Vec::new(),
        is_unmatched: true,
        unmatched: "consent",
    }
}

fn failed(detail: &'static str) -> Vec<Delivered> {
    let failed_for = Some(FailureReason::Refused);
    vec![Delivered { subscription: "s", is_superseded: false, failed_for, detail }]
}

#[test]
fn a_page_stops_at_the_bound_and_says_where_to_continue() {
    let mut messages: Vec<Message> = (1..=100).map(message).collect();
    messages[9].source = "app";
    let world = World::new(messages, 0);
    let filter = Filter { source: Some("app".to_owned()), ..Filter::default() };
    let page = |before: Option<i64>, examined_max| {
        let before = before.map(Seq);
        let sought = world.sought(&filter);
        let page = list_bounded(&world.connection, &sought, before, 5, examined_max).unwrap();
        let seqs: Vec<i64> = page.messages.iter().map(|message| message.seq.0).collect();
        (seqs, page.next.map(|next| next.0))
    };
    assert_eq!(page(None, 90), (vec![], Some(11)));
    assert_eq!(page(None, 91), (vec![10], Some(10)));
    assert_eq!(page(Some(11), 9), (vec![10], Some(2)));
    // All were examined: nothing follows.
    assert_eq!(page(Some(11), 10), (vec![10], None));
    assert_eq!(page(Some(10), 90), (vec![], None));
}

#[test]
fn a_message_of_two_sought_persons_does_not_end_their_list() {
    let (lane, email) = (1, 4);
    let of_both = |seq| Message { lane: Some(lane), email: Some(email), ..message(seq) };
    let mut world = World::new((1..=5).map(of_both).collect(), 0);
    world.known_through = 5;
    let persons = vec![PersonDigest(lane), PersonDigest(email)];
    let filter = Filter { persons: persons.clone(), ..Filter::default() };
    let mut sought = world.sought(&filter);
    sought.known.seqs = persons.iter().flat_map(|_| 1..=5).collect();
    let page = list_bounded(&world.connection, &sought, None, 1, EXAMINED_MAX).unwrap();
    assert_eq!(page.next, Some(Seq(5)));
}

#[test]
fn a_message_is_found_by_its_time_when_its_minute_is_no_longer_known() {
    let mut messages: Vec<Message> = [1, 2, 100].into_iter().map(message).collect();
    messages[0].is_replayed = true;
    let world = World::new(messages, 0);
    for known_from in [1, 9] {
        world.purge_minutes(known_from);
        for (from, to, expected) in [
            (Some(at(0)), None, vec![4, 3, 2]),
            (None, Some(at(60)), vec![4, 2]),
            (Some(at(0)), Some(at(60)), vec![4, 2]),
            (Some(at(2)), Some(at(60)), vec![2]),
            (Some(at(60)), None, vec![3]),
            (Some(at(600)), None, vec![]),
        ] {
            let filter = Filter { from, to, ..Filter::default() };
            assert_eq!(world.listed(&filter, 5, EXAMINED_MAX), expected, "{filter:?}");
        }
    }
}

#[test]
fn a_message_that_cannot_be_read_does_not_hide_the_others() {
    let world = World::new((1..=5).map(message).collect(), 0);
    let later = "UPDATE messages SET kind = 'later' WHERE seq IN (3, 5)";
    world.connection.execute(later, []).unwrap();
    assert_eq!(world.listed(&Filter::default(), 1, EXAMINED_MAX), [4, 2, 1]);
}

#[test]
fn a_listed_message_has_its_deliveries_and_its_event() {
    let mut messages: Vec<Message> = (1..=3).map(message).collect();
    messages[1].deliveries = failed("why");
    messages[2].event = None;
    let world = World::new(messages, 2);
    let connection = &world.connection;
    connection
        .execute_batch(
            "INSERT INTO requests (id, state, destination, created_at, path)
                 VALUES (7, 'failed', 'main', 0, '/events/send');
             INSERT INTO attempts (request_id, number, started_at, duration_ms, status, outcome, excerpt)
                 VALUES (7, 2, 20, 5, 400, 'refused', 'no'), (7, 1, 10, 5, NULL, 'retry', '');
             UPDATE deliveries SET request_id = 7;
             UPDATE deliveries SET state = 'later' WHERE seq = 1;",
        )
        .unwrap();
    let page = list(connection, &world.sought(&Filter::default()), None, 10).unwrap();
    let events: Vec<_> = page.messages.iter().map(|message| message.event.as_deref()).collect();
    assert_eq!(events, [None, Some("Signed Up"), Some("Signed Up")]);
    let deliveries: Vec<usize> =
        page.messages.iter().map(|message| message.deliveries.len()).collect();
    assert_eq!(deliveries, [0, 1, 0]);
    let request = page.messages[1].deliveries[0].request.clone().unwrap();
    let attempts: Vec<u32> = request.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!((request.id.0, attempts), (7, vec![1, 2]));
}

#[test]
fn failures_are_grouped_by_cause_the_largest_first() {
    let mut messages: Vec<Message> = (1..=6).map(message).collect();
    let details = ["no list 1", "no list 22", "other", "no list 3", "", "other"];
    for (message, detail) in messages.iter_mut().zip(details) {
        message.deliveries = failed(detail);
    }
    messages[4].is_done = false;
    let world = World::new(messages, 0);
    let sought = world.sought(&Filter::default());
    let found = |read_max| failures_bounded(&world.connection, &sought, read_max).unwrap();
    let shown = |found: &FailureGroups| -> Vec<(String, u64, String)> {
        let of =
            |group: &FailureGroup| (group.cause.clone(), group.deliveries, group.example.clone());
        found.groups.iter().map(of).collect()
    };
    let all = found(READ_MAX);
    let expected = [("no list …", 3, "m4"), ("other", 2, "m6"), ("", 1, "m5")];
    assert_eq!(shown(&all), expected.map(|(cause, n, id)| (cause.into(), n, id.into())));
    assert_eq!((all.read, all.is_complete), (6, true));
    // The latest, if not all are read.
    let some = found(5);
    assert_eq!(shown(&some)[0].1, 2);
    assert_eq!((some.read, some.is_complete), (5, false));
    assert!(found(6).is_complete);
}

#[test]
fn tallies_are_of_one_step_and_of_a_time_without_its_end() {
    let connection = empty();
    connection
        .execute_batch(
            "INSERT INTO tallies VALUES
                 (60000, 0, 'received', 'main', 'web', '', '', 1),
                 (60000, 60000, 'delivery_failed', 'main', 'web', 's', 'refused', 2),
                 (60000, 60000, 'of a later release', 'main', 'web', '', '', 9),
                 (60000, 120000, 'received', 'main', 'web', '', '', 3),
                 (3600000, 0, 'received', 'main', 'web', '', '', 6);",
        )
        .unwrap();
    let minutes = tallies(&connection, TallyStep::Minute, at(0), at(120)).unwrap();
    let counts: Vec<_> = minutes.iter().map(|tally| (tally.stage, tally.count)).collect();
    assert_eq!(counts, [(Stage::Received, 1), (Stage::DeliveryFailed, 2)]);
    assert_eq!((&minutes[0].subscription, &minutes[0].reason), (&None, &None));
    assert_eq!(minutes[1].subscription.as_deref(), Some("s"));
    assert_eq!(minutes[1].reason.as_deref(), Some("refused"));
    let hours = tallies(&connection, TallyStep::Hour, at(0), at(1)).unwrap();
    assert_eq!(hours[0].count, 6);
}

#[test]
fn event_names_come_with_the_one_seen_last_first() {
    let connection = empty();
    connection
        .execute_batch(
            "INSERT INTO event_names (source, name, first_seen_at, last_seen_at) VALUES
                 ('web', 'Left', 0, 5000), ('web', 'Signed Up', 0, 9000), ('app', 'Left', 0, 7000);",
        )
        .unwrap();
    let names = |source| {
        let found = event_names(&connection, source).unwrap();
        found.into_iter().map(|name| format!("{} {}", name.source, name.name)).collect::<Vec<_>>()
    };
    assert_eq!(names(None), ["web Signed Up", "app Left", "web Left"]);
    assert_eq!(names(Some("web")), ["web Signed Up", "web Left"]);
    assert!(names(Some("none")).is_empty());
}

#[test]
fn every_statement_uses_its_index() {
    let connection = empty();
    let deliveries = "d USING INDEX deliveries_seq (seq=?)";
    let cases: [(&str, &[&str]); 21] = [
        (NEWEST, &["messages USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]),
        (OF_PERSON, &["persons USING PRIMARY KEY (person=? AND seq>? AND seq<?)"]),
        (OF_PERSONS_UNSORTED, &["messages USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]),
        (OF_EVENT, &["messages_event (event_id=? AND rowid>? AND rowid<?)"]),
        (ENDED_WELL, &["messages_ended_well (is_failed=? AND rowid>? AND rowid<?)"]),
        (FAILED, &["messages_failed (is_failed=? AND rowid>? AND rowid<?)"]),
        (WITH_FAILURE, &["deliveries_failed (seq>? AND seq<?)"]),
        (FAILED_FOR, &["deliveries_reason (reason=? AND seq>? AND seq<?)"]),
        (OF_SUBSCRIPTION, &["deliveries_subscription (subscription=? AND seq>? AND seq<?)"]),
        (UNMATCHED_FOR, &["messages_unmatched (unmatched=? AND rowid>? AND rowid<?)"]),
        (HELD, &["held USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]),
        (HELD_OF, &["held_destination (destination=? AND seq>? AND seq<?)"]),
        (PENDING_OF, &["messages_pending (destination=? AND class=? AND seq>? AND seq<?)"]),
        (REPLAYED, &["replays USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]),
        (UNMATCHED_REASONS, &["messages_unmatched (unmatched>?)"]),
        (EVENT_IDS, &["n USING COVERING INDEX", "(source=? AND name=?)", "(source>?)"]),
        (RANGE, &["minutes USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]),
        (CHECKED, &["m USING INTEGER PRIMARY KEY (rowid=?)", deliveries]),
        (FAILURES, &["m USING INTEGER PRIMARY KEY (rowid=?)", "(seq=?)"]),
        (TALLIES, &["tallies USING PRIMARY KEY (step=? AND at>? AND at<?)"]),
        (EVENT_NAMES_OF_SOURCE, &["event_names USING INDEX", "(source=?)"]),
    ];
    for (text, uses) in cases {
        let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
        let nulls = vec![Value::Null; explain.parameter_count()];
        let plan = explain.query_map(params_from_iter(nulls), |row| row.get(3)).unwrap();
        let plan: Vec<String> = plan.collect::<Result<_, _>>().unwrap();
        for index in uses {
            assert!(plan.iter().any(|step| step.contains(index)), "{text}\n{index}\n{plan:#?}");
        }
        // Parameters and what was found already may be scanned. In the order of the index, so that a limit
        // bounds what is read.
        let few = |step: &str| {
            ["VIRTUAL TABLE", "SCAN found", "CONSTANT ROW"].iter().any(|few| step.contains(few))
        };
        let scans = |step: &&String| {
            step.starts_with("SCAN") && !few(step)
                || step.contains("TEMP B-TREE") && text.contains("LIMIT")
        };
        assert_eq!(plan.iter().find(scans), None, "{text}\n{plan:#?}");
    }
}
