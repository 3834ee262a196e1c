//! How an engine handles its lease, its lanes and its tasks, over a queue in memory.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{sleep, timeout};

use super::*;
use crate::clock::WatchedClock;
use crate::clock::tests::PausedClock;
use crate::delivery::backoff::RetryOptions;
use crate::delivery::board::Board;
use crate::delivery::lanes::tests::head;
use crate::delivery::room::{LARGE_MAX, Room};
use crate::destination::DestinationOptions;
use crate::large::{LARGE_BYTES, Turn, Turns};
use crate::loops::{ClientOptions, RateHeaders};
use crate::queue::*;
use crate::secret::Secret;
use crate::segment::{Digests, LaneKey, PersonDigest};
use crate::telemetry::{TraceContext, Traces};

/// A queue in memory with messages 1 to 3 of one lane, none of which makes a request. Orders the stop when message 3 is
/// planned.
struct Queue {
    /// The tokens that `lease` returns in turn; `None` while another process holds the lease. The last one stays.
    leases: Mutex<VecDeque<Option<i64>>>,
    /// The holders of the lease that are read in turn, and when the lease ends in seconds. The last one stays.
    holders: Mutex<VecDeque<(&'static str, i64)>>,
    /// Whether there are more urgent messages of other lanes than the rate allows.
    is_busy: bool,
    /// Leases below this token are fenced.
    fenced_below: i64,
    /// The message that makes every step panic that opens it.
    panics: Option<Seq>,
    /// How long the step that orders the stop lasts. The deadline is twice as far away.
    last_step: Duration,
    /// Whether pending messages are never read, and the second renewal orders the stop.
    is_slow: bool,
    /// Whether there are instead 40 large messages and then 40 small ones, each in its own lane. No large message is
    /// decoded before the small ones are frozen, and freezing one takes a second. The last message orders the stop.
    is_large: bool,
    /// The turn that keeps large messages from being decoded.
    turn: Mutex<Option<Turn>>,
    /// The calls of the engine: the method, the message, the token of the lease.
    log: Mutex<Vec<(&'static str, i64, i64)>>,
    arrivals: watch::Sender<u64>,
    stop: Stop,
}

impl Queue {
    fn new(leases: impl Into<VecDeque<Option<i64>>>) -> Self {
        Self {
            leases: Mutex::new(leases.into()),
            holders: Mutex::default(),
            is_busy: false,
            fenced_below: 0,
            panics: None,
            last_step: Duration::ZERO,
            is_slow: false,
            is_large: false,
            turn: Mutex::default(),
            log: Mutex::default(),
            arrivals: watch::channel(0).0,
            stop: Stop::default(),
        }
    }

    fn note(&self, method: &'static str, seq: Seq, token: i64) {
        let mut log = self.log.lock().unwrap();
        log.push((method, seq.0, token));
        // An engine that makes no progress fails the test instead of running forever.
        if log.len() > 10_000 {
            self.stop.by(Instant::now());
        }
    }

    /// Returns the messages with which a method was called, and the tokens.
    fn noted(&self, method: &str) -> Vec<(i64, i64)> {
        let log = self.log.lock().unwrap();
        let of_method = log.iter().filter(|(noted, ..)| *noted == method);
        of_method.map(|(_, seq, token)| (*seq, *token)).collect()
    }

    /// Runs an engine over the queue until it stops.
    async fn run(self) -> Arc<Self> {
        self.run_by(PausedClock::shared()).await
    }

    async fn run_by(self, clock: SharedClock) -> Arc<Self> {
        let queue = Arc::new(self);
        queue.engine(clock).run(queue.stop.clone()).await;
        queue
    }

    /// An engine over the queue.
    fn engine(self: &Arc<Self>, clock: SharedClock) -> Engine {
        let subscriptions = Destination::default_subscriptions();
        let destination = Destination::compile(&subscriptions, DestinationOptions::default());
        let destination = watch::Sender::new(Arc::new(destination.unwrap()));
        let client = ClientOptions {
            // Nobody listens there. The check of the key gets no response, which stops nothing.
            base_url: "http://127.0.0.1:9".to_owned(),
            api_key: Secret::new("key"),
            rate: Some(if self.is_large { 100 } else { 1 }),
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        };
        let client = Client::new(&client, clock.clone()).unwrap();
        let turns = Turns::default();
        if self.is_large {
            *self.turn.lock().unwrap() = turns.block(usize::MAX);
        }
        let second = Duration::from_secs(1);
        let options = EngineOptions {
            holder: "test".to_owned(),
            lease_ttl: Duration::from_secs(10),
            requests_max: 100,
            retry: RetryOptions { min: second, max: second, window: 60 * second },
            grace: second,
            room: Room::new(turns),
            digests: Digests::new(&[0; 32]),
            board: Board::default(),
            traces: Traces::default(),
        };
        let (name, queue) = ("default".to_owned(), Arc::clone(self));
        Engine::new(name, destination, client, queue, clock, options)
    }
}

#[async_trait]
impl Work for Queue {
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable> {
        let mut leases = self.leases.lock().unwrap();
        if self.is_slow && leases.len() == 1 {
            self.stop.by(Instant::now());
        }
        let token = match leases.len() {
            1 => leases[0],
            _ => leases.pop_front().unwrap(),
        };
        let LeaseRequest { destination, holder, .. } = ask;
        Ok(token.map(|token| Lease { destination, holder, token }))
    }

    async fn lease_holder(&self, _: &str) -> Result<Option<LeaseHolder>, Unavailable> {
        let mut holders = self.holders.lock().unwrap();
        let holder = match holders.len() {
            0 | 1 => holders.front().copied(),
            _ => holders.pop_front(),
        };
        Ok(holder.map(|(holder, until)| LeaseHolder {
            holder: holder.to_owned(),
            since: Timestamp::UNIX_EPOCH,
            until: Timestamp::from_second(until).unwrap(),
        }))
    }

    async fn release(&self, lease: &Lease) -> Result<(), WorkError> {
        self.note("release", Seq(0), lease.token);
        Ok(())
    }

    async fn pending(
        &self,
        _: &str,
        ask: [PendingAsk; Class::COUNT],
    ) -> Result<[Vec<Head>; Class::COUNT], Unavailable> {
        if self.is_slow {
            sleep(Duration::from_secs(3_600)).await;
        }
        let after = |class: Class| ask[class.index()].after.0;
        if self.is_large {
            let messages = after(Class::Event) + 1..=80;
            return Ok([messages.map(|seq| head(seq, seq)).collect(), vec![], vec![]]);
        }
        let bulk =
            (after(Class::Bulk) + 1..=3).map(|seq| Head { class: Class::Bulk, ..head(seq, 0) });
        let urgent = after(Class::Event).max(3) + 1;
        let urgent =
            (urgent..urgent + if self.is_busy { 200 } else { 0 }).map(|seq| head(seq, seq));
        Ok([urgent.collect(), vec![], bulk.collect()])
    }

    async fn of_lane(&self, _: &str, _: &LaneAsk) -> Result<LanePart, Unavailable> {
        Ok(LanePart { heads: vec![], through: None })
    }

    async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError> {
        self.note("open", seq, 0);
        assert_ne!(Some(seq), self.panics, "a panic for the test");
        if seq > Seq(3) && !self.is_large {
            sleep(Duration::from_millis(100)).await;
            return Ok(None);
        }
        let length = if self.is_large && seq <= Seq(40) { LARGE_BYTES } else { 0 };
        let payload = format!(
            r#"{{"type":"identify","userId":"u","messageId":"m{}","traits":{{"n":"{}"}}}}"#,
            seq.0,
            "n".repeat(length)
        );
        Ok(Some(Job {
            source: "web".to_owned(),
            message_id: format!("m{}", seq.0),
            received_at: Timestamp::UNIX_EPOCH,
            payload: payload.into(),
            is_planned: false,
            replay: Replay::default(),
            requests: vec![],
            restored_from: None,
        }))
    }

    async fn subscriptions(&self, _: RequestId) -> Result<Vec<String>, Unavailable> {
        Ok(vec![])
    }

    async fn parts(&self, _: RequestId) -> Result<Vec<CarriedPart>, Unavailable> {
        Ok(vec![])
    }

    async fn traces(&self, _: RequestId) -> Result<Vec<Option<TraceContext>>, Unavailable> {
        Ok(vec![])
    }

    async fn contacts(&self, _: &str, _: &[PersonDigest]) -> Result<Vec<Contact>, Unavailable> {
        Ok(vec![])
    }

    async fn unknown_contacts(
        &self,
        _: &str,
        _: &[KnownContact],
    ) -> Result<Vec<KnownContact>, Unavailable> {
        Ok(vec![])
    }

    async fn make_known(
        &self,
        _: &str,
        _: &[KnownContact],
        _: Timestamp,
    ) -> Result<u64, Unavailable> {
        Ok(0)
    }

    async fn opt_outs(&self, _: &str, _: &[PersonDigest]) -> Result<Vec<OptOut>, Unavailable> {
        Ok(vec![])
    }

    async fn deleted_at(
        &self,
        _: &str,
        _: &[PersonDigest],
        _: Timestamp,
    ) -> Result<Option<Timestamp>, Unavailable> {
        Ok(None)
    }

    async fn freeze(&self, lease: &Lease, merge: NewMerge) -> Result<Frozen, WorkError> {
        if lease.token < self.fenced_below {
            return Err(WorkError::Fenced);
        }
        for (seq, _) in merge.plans {
            self.note("freeze", seq, lease.token);
            if self.is_large {
                if seq <= Seq(40) {
                    sleep(Duration::from_secs(1)).await;
                }
                self.note("frozen", seq, lease.token);
                match self.noted("frozen").len() {
                    40 => *self.turn.lock().unwrap() = None,
                    80 => self.stop.by(Instant::now()),
                    _ => {}
                }
            } else if seq == Seq(3) {
                self.stop.by(Instant::now() + 2 * self.last_step);
                sleep(self.last_step).await;
            }
        }
        Ok(Frozen { requests: vec![], unmatched: None, hold: None })
    }

    async fn settle(&self, _: &Lease, _: Settlement) -> Result<Settled, WorkError> {
        Err(WorkError::Fenced)
    }

    async fn set_aside(
        &self,
        lease: &Lease,
        broken: BrokenMessage,
    ) -> Result<Option<String>, WorkError> {
        assert_eq!(broken.failure.reason, FailureReason::Unreadable);
        assert!(broken.failure.detail.contains("5 times"), "{}", broken.failure.detail);
        self.note("set_aside", broken.seq, lease.token);
        Ok(Some("m".to_owned()))
    }

    async fn held_lanes(&self, _: &str) -> Result<Vec<(Seq, LaneKey)>, Unavailable> {
        Ok(vec![])
    }

    async fn holds(&self, _: &str, _: HoldsAsk) -> Result<HoldsAnswer, Unavailable> {
        Ok(HoldsAnswer::default())
    }

    async fn catalogue(
        &self,
        _: &str,
        _: Option<Timestamp>,
    ) -> Result<Option<StoredCatalogue>, Unavailable> {
        Ok(None)
    }

    async fn keep_catalogue(
        &self,
        _: &Lease,
        _: &StoredCatalogue,
        _: Option<&AuditEntry>,
    ) -> Result<(), WorkError> {
        Ok(())
    }

    async fn destinations(&self) -> Result<Vec<String>, Unavailable> {
        Ok(vec![])
    }

    async fn depth(&self, _: &str) -> Result<Depth, Unavailable> {
        Ok(Depth::default())
    }

    fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_steps_panic_is_set_aside_and_costs_no_other() {
    let began = Instant::now();
    let queue = Queue { is_busy: true, panics: Some(Seq(2)), ..Queue::new([Some(1)]) }.run().await;
    assert_eq!(queue.noted("set_aside"), [(2, 1)]);
    assert_eq!(queue.noted("freeze"), [(1, 1), (3, 1)], "its neighbours go out");
    let opened = queue.noted("open").into_iter().filter(|(seq, _)| *seq == 2).count();
    // It is opened once more as the neighbour of message 1.
    assert!((5..=6).contains(&opened), "{opened}");
    assert!(began.elapsed() >= Duration::from_secs(1 + 2 + 4 + 8), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_changed_hands_while_the_last_requests_finish_is_given_back() {
    let last_step = Duration::from_secs(5);
    // Another process took the lease and gave it back before it was renewed.
    let queue = Queue { last_step, ..Queue::new([Some(1), Some(1), Some(3)]) }.run().await;
    assert_eq!(queue.noted("freeze"), [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(queue.noted("release"), [(0, 3)]);
}

#[tokio::test(start_paused = true)]
async fn after_the_clock_was_set_a_lease_is_taken_only_once_its_holder_could_renew_it() {
    let day = SignedDuration::from_hours(24);
    for (change, is_jump) in [(SignedDuration::ZERO, false), (day, true), (-day, true)] {
        let began = Instant::now();
        let clock = PausedClock::shared();
        let watched = Arc::new(WatchedClock::new(clock.clone()));
        clock.advance(change);
        let queue = Queue::new([Some(1)]).run_by(watched).await;
        assert_eq!(queue.noted("freeze"), [(1, 1), (2, 1), (3, 1)]);
        let lease_ttl = Duration::from_secs(10);
        assert_eq!(began.elapsed() >= lease_ttl, is_jump, "{change}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn why_a_process_waits_is_logged_once() {
    const HELD: &str = "another process holds the lease";
    const SET: &str = "the clock was set;";
    let clock = PausedClock::shared();
    let watched = Arc::new(WatchedClock::new(clock.clone()));
    let (lines, queue) =
        logged(Queue::new([None, None, None, Some(1)]).run_by(clock.clone())).await;
    assert_eq!(count(&lines, HELD), 1, "{lines}");
    drop(queue);
    // The lease is held by another process, and later lost to one.
    let held_twice = Queue::new([None, Some(1), None, None, Some(2)]).run_by(clock.clone());
    let (lines, _) = logged(held_twice).await;
    assert_eq!((count(&lines, HELD), count(&lines, SET)), (2, 0), "{lines}");
    // After the wait for the clock, another process is found to hold the lease.
    clock.advance(SignedDuration::from_hours(24));
    let (lines, _) = logged(Queue::new([None, Some(1)]).run_by(watched)).await;
    assert_eq!((count(&lines, HELD), count(&lines, SET)), (1, 1), "{lines}");
}

/// Returns the log lines until the work is done, and its result.
async fn logged<T>(work: impl Future<Output = T>) -> (String, T) {
    let (sender, lines) = std::sync::mpsc::channel();
    let subscriber = tracing_subscriber::fmt().with_writer(move || Lines(sender.clone())).finish();
    let default = tracing::subscriber::set_default(subscriber);
    let worked = work.await;
    drop(default);
    (lines.try_iter().collect(), worked)
}

/// Sends everything that is written to it.
struct Lines(std::sync::mpsc::Sender<String>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn count(lines: &str, text: &str) -> usize {
    lines.matches(text).count()
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_not_taken_while_its_holder_is_seen_to_renew_it() {
    // The lease is refused at first. Then the clock of the database is set, and the lease would be granted.
    let renewed = (0..20).map(|second| ("other", second));
    for (holders, least_s, most_s) in [
        // A lease that is seen for the first time may have ended long ago.
        (vec![("other", 1)], 0, 5),
        (renewed.collect(), 19 / 2 + 10, 25),
        // The lease was granted to another process just now.
        (vec![("other", 1), ("third", 2)], 10, 15),
        (vec![("test", 1), ("test", 2)], 0, 5),
    ] {
        let began = Instant::now();
        let queue =
            Queue { holders: Mutex::new(holders.clone().into()), ..Queue::new([None, Some(1)]) };
        queue.run().await;
        let took = began.elapsed().as_secs();
        assert!((least_s..most_s).contains(&took), "{holders:?}: {took} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_was_late_loses_the_lease() {
    let ttl = Duration::from_secs(10);
    for (wait, is_lost) in [(Duration::from_secs(9), false), (ttl, true)] {
        let engine = Arc::new(Queue::new([Some(1)])).engine(PausedClock::shared());
        let Ok(Asked::Taken(mut held)) = engine.keeper.take().await else {
            panic!("nobody else has it")
        };
        sleep(wait).await;
        assert_eq!(engine.keeper.renew(&mut held).await.is_err(), is_lost, "{wait:?}");
        assert!(held.is_certain());
    }
}

/// A clock that goes on while the machine sleeps.
#[derive(Debug, Default)]
struct Sleeper(Mutex<Duration>);

impl crate::clock::Clock for Sleeper {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn with_sleep(&self) -> Option<Duration> {
        Some(*self.0.lock().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_doubtful_after_the_machine_slept() {
    let clock = Arc::new(Sleeper::default());
    let engine = Arc::new(Queue::new([Some(1)])).engine(clock.clone());
    let Ok(Asked::Taken(held)) = engine.keeper.take().await else { panic!("nobody else has it") };
    assert!(held.is_certain());
    *clock.0.lock().unwrap() = Duration::from_secs(10);
    assert!(!held.is_certain());
    held.doubt().await;
}

#[tokio::test(start_paused = true)]
async fn the_key_is_checked_only_under_a_lease_that_certainly_holds() {
    // (how long the rate delays the check, whether the check is made)
    for (wait, is_made) in [(5, true), (15, false)] {
        let engine = Arc::new(Queue::new([Some(1)])).engine(PausedClock::shared());
        let Ok(Asked::Taken(held)) = engine.keeper.take().await else {
            panic!("nobody else has it")
        };
        let slot = engine.stepper.client.pacer().slot().await;
        let wait = Duration::from_secs(wait);
        slot.answered(RateHeaders::default(), Some(Some(wait)));
        drop(slot);
        assert_eq!(engine.stepper.probe(&held).await.is_some(), is_made, "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn large_messages_take_their_turns_and_small_ones_do_not_wait_for_them() {
    let began = Instant::now();
    let running = Queue { is_large: true, ..Queue::new([Some(1)]) }.run();
    let queue = timeout(Duration::from_secs(60), running).await.expect("small ones wait");
    let large = |(seq, _): &(i64, i64)| *seq <= 40;
    let order: Vec<i64> =
        queue.noted("freeze").into_iter().filter(large).map(|(seq, _)| seq).collect();
    assert_eq!(order, Vec::from_iter(1..=40), "first come, first served");
    // Each large message is opened when it is found to be large, and again when there is room for it.
    let opened = queue.noted("open").into_iter().filter(large).count();
    assert_eq!(opened, LARGE_MAX + 2 * (40 - LARGE_MAX));
    let frozen = queue.noted("frozen");
    assert!(!frozen[..40].iter().any(large), "{frozen:?}");
    let waves = 40_u32.div_ceil(LARGE_MAX as u32);
    let late = began.elapsed().checked_sub(Duration::from_secs(waves.into()));
    assert!(late.is_some_and(|late| late < Duration::from_secs(3)), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_read_keeps_neither_a_renewal_nor_a_stop_waiting() {
    let began = Instant::now();
    let queue = Queue { is_slow: true, ..Queue::new([Some(1), Some(1), Some(1)]) }.run().await;
    assert_eq!(queue.noted("release"), [(0, 1)]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_its_lease_was_lost_an_engine_delivers_only_under_the_next() {
    // Another process has the lease when it should be renewed, or took it and gave it back in the meantime.
    for leases in [vec![Some(1), None, None, Some(2)], vec![Some(1), Some(2)]] {
        let queue = Queue::new(leases).run().await;
        assert_eq!(queue.noted("freeze"), [(1, 2), (2, 2), (3, 2)]);
        assert_eq!(queue.noted("release"), [(0, 2)]);
    }
    // The loss shows at a step, before the renewal.
    let leases = [Some(1), Some(1), Some(2)];
    let queue = Queue { fenced_below: 2, ..Queue::new(leases) }.run().await;
    assert_eq!(queue.noted("freeze"), [(1, 2), (2, 2), (3, 2)]);
    assert_eq!((queue.noted("set_aside"), queue.noted("release")), (vec![], vec![(0, 2)]));
    let opened = queue.noted("open").into_iter().filter(|(seq, _)| *seq == 1).count();
    assert_eq!(opened, 2, "the first refusal ends the work");
}
