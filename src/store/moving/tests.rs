//! A moved queue holds what the source held, and behaves from then on as if it had stayed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::action::ActionKind;
use crate::queue::suite::*;
use crate::queue::*;
use crate::segment::{LaneKey, MessageType};
use crate::store::{postgres, sqlite};
use crate::telemetry::TraceContext;

/// Moves the queue of a folder, and stops after this many progress reports.
pub(in crate::store) async fn move_to(
    folder: &Path,
    schema: &str,
    reports: u32,
) -> Result<Moved, MoveError> {
    let stop = CancellationToken::new();
    let left = AtomicU32::new(reports);
    let progress = |rows: u64, total: u64| {
        assert!(rows <= total, "{rows} of {total}");
        if left.fetch_sub(1, Ordering::Relaxed) <= 1 {
            stop.cancel();
        }
    };
    let watch = Watch { progress: &progress, stop: &stop };
    let mut target = postgres::tests::move_target(schema).await;
    let moved = run(Source::open(folder).await?, &mut target, &watch).await;
    target.close().await;
    moved
}

const DESTINATIONS: [&str; 2] = [DESTINATION, "other"];
const HOUR_MS: i64 = 3_600_000;

/// Makes a random history. Its decisions depend only on the seed and on the store's replies, which are the same for two
/// stores with the same history.
struct History {
    random: fastrand::Rng,
    now_ms: i64,
    next: u32,
}

