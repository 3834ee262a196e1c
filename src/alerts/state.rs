//! Remembers the alerts that were sent, so that each problem is announced once, and not again too soon.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Judged, Subject, Topic};

/// An alert to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// The topic.
    pub topic: Topic,
    /// What it names.
    pub subject: Subject,
    /// The text for people.
    pub text: String,
    /// When the problem, or its end, was noticed.
    pub at: Timestamp,
}

/// The alerts that a process has sent.
#[derive(Debug)]
pub struct Alerts {
    /// The least time between two alerts about the same problem.
    interval: Duration,
    problems: BTreeMap<(Topic, Subject), Known>,
}

/// A problem that exists, or existed a short while ago.
#[derive(Debug, Default)]
struct Known {
    /// When its beginning was last announced.
    said_at: Option<Instant>,
    /// Whether its beginning was announced, but not its end.
    is_said: bool,
}

impl Alerts {
    /// Starts with nothing announced.
    pub fn new(interval: Duration) -> Self {
        Self { interval, problems: BTreeMap::new() }
    }

    /// Returns the alerts to send now. A problem is announced once. If it comes back, it is announced again after the
    /// interval, provided it still exists. What was not judged stays as it was.
    pub fn update(&mut self, judged: Vec<Judged>, now: Instant, at: Timestamp) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for Judged { topic, subject, problem } in judged {
            let known = self.problems.entry((topic, subject.clone())).or_default();
            let is_soon = known.said_at.is_some_and(|said| now - said < self.interval);
            match problem {
                Some(text) if !known.is_said && !is_soon => {
                    *known = Known { said_at: Some(now), is_said: true };
                    alerts.push(Alert { topic, subject, text, at });
                }
                None if known.is_said => {
                    known.is_said = false;
                    if let Some(topic) = topic.end() {
                        let text = over(&subject, topic);
                        alerts.push(Alert { topic, subject, text, at });
                    }
                }
                Some(_) | None => {}
            }
        }
        alerts
    }

    /// Forgets the problems of destinations that other processes deliver to now: they send the alerts that follow.
    pub fn keep_destinations(&mut self, is_ours: impl Fn(&str) -> bool) {
        self.problems.retain(|(_, subject), _| match subject {
            Subject::Destination(name) => is_ours(name),
            Subject::Source(_) | Subject::Host(_) => true,
        });
    }
}

fn over(subject: &Subject, topic: Topic) -> String {
    match (subject, topic) {
        (Subject::Destination(name), _) => format!("the destination {name} is delivered to again"),
        (Subject::Host(name), _) => format!("{name} can store messages again"),
        (Subject::Source(name), _) => format!("messages come from the source {name} again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(topic: Topic, is_wrong: bool) -> Vec<Judged> {
        let subject = Subject::Destination("default".to_owned());
        vec![Judged { topic, subject, problem: is_wrong.then(|| "wrong".to_owned()) }]
    }

    #[tokio::test(start_paused = true)]
    async fn a_problem_is_said_once_and_its_end_if_that_matters() {
        let mut alerts = Alerts::new(Duration::from_secs(900));
        let begin = Instant::now();
        let mut said = |topic, is_wrong, seconds| {
            let now = begin + Duration::from_secs(seconds);
            let alerts = alerts.update(judged(topic, is_wrong), now, Timestamp::UNIX_EPOCH);
            alerts.into_iter().map(|alert| alert.topic).collect::<Vec<_>>()
        };
        let paused = Topic::DestinationPaused;
        assert_eq!(said(paused, false, 0), []);
        assert_eq!(said(paused, true, 10), [paused]);
        assert_eq!(said(paused, true, 2_000), []);
        assert_eq!(said(paused, false, 2_005), [Topic::DestinationResumed]);
        assert_eq!(said(paused, false, 2_010), []);
        assert_eq!(said(paused, true, 2_015), [paused]);
        assert_eq!(said(paused, false, 2_020), [Topic::DestinationResumed]);
        // The problem comes back too soon, so it is announced once the interval has passed.
        assert_eq!(said(paused, true, 2_025), []);
        assert_eq!(said(paused, false, 2_030), [], "its return was not said");
        assert_eq!(said(paused, true, 2_914), []);
        assert_eq!(said(paused, true, 2_915), [paused]);
        let old = Topic::QueueOld;
        assert_eq!(said(old, true, 3_000), [old]);
        assert_eq!(said(old, false, 3_005), []);
        assert_eq!(said(old, true, 3_010), []);
    }

    #[tokio::test(start_paused = true)]
    async fn of_what_others_deliver_nothing_is_said() {
        let mut alerts = Alerts::new(Duration::from_secs(900));
        let (now, at) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let paused = Topic::DestinationPaused;
        assert_eq!(alerts.update(judged(paused, true), now, at).len(), 1);
        // Nothing is known about the problem: neither that it persists nor that it is over.
        assert_eq!(alerts.update(vec![], now, at), []);
        alerts.keep_destinations(|name| name == "default");
        assert_eq!(alerts.update(judged(paused, true), now, at), []);
        alerts.keep_destinations(|_| false);
        assert_eq!(alerts.update(judged(paused, false), now, at), []);
    }
}
