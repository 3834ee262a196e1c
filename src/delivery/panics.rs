//! Counts tasks that panicked, so that a bug which one message triggers does not stop its lane for ever.
//!
//! A panic is a bug of this program, and it may have a passing cause. So the task is repeated, each time
//! after a longer wait and without neighbours, which may be to blame. A message that panics every time is
//! set aside.

use std::collections::HashMap;
use std::time::Duration;

use crate::queue::Seq;
use crate::segment::LaneKey;

/// A message is set aside after this many panics in a row.
const PANICS_MAX: u32 = 5;

/// The waits after a panic: each is twice as long as the one before.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The work of a task that may panic: a step of a message of this lane, or reading the lane (`None`).
pub(super) type Task = (LaneKey, Option<Seq>);

/// How many times in a row each task panicked.
#[derive(Debug, Default)]
pub(super) struct Panics {
    counts: HashMap<Task, u32>,
}

impl Panics {
    /// How many times in a row it panicked.
    pub(super) fn count(&self, task: Task) -> u32 {
        self.counts.get(&task).copied().unwrap_or_default()
    }

    /// If it panicked too often to be repeated, how many times.
    pub(super) fn too_many(&self, task: Task) -> Option<u32> {
        Some(self.count(task)).filter(|count| *count >= PANICS_MAX)
    }

    /// Notes that it panicked; returns how long its lane waits.
    pub(super) fn note(&mut self, task: Task) -> Duration {
        let count = self.counts.entry(task).or_default();
        *count = count.saturating_add(1);
        WAIT_MIN.saturating_mul(2_u32.saturating_pow(*count - 1)).min(WAIT_MAX)
    }

    /// Notes that it ended without a panic.
    pub(super) fn forget(&mut self, task: Task) {
        self.counts.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use jiff::Timestamp;
    use tokio::sync::watch;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::clock::Clock;
    use crate::delivery::lanes::tests::head;
    use crate::delivery::{Engine, EngineOptions, RetryOptions, Stop};
    use crate::destination::{Destination, DestinationOptions};
    use crate::loops::{Client, ClientOptions};
    use crate::queue::*;
    use crate::secret::Secret;

    #[test]
    fn waits_double_up_to_a_minute() {
        let mut panics = Panics::default();
        let task = (LaneKey(7), Some(Seq(1)));
        let waits: Vec<u64> = (0..40).map(|_| panics.note(task).as_secs()).collect();
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits[39], 60);
        assert_eq!((panics.count(task), panics.too_many(task)), (40, Some(40)));
        assert_eq!(panics.too_many((LaneKey(7), None)), None);
        panics.forget(task);
        assert_eq!(panics.count(task), 0);
    }

    /// A clock that goes with the paused time of the test.
    #[derive(Debug)]
    struct Paused(Instant);

