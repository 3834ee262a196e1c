//! Alerts by webhook, for installations that nothing else watches: their topics, when one is due, and its text. Pure:
//! the app looks and sends.
//!
//! An alert names a destination, a source or a process, never a person.

mod judge;
mod message;
mod state;

pub use judge::{Judged, SourceWatch, View, judge};
pub use message::{Format, Message};
pub use state::{Alert, Alerts};

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Nothing is sent to a destination: Loops refuses its key, or there is no Loops at its base URL.
    DestinationPaused,
    /// The destination is no longer paused.
    DestinationResumed,
    /// A process cannot store messages.
    StoreNotReady,
    /// The process can store messages again.
    StoreReady,
    /// Events of a destination have waited for a long time.
    QueueOld,
    /// Messages of a destination are held because they would create too many contacts.
    NewContactsHeld,
    /// Many deliveries of a destination fail.
    FailuresRate,
    /// Deliveries of a destination were too late to be sent.
    Expired,
    /// Little space is left on the disk of a process.
    DiskLow,
    /// A source has sent nothing for a long time.
    SourceSilent,
    /// Somebody is testing whether alerts arrive.
    Test,
}

impl Topic {
    /// All topics.
    pub const ALL: [Topic; 11] = [
        Topic::DestinationPaused,
        Topic::DestinationResumed,
        Topic::StoreNotReady,
        Topic::StoreReady,
        Topic::QueueOld,
        Topic::NewContactsHeld,
        Topic::FailuresRate,
        Topic::Expired,
        Topic::DiskLow,
        Topic::SourceSilent,
        Topic::Test,
    ];

    /// Returns the name of the topic, as alerts carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Topic::DestinationPaused => "destination.paused",
            Topic::DestinationResumed => "destination.resumed",
            Topic::StoreNotReady => "store.not_ready",
            Topic::StoreReady => "store.ready",
            Topic::QueueOld => "queue.old",
            Topic::NewContactsHeld => "new_contacts.held",
            Topic::FailuresRate => "failures.rate",
            Topic::Expired => "expired",
            Topic::DiskLow => "disk.low",
            Topic::SourceSilent => "source.silent",
            Topic::Test => "test",
        }
    }

    /// Returns the topic that announces the end of this one; `None` if the end is not worth an alert.
    fn end(self) -> Option<Topic> {
        match self {
            Topic::DestinationPaused => Some(Topic::DestinationResumed),
            Topic::StoreNotReady => Some(Topic::StoreReady),
            Topic::DestinationResumed
            | Topic::StoreReady
            | Topic::QueueOld
            | Topic::NewContactsHeld
            | Topic::FailuresRate
            | Topic::Expired
            | Topic::DiskLow
            | Topic::SourceSilent
            | Topic::Test => None,
        }
    }

    /// Returns the page of the console that shows more.
    fn page(self) -> &'static str {
        match self {
            Topic::FailuresRate | Topic::Expired => "/console/failures",
            Topic::SourceSilent => "/console/messages",
            Topic::DestinationPaused
            | Topic::DestinationResumed
            | Topic::StoreNotReady
            | Topic::StoreReady
            | Topic::QueueOld
            | Topic::NewContactsHeld
            | Topic::DiskLow
            | Topic::Test => "/console",
        }
    }
}

/// What an alert names: never a person.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A destination.
    Destination(String),
    /// A source.
    Source(String),
    /// The machine or container of a process.
    Host(String),
}
