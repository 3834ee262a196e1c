//! The endpoints of senders: the label of each in logs and metrics, and the contract of its responses.

use super::error::Contract;
use crate::segment::MessageType;

/// An endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A single message of the type in the path. The short paths of analytics.js count as the long ones.
    Single(MessageType),
    /// A batch.
    Batch,
    /// A batch of a bulk load.
    Import,
    /// A batch at the root of the API, to which mobile SDKs with a proxy setting send.
    Root,
    /// A batch that a page sends as it unloads.
    Beacon,
    /// The settings that analytics.js fetches before it sends.
    Settings,
    /// analytics.js' own metrics.
    Metrics,
    /// Segment's Webhook destinations.
    Webhook,
    /// Segment's subscription destination.
    Destination,
    /// Loops' webhooks.
    Loops,
    /// An unknown path, or a method that its path does not have.
    Unknown(Contract),
}

impl Endpoint {
    /// Returns the pattern of its path; `unknown` for an unknown path.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Endpoint::Single(MessageType::Identify) => "/v1/identify",
            Endpoint::Single(MessageType::Track) => "/v1/track",
            Endpoint::Single(MessageType::Page) => "/v1/page",
            Endpoint::Single(MessageType::Screen) => "/v1/screen",
            Endpoint::Single(MessageType::Group) => "/v1/group",
            Endpoint::Single(MessageType::Alias) => "/v1/alias",
            Endpoint::Single(MessageType::Delete) => "/v1/delete",
            Endpoint::Batch => "/v1/batch",
            Endpoint::Import => "/v1/import",
            Endpoint::Root => "/v1",
            Endpoint::Beacon => "/beacon/v1/batch",
            Endpoint::Settings => "/v1/projects/{write_key}/settings",
            Endpoint::Metrics => "/v1/m",
            Endpoint::Webhook => "/webhook/{source}",
            Endpoint::Destination => "/destination",
            Endpoint::Loops => "/loops/{destination}",
            Endpoint::Unknown(_) => "unknown",
        }
    }

    /// Returns the endpoint at a path, for any method; `None` for operators' paths and unknown ones.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let one_segment = |rest: &str| !rest.is_empty() && !rest.contains('/');
        Some(match path {
            "/v1/identify" | "/v1/i" => Endpoint::Single(MessageType::Identify),
            "/v1/track" | "/v1/t" => Endpoint::Single(MessageType::Track),
            "/v1/page" | "/v1/p" => Endpoint::Single(MessageType::Page),
            "/v1/screen" | "/v1/s" => Endpoint::Single(MessageType::Screen),
            "/v1/group" | "/v1/g" => Endpoint::Single(MessageType::Group),
            "/v1/alias" | "/v1/a" => Endpoint::Single(MessageType::Alias),
            "/v1/batch" | "/v1/b" => Endpoint::Batch,
            "/v1/import" => Endpoint::Import,
            "/v1" => Endpoint::Root,
            "/v1/m" => Endpoint::Metrics,
            "/beacon/v1/batch" => Endpoint::Beacon,
            "/destination" => Endpoint::Destination,
            _ => {
                let between = |start, end| path.strip_prefix(start)?.strip_suffix(end);
                if between("/webhook/", "").is_some_and(one_segment) {
                    Endpoint::Webhook
                } else if between("/loops/", "").is_some_and(one_segment) {
                    Endpoint::Loops
                } else if between("/v1/projects/", "/settings").is_some_and(one_segment) {
                    Endpoint::Settings
                } else {
                    return None;
                }
            }
        })
    }

    /// Returns the contract that its responses follow.
    pub(super) fn contract(self) -> Contract {
        match self {
            Endpoint::Single(_)
            | Endpoint::Batch
            | Endpoint::Import
            | Endpoint::Root
            | Endpoint::Beacon
            | Endpoint::Settings
            | Endpoint::Metrics => Contract::Tracking,
            Endpoint::Webhook | Endpoint::Destination | Endpoint::Loops => Contract::Webhook,
            Endpoint::Unknown(contract) => contract,
        }
    }
}
