//! The sources that may send, and how one is found by what a request brings.

use std::collections::HashSet;

use crate::secret::Secret;
use crate::segment::MessageType;

/// A source of messages.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, part of its webhook's path.
    pub name: String,
    /// The name of the destination that it delivers to.
    pub destination: String,
    /// The keys that its senders know.
    pub write_keys: Vec<Secret>,
    /// Shared secret of its webhook.
    pub webhook_secret: Option<Secret>,
    /// Token that its webhook must send.
    pub webhook_token: Option<Secret>,
    /// The types of message that some subscription of its destination can use.
    pub usable: HashSet<MessageType>,
}

/// All sources.
#[derive(Debug, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Takes them together.
    pub fn new(sources: Vec<Source>) -> Self {
        Self(sources)
    }

    /// The source with this name.
    pub fn by_name(&self, name: &str) -> Option<&Source> {
        self.0.iter().find(|source| source.name == name)
    }

    /// The source that knows this write key. All keys are compared, each in constant time.
    pub fn by_write_key(&self, write_key: &str) -> Option<&Source> {
        let knowing = |source: &&Source| source.knows(write_key);
        self.0.iter().fold(None, |found, source| found.or(Some(source).filter(knowing)))
    }
}

impl Source {
    /// Whether `write_key` is one of its keys.
    pub fn knows(&self, write_key: &str) -> bool {
        let given = write_key.as_bytes();
        self.write_keys.iter().fold(false, |known, secret| known | secret.matches(given))
    }
}
