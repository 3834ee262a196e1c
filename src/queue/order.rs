//! The numbers of messages and requests, and how urgent a message is.

use crate::segment::MessageType;

/// The sequence number of a message, in the order of acceptance. Starts at 1; 0 stands before all messages.
///
/// ```
/// use segment_loops::queue::{PendingAsk, Seq};
///
/// let heads = [Seq(7), Seq(3), Seq(12)];
/// assert_eq!(heads.into_iter().min(), Some(Seq(3)));
/// // Reading from the beginning means reading behind this one.
/// assert_eq!(PendingAsk::default().after, Seq(0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub i64);

/// The number of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub i64);

/// The urgency of a message. Messages that a person waits for go before bulk loads.
///
/// ```
/// use segment_loops::queue::Class;
/// use segment_loops::segment::MessageType;
///
/// assert_eq!(Class::of_live(MessageType::Track), Class::Event);
/// assert_eq!(Class::of_live(MessageType::Identify), Class::Live);
/// // The most urgent first.
/// assert!(Class::ALL.is_sorted() && Class::Event < Class::Bulk);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Messages that may trigger a mail: tracks, pages, screens and the like.
    Event,
    /// Live traffic that only changes a contact.
    Live,
    /// `/v1/import` and the `import` command.
    Bulk,
}

impl Class {
    /// The number of classes.
    pub const COUNT: usize = 3;

    /// All classes, the most urgent first.
    pub const ALL: [Class; Self::COUNT] = [Class::Event, Class::Live, Class::Bulk];

    /// Returns the class of a live message of this kind.
    pub fn of_live(kind: MessageType) -> Self {
        match kind {
            MessageType::Identify | MessageType::Delete => Class::Live,
            MessageType::Track
            | MessageType::Page
            | MessageType::Screen
            | MessageType::Group
            | MessageType::Alias => Class::Event,
        }
    }

    /// Returns the name, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Event => "event",
            Class::Live => "live",
            Class::Bulk => "bulk",
        }
    }

    /// Returns the index in [`Class::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the code that is stored.
    pub fn code(self) -> i64 {
        self as i64
    }

    /// Reads [`Class::code`]. An unknown code, of a later release, counts as bulk.
    pub fn from_code(code: i64) -> Self {
        match code {
            0 => Class::Event,
            1 => Class::Live,
            _ => Class::Bulk,
        }
    }
}
