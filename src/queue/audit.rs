//! The list of what people did: who changed something, or looked at contents, when, and with what result.

use async_trait::async_trait;
use jiff::Timestamp;

use super::error::Unavailable;
use super::replay::ReplayAsk;

/// Records what people do, and lists it.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Adds an entry, which is kept as long as records.
    async fn audit(&self, entry: &AuditEntry) -> Result<(), Unavailable>;

    /// Returns the latest entries, newest first: at most `limit`, older than the entry with the id `before` if given.
    async fn audit_list(
        &self,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, Unavailable>;
}

/// What a person did. Holds no personal data and no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When it was done.
    pub at: Timestamp,
    /// The rights of the person: `admin` or `viewer`; `command` for a command on the machine itself, `service` for what
    /// the configuration lets the program do by itself.
    pub role: String,
    /// The session or token that was used. Empty for a command.
    pub session: String,
    /// Name of the process that did it.
    pub process: String,
    /// What was done.
    pub action: AuditAction,
    /// What it was done to, as a JSON object.
    pub arguments: String,
    /// The result, as a sentence for people.
    pub result: String,
}

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its number; later entries have higher numbers.
    pub id: i64,
    /// The entry.
    pub entry: AuditEntry,
}

/// Actions of people that are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditAction {
    /// The configuration was loaded again.
    Reload,
    /// Messages were replayed.
    Replay,
    /// The contents of messages, or the ids of a person, were shown.
    ShowContents,
    /// Data was fetched from Loops and shown.
    AskLoops,
    /// The deletion of a person was requested.
    Erase,
    /// A contact property was created at Loops, or Loops refused to create it.
    CreateProperty,
    /// The queue was restored from a backup.
    Restore,
    /// More contacts than the cap allows may be created today.
    ReleaseContacts,
    /// Messages that were held were ended.
    DiscardHeld,
    /// Read from the store, but unknown to this release.
    Unknown,
}

/// The most characters of a name that are kept in arguments.
const NAME_CHARS_MAX: usize = 200;

/// Returns the arguments of a replay. They do not hold ids, only whether there are some, or how many.
pub fn replay_arguments(ask: &ReplayAsk) -> serde_json::Value {
    let selection = &ask.selection;
    let mut arguments = serde_json::Map::new();
    let mut put = |name: &str, value: serde_json::Value| {
        arguments.insert(name.to_owned(), value);
    };
    put("state", selection.state.as_str().into());
    if !selection.message_ids.is_empty() {
        put("messageIds", selection.message_ids.len().into());
    }
    let filter = &selection.filter;
    if !filter.persons.is_empty() {
        put("person", "<given>".into());
    }
    if let Some(kind) = filter.kind {
        put("type", kind.as_str().into());
    }
    if let Some(reason) = filter.reason {
        put("reason", reason.as_str().into());
    }
    for (name, value) in [
        ("destination", &filter.destination),
        ("source", &filter.source),
        ("event", &filter.event),
        ("subscription", &filter.subscription),
    ] {
        if let Some(value) = value {
            put(name, value.chars().take(NAME_CHARS_MAX).collect::<String>().into());
        }
    }
    for (name, time) in [("from", filter.from), ("to", filter.to)] {
        if let Some(time) = time {
            put(name, time.to_string().into());
        }
    }
    if ask.choice.is_some() {
        put("onlyChanged", true.into());
    }
    arguments.into()
}

impl AuditAction {
    /// Those that this release records.
    pub const ALL: [AuditAction; 9] = [
        AuditAction::Reload,
        AuditAction::Replay,
        AuditAction::ShowContents,
        AuditAction::AskLoops,
        AuditAction::Erase,
        AuditAction::CreateProperty,
        AuditAction::Restore,
        AuditAction::ReleaseContacts,
        AuditAction::DiscardHeld,
    ];

    /// Returns the name, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            AuditAction::Reload => "reload",
            AuditAction::Replay => "replay",
            AuditAction::ShowContents => "show_contents",
            AuditAction::AskLoops => "ask_loops",
            AuditAction::Erase => "erase",
            AuditAction::CreateProperty => "create_property",
            AuditAction::Restore => "restore",
            AuditAction::ReleaseContacts => "release_contacts",
            AuditAction::DiscardHeld => "discard_held",
            AuditAction::Unknown => "unknown",
        }
    }

    /// Parses the result of [`AuditAction::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Criteria, FailureReason, Filter, ReplayState, Selection};
    use crate::segment::Digests;

    #[test]
    fn arguments_of_a_replay_hold_no_ids() {
        let digests = Digests::new(&[0; 32]);
        let selection = Selection {
            state: ReplayState::Failed,
            message_ids: vec!["m1".to_owned(), "ada@example.com".to_owned()],
            filter: Filter {
                persons: digests.any_person("ada@example.com"),
                reason: Some(FailureReason::Refused),
                destination: Some("default".to_owned()),
                event: Some("Signed Up".to_owned()),
                subscription: Some("x".repeat(1_000)),
                from: Some(Timestamp::UNIX_EPOCH),
                ..Filter::default()
            },
        };
        let expected = serde_json::json!({
            "state": "failed", "messageIds": 2, "person": "<given>", "reason": "refused",
            "destination": "default", "event": "Signed Up", "subscription": "x".repeat(NAME_CHARS_MAX),
            "from": "1970-01-01T00:00:00Z",
        });
        let ask = |selection| ReplayAsk {
            selection,
            position: None,
            is_dry_run: false,
            choice: None,
            now: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(replay_arguments(&ask(selection)), expected);
        let all = Criteria { all_failed: true, ..Criteria::default() }.selection(&digests).unwrap();
        assert_eq!(replay_arguments(&ask(all)), serde_json::json!({"state": "failed"}));
    }
}