impl History {
    fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), now_ms: 0, next: 0 }
    }

    async fn go_on(&mut self, store: &dyn Store, steps: u32) {
        for _ in 0..steps {
            self.now_ms += self.random.i64(1..2 * HOUR_MS);
            self.record(store).await;
            match self.random.u32(0..20) {
                0..7 => self.accept(store).await,
                7 => self.hear(store).await,
                8..18 => self.deliver(store).await,
                18 if self.random.bool() => self.revive(store).await,
                18 => self.replay(store).await,
                _ => while self.random.bool() && store.erase(at(50)).await.unwrap() > 0 {},
            }
        }
    }

    /// Records what a person did, now and then.
    async fn record(&mut self, store: &dyn Store) {
        if !self.next.is_multiple_of(5) {
            return;
        }
        let entry = AuditEntry {
            at: at(self.now_ms),
            role: "admin".into(),
            session: format!("s{}", self.next),
            process: "a\0".into(),
            action: AuditAction::ALL[self.next as usize % 3],
            arguments: "{}".into(),
            result: "done".into(),
        };
        store.audit(&entry).await.unwrap();
    }

    async fn accept(&mut self, store: &dyn Store) {
        let messages = (0..self.random.u32(1..6)).map(|_| self.message()).collect();
        store.accept(messages).await.unwrap();
    }

    /// Loops reports something.
    async fn hear(&mut self, store: &dyn Store) {
        let random = &mut self.random;
        self.next += 1;
        let kind = OriginKind::ALL[random.usize(0..4)];
        let record = FeedbackRecord {
            destination: DESTINATIONS[random.usize(0..2)].into(),
            webhook_id: format!("msg_{}", self.next),
            received_at: at(self.now_ms),
            at: at(self.now_ms - random.i64(0..2) * 1_000),
            event: ["email.opened", "a\0b", "contact.deleted", "email.unsubscribed"]
                [random.usize(0..4)]
            .into(),
            user: random.bool().then(|| user(&format!("u{}", random.u32(0..4)))),
            email: random.bool().then(|| user("an address")),
            contact_id: random.bool().then(|| "c1".into()),
            origin: random.bool().then(|| Origin { kind, id: "o1".into(), name: Some("N".into()) }),
            email_id: random.bool().then(|| "m1".into()),
        };
        let forward = random.bool().then(|| SignedWebhook {
            timestamp: "1".into(),
            signature: "v1,a".into(),
            body: bytes::Bytes::from_static(b"{}"),
        });
        store.record(NewFeedback { record, forward }).await.unwrap();
        if self.random.bool() {
            store.take_forwards(DESTINATION, at(self.now_ms), 1).await.unwrap();
        }
    }

    fn message(&mut self) -> NewMessage {
        let random = &mut self.random;
        self.next += 1;
        let id = match random.u32(0..6) {
            0 => format!("m{}", random.u32(0..self.next)),
            _ => format!("m{}\0", self.next),
        };
        let kind = [MessageType::Track, MessageType::Identify, MessageType::Delete];
        let kind = if random.u32(0..8) == 0 { kind[2] } else { kind[random.usize(0..2)] };
        let event = ["Tested", "Bought", "a\0b", "New"][random.usize(0..4)];
        // A clock may be wrong for a while.
        let skew_ms = if random.u32(0..10) == 0 { random.i64(-50..50) * HOUR_MS } else { 0 };
        NewMessage {
            source: ["web", "app"][random.usize(0..2)].into(),
            destination: DESTINATIONS[random.usize(0..2)].into(),
            kind,
            class: Class::from_code(random.i64(0..3)),
            lane: lane(&format!("u{}", random.u32(0..4))),
            anonymous: random.bool().then(|| user("someone")),
            email: random.bool().then(|| user("an address")),
            event: (kind == MessageType::Track).then(|| event.to_owned()),
            received_at: at(self.now_ms + skew_ms),
            warnings: if random.bool() { vec!["a \"field\"".into()] } else { Vec::new() },
            trace: TraceContext::new([self.next as u8; 16], [1; 8], 1)
                .filter(|_| self.next.is_multiple_of(2)),
            ..message(&id)
        }
    }

    /// Takes a step with the first pending messages of a destination.
    async fn deliver(&mut self, store: &dyn Store) {
        let destination = DESTINATIONS[self.random.usize(0..2)];
        let lease = LeaseRequest { destination: destination.into(), ..ask("a", at(self.now_ms)) };
        let lease = store.lease(lease).await.unwrap().unwrap();
        let heads = heads_of(store, destination).await;
        let Some(head) = heads.get(self.random.usize(0..3)) else { return };
        let job = store.open(head.seq).await.unwrap().unwrap();
        if self.random.u32(0..15) == 0 {
            let broken = BrokenMessage { seq: head.seq, now: at(self.now_ms), failure: failure() };
            store.set_aside(&lease, broken).await.unwrap();
            return;
        }
        if job.is_planned {
            let request = &job.requests[self.random.usize(0..job.requests.len())];
            self.settle(store, &lease, request).await;
            return;
        }
        let mut merge = NewMerge {
            plans: vec![(head.seq, self.plan())],
            merged: Vec::new(),
            claims: Vec::new(),
            is_shadow: false,
            cap: None,
        };
        if self.random.u32(0..4) == 0 {
            let (key, email) = (user(&format!("u{}", self.random.u32(0..9))), None);
            let per_day = self.random.u32(0..3);
            let creations = vec![Creation { seq: head.seq, contact: KnownContact { key, email } }];
            merge.cap = Some(ContactCap { per_day, creations });
            store.release_contacts(destination, 1, at(self.now_ms)).await.unwrap();
        }
        let behind = heads.iter().filter(|other| other.lane == head.lane && other.seq > head.seq);
        if let Some(neighbour) = behind.min_by_key(|other| other.seq)
            && !store.open(neighbour.seq).await.unwrap().unwrap().is_planned
        {
            merge.plans.push((neighbour.seq, self.plan()));
            let first = |index: usize| {
                let deliveries = &merge.plans[index].1.deliveries;
                deliveries.iter().position(|delivery| delivery.outcome.request().is_some())
            };
            if let (Some(one), Some(other)) = (first(0), first(1)) {
                let carries = vec![(0, one), (1, other)];
                // No two events are merged.
                if let NewOutcome::Request(upsert) = &mut merge.plans[0].1.deliveries[one].outcome {
                    upsert.idempotency_key = None;
                }
                self.next += 1;
                merge.merged.push(NewMergedRequest { request: request(self.next), carries });
            }
        }
        store.freeze(&lease, merge).await.unwrap();
    }

    fn plan(&mut self) -> NewPlan {
        let now = at(self.now_ms);
        let mut deliveries = Vec::new();
        for name in ["one", "two", "three"] {
            self.next += 1;
            let outcome = match self.random.u32(0..6) {
                0 => Err(Failure { detail: "a\0b".into(), ..failure() }),
                1..4 => Ok(NewRequest { expires_at: Some(now), ..request(self.next) }),
                _ => continue,
            };
            let action =
                if self.random.bool() { ActionKind::DeleteContact } else { ActionKind::SendEvent };
            let warnings = if self.random.bool() { vec!["left out".into()] } else { Vec::new() };
            deliveries.push(NewDelivery {
                action: Some(action),
                warnings,
                ..delivery(name, outcome)
            });
        }
        NewPlan { now, ..plan(deliveries) }
    }

    async fn settle(&mut self, store: &dyn Store, lease: &Lease, request: &FrozenRequest) {
        let consequence = match self.random.u32(0..8) {
            0 => Consequence::Retry(at(self.now_ms + 1_000)),
            1 => Consequence::Failed(failure()),
            2 if request.is_merged => Consequence::TakenApart,
            3 if request.is_merged => Consequence::EventDelivered,
            4 => HOLD,
            _ => Consequence::Delivered,
        };
        let mut settlement = settlement(request, request.attempts + 1, consequence);
        if settlement.consequence == Consequence::Delivered {
            let person = format!("u{}", self.random.u32(0..4));
            settlement.contact = Some(ContactChange::Learn(Learned {
                may_create: true,
                address: None,
                request: request.id,
                key: user(&person),
                email: self.random.bool().then(|| user("an address")),
                is_own_email: true,
                lane: lane("u0"),
                started_at: at(self.now_ms),
                properties: Vec::new(),
                opt_in: None,
            }));
        }
        let (lane, until) = (lane(&format!("u{}", self.random.u32(0..4))), self.now_ms + HOUR_MS);
        settlement.awaiting = match settlement.consequence {
            Consequence::Failed(_) => Some(Awaiting::Begins { lane, until: at(until * 100) }),
            Consequence::Delivered => Some(Awaiting::Ends { lane }),
            _ => None,
        };
        settlement.now = at(self.now_ms);
        if let Some(attempt) = &mut settlement.attempt {
            attempt.started_at = at(self.now_ms);
            attempt.excerpt = "an answer\0".into();
        }
        store.settle(lease, settlement).await.unwrap();
    }

    async fn revive(&mut self, store: &dyn Store) {
        while !store.revive(at(self.now_ms)).await.unwrap().is_empty() {}
    }

    async fn replay(&mut self, store: &dyn Store) {
        let states = [ReplayState::Failed, ReplayState::All, ReplayState::Unmatched];
        let filter = Filter {
            subscription: self.random.bool().then(|| "one".to_owned()),
            destination: Some(DESTINATIONS[self.random.usize(0..2)].to_owned()),
            ..Filter::default()
        };
        let selection = meeting(filter, states[self.random.usize(0..3)]);
        let mut ask = ReplayAsk {
            selection,
            position: None,
            is_dry_run: false,
            now: at(self.now_ms),
            choice: None,
        };
        while let Some(next) = store.replay(&ask).await.unwrap().next {
            ask.position = Some(next);
        }
    }
}