    impl Clock for Paused {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH.checked_add(self.0.elapsed()).unwrap()
        }
    }

    /// The message that makes each step panic in which it is opened.
    const PANICS: Seq = Seq(2);

    /// Messages 1 to 3 of one lane, and more urgent messages of other lanes than the rate allows.
    struct Queue {
        arrivals: watch::Sender<u64>,
        log: Mutex<Vec<(&'static str, Seq)>>,
        stop: Stop,
    }

    impl Queue {
        fn note(&self, what: &'static str, seq: Seq) {
            self.log.lock().unwrap().push((what, seq));
        }

        fn noted(&self, what: &str) -> Vec<i64> {
            let log = self.log.lock().unwrap();
            log.iter().filter(|(kind, _)| *kind == what).map(|(_, seq)| seq.0).collect()
        }
    }

    #[async_trait]
    impl Work for Queue {
        async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable> {
            Ok(Some(Lease { destination: ask.destination, holder: ask.holder, token: 1 }))
        }

        async fn lease_holder(&self, _: &str) -> Result<Option<LeaseHolder>, Unavailable> {
            Ok(None)
        }

        async fn release(&self, _: &Lease) -> Result<(), WorkError> {
            Ok(())
        }

        async fn pending(
            &self,
            _: &str,
            ask: [PendingAsk; Class::COUNT],
        ) -> Result<[Vec<Head>; Class::COUNT], Unavailable> {
            let after = |class: Class| ask[class.index()].after.0;
            let bulk =
                (after(Class::Bulk) + 1..=3).map(|seq| Head { class: Class::Bulk, ..head(seq, 0) });
            let urgent = after(Class::Event).max(3) + 1;
            let urgent = (urgent..urgent + 200).map(|seq| head(seq, seq));
            Ok([urgent.collect(), vec![], bulk.collect()])
        }

        async fn of_lane(&self, _: &str, _: &LaneAsk) -> Result<LanePart, Unavailable> {
            Ok(LanePart { heads: vec![], through: None })
        }

        async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError> {
            self.note("opened", seq);
            assert_ne!(seq, PANICS, "as this test wants it");
            if seq > Seq(3) {
                sleep(Duration::from_millis(100)).await;
                return Ok(None);
            }
            let payload = format!(
                r#"{{"type":"identify","userId":"u","messageId":"m{}","traits":{{"n":1}}}}"#,
                seq.0
            );
            Ok(Some(Job {
                source: "web".to_owned(),
                message_id: format!("m{}", seq.0),
                received_at: Timestamp::UNIX_EPOCH,
                payload: payload.into(),
                is_planned: false,
                replay: Replay::default(),
                requests: vec![],
            }))
        }

        async fn freeze(
            &self,
            _: &Lease,
            merge: NewMerge,
        ) -> Result<Vec<FrozenRequest>, WorkError> {
            for (seq, _) in merge.plans {
                self.note("planned", seq);
            }
            if self.noted("planned").contains(&3) {
                self.stop.by(Instant::now());
            }
            Ok(vec![])
        }

        async fn settle(&self, _: &Lease, _: Settlement) -> Result<(), WorkError> {
            Err(WorkError::Fenced)
        }

        async fn set_aside(
            &self,
            _: &Lease,
            broken: BrokenMessage,
        ) -> Result<Option<String>, WorkError> {
            assert_eq!(broken.failure.reason, FailureReason::Unreadable);
            assert!(broken.failure.detail.contains("5 times"), "{}", broken.failure.detail);
            self.note("set aside", broken.seq);
            Ok(Some("m".to_owned()))
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
        let stop = Stop::default();
        let queue = Arc::new(Queue {
            arrivals: watch::channel(0).0,
            log: Mutex::default(),
            stop: stop.clone(),
        });
        let clock = Arc::new(Paused(Instant::now()));
        let destination = Destination::compile(
            &Destination::default_subscriptions(),
            DestinationOptions::default(),
        );
        let (_sender, destination) = watch::channel(Arc::new(destination.unwrap()));
        let client = ClientOptions {
            base_url: "http://127.0.0.1:9".to_owned(),
            api_key: Secret::new("key"),
            rate: Some(1),
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        };
        let client = Client::new(&client, clock.clone()).unwrap();
        let options = EngineOptions {
            holder: "test".to_owned(),
            lease_ttl: Duration::from_secs(10),
            requests_max: 100,
            retry: RetryOptions {
                min: Duration::from_secs(1),
                max: Duration::from_secs(1),
                window: Duration::from_secs(60),
            },
            grace: Duration::from_secs(1),
        };
        let work = Arc::clone(&queue) as Arc<dyn Work>;
        let engine = Engine::new("default".to_owned(), destination, client, work, clock, options);
        let began = Instant::now();
        engine.run(stop).await;
        assert_eq!(queue.noted("set aside"), [PANICS.0]);
        assert_eq!(queue.noted("planned"), [1, 3], "its neighbours go out");
        let opened = queue.noted("opened");
        let times = opened.iter().filter(|opened| **opened == PANICS.0).count();
        // Once more as the neighbour of 1.
        assert!((5..=6).contains(&times), "{times}");
        assert!(began.elapsed() >= Duration::from_secs(1 + 2 + 4 + 8), "{:?}", began.elapsed());
    }
}