async fn heads_of(store: &dyn Store, destination: &str) -> Vec<Head> {
    let ask = [PendingAsk { after: Seq(0), limit: 1_000 }; 3];
    let mut heads = store.pending(destination, ask).await.unwrap().concat();
    heads.sort_by_key(|head| head.seq);
    heads
}

/// The contents of a store, with request numbers replaced by their rank, and message numbers by their rank within the
/// destination.
async fn contents(store: &dyn Store) -> Vec<String> {
    let mut records = Vec::new();
    let mut before = None;
    loop {
        let page = store.list(&Filter::default(), before, 7).await.unwrap();
        records.extend(page.messages);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let requests = |record: &MessageRecord| {
        let requests = record.deliveries.iter().filter_map(|delivery| delivery.request.as_ref());
        requests.map(|request| request.id.0).collect::<Vec<_>>()
    };
    let mut ids: BTreeSet<i64> = records.iter().flat_map(requests).collect();
    let mut lines = Vec::new();
    for destination in DESTINATIONS {
        let mut jobs = Vec::new();
        for head in heads_of(store, destination).await {
            let job = store.open(head.seq).await.unwrap().unwrap();
            ids.extend(job.requests.iter().map(|request| request.id.0));
            let mut traces = Vec::new();
            for request in &job.requests {
                traces.push(store.traces(request.id).await.unwrap());
            }
            jobs.push((head, job, traces));
        }
        let rank = |id: RequestId| RequestId(ids.range(..id.0).count() as i64);
        for (at, record) in records.iter().filter(|r| r.destination == destination).enumerate() {
            let mut record = record.clone();
            record.seq = Seq(at as i64);
            for delivery in &mut record.deliveries {
                if let Some(request) = &mut delivery.request {
                    request.id = rank(request.id);
                }
            }
            lines.push(stored(&record));
        }
        for (head, mut job, traces) in jobs {
            for request in &mut job.requests {
                request.id = rank(request.id);
            }
            job.replay.settled.sort();
            lines.push(stored(&(head.lane, head.class, head.next_attempt_at, job, traces)));
        }
    }
    for (name, filter) in filters() {
        let page = store.list(&filter, None, 1_000).await.unwrap();
        let ids: BTreeSet<_> =
            page.messages.iter().map(|m| stored(&(&m.destination, &m.message_id))).collect();
        lines.push(format!("{name}: {ids:?}"));
    }
    let failures = store.failures(&Filter::default()).await.unwrap();
    let groups = failures.groups.into_iter().map(|group| {
        let group = FailureGroup { example: String::new(), example_seq: Seq(0), ..group };
        stored(&group)
    });
    lines.extend(groups.collect::<BTreeSet<_>>());
    let far = Duration::from_secs(400 * 86_400);
    for step in TallyStep::ALL {
        let tallies = store.tallies(step, at(0) - far, at(0) + far).await.unwrap();
        lines.extend(tallies.iter().map(stored).collect::<BTreeSet<_>>());
    }
    for destination in DESTINATIONS {
        let events = store.by_destination(destination, 1_000).await.unwrap();
        lines.extend(events.iter().map(stored));
    }
    let keys = ["u0", "u1", "u2", "u3"].map(user);
    for destination in DESTINATIONS {
        let mut contacts = store.contacts(destination, &keys).await.unwrap();
        contacts.sort_by_key(|contact| contact.key);
        lines.extend(contacts.iter().map(stored));
    }
    let known = keys.map(|key| KnownContact { key, email: None });
    for destination in DESTINATIONS {
        let unknown = store.unknown_contacts(destination, &known).await.unwrap();
        lines.push(format!("unknown: {unknown:?}"));
        let held = store.held_lanes(destination).await.unwrap();
        let lanes: Vec<LaneKey> = held.into_iter().map(|(_, lane)| lane).collect();
        lines.push(format!("held: {lanes:?}"));
        for day in 0..4 {
            let now = at(day * 24 * HOUR_MS);
            let ask = HoldsAsk { now, per_day: Some(1), limit: 100 };
            lines.push(stored(&store.holds(destination, ask).await.unwrap()));
        }
    }
    for day in 0..20 {
        let days = store.new_contacts(at(day * 24 * HOUR_MS)).await.unwrap();
        lines.extend(days.iter().map(stored).collect::<BTreeSet<_>>());
    }
    let persons = [user("u0"), user("an address")];
    for destination in DESTINATIONS {
        let opt_outs = store.opt_outs(destination, &persons).await.unwrap();
        lines.extend(opt_outs.iter().map(stored).collect::<BTreeSet<_>>());
    }
    lines.extend(store.by_person(&persons, 1_000).await.unwrap().iter().map(stored));
    let names = store.event_names(None).await.unwrap();
    lines.extend(names.iter().map(stored).collect::<BTreeSet<_>>());
    let audit = store.audit_list(None, 1_000).await.unwrap();
    assert!(!audit.is_empty());
    lines.extend(audit.iter().map(|record| stored(&record.entry)));
    lines
}

/// As PostgreSQL can hold it.
fn stored(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").replace("\\0", "\u{2400}")
}

fn filters() -> Vec<(String, Filter)> {
    let mut filters = Vec::new();
    for state in MessageState::ALL {
        filters.push((format!("{state:?}"), Filter { state: Some(state), ..Filter::default() }));
    }
    for person in ["u0", "u1", "someone", "an address"] {
        let persons = vec![user(person)];
        filters.push((person.to_owned(), Filter { persons, ..Filter::default() }));
    }
    for hours in [10, 50, 100] {
        let from = Some(at(hours * HOUR_MS));
        filters.push((format!("from {hours}"), Filter { from, ..Filter::default() }));
        filters.push((format!("to {hours}"), Filter { to: from, ..Filter::default() }));
    }
    filters.push(("event".into(), Filter { event: Some("Bought".into()), ..Filter::default() }));
    filters
}

fn assert_same(before: &[String], after: &[String], what: &str) {
    for (before, after) in before.iter().zip(after) {
        assert_eq!(before, after, "{what}");
    }
    assert_eq!(before.len(), after.len(), "{what}");
}

/// A queue whose move is interrupted again and again, and that then continues in PostgreSQL, ends up the same as a
/// queue that stays in SQLite.
#[tokio::test(flavor = "multi_thread")]
async fn a_moved_queue_goes_on_as_if_it_had_stayed() {
    for seed in 0..3 {
        let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = sqlite::tests::open_in(folder.path()).await.unwrap();
        let mut history = History::new(seed);
        history.go_on(&source, 100).await;
        let before = contents(&source).await;
        assert!(before.len() > 50);
        source.close().await;
        let file = "segment-loops.db";
        std::fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();

        let schema = postgres::tests::new_schema().await;
        let mut runs = 0;
        let moved = loop {
            match move_to(folder.path(), &schema, 1 + (seed as u32 + runs) % 4).await {
                Err(MoveError::Stopped) => runs += 1,
                moved => break moved.unwrap(),
            }
            assert!(postgres::tests::open_in(&schema).await.is_err());
            assert!(sqlite::tests::open_in(folder.path()).await.is_err());
        };
        assert!(runs > 1 && !moved.was_finished, "{runs}");
        assert!(sqlite::tests::open_in(folder.path()).await.is_err());
        assert!(move_to(folder.path(), &schema, 9).await.unwrap().was_finished);
        let target = postgres::tests::open_in(&schema).await.unwrap();
        assert_same(&before, &contents(&target).await, &format!("seed {seed}"));

        // From here on, both stores get the same calls.
        let stayed = sqlite::tests::open_in(copy.path()).await.unwrap();
        let (seed, next, now_ms) = (history.random.u64(..), history.next, history.now_ms);
        let mut ends = BTreeMap::new();
        for (name, store) in [("there", &target as &dyn Store), ("here", &stayed)] {
            let mut history = History { random: fastrand::Rng::with_seed(seed), now_ms, next };
            history.go_on(store, 60).await;
            while store.erase(at(50)).await.unwrap() > 0 {}
            history.revive(store).await;
            let mut end = contents(store).await;
            for destination in DESTINATIONS {
                let forwards = store.take_forwards(destination, at(history.now_ms), 1_000).await;
                end.extend(forwards.unwrap().iter().map(stored));
            }
            ends.insert(name, end);
        }
        assert_same(&ends["here"], &ends["there"], &format!("later, seed {seed}"));
        target.close().await;
        stayed.close().await;
    }
}
