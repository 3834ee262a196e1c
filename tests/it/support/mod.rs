//! Building blocks of the tests: the running program, a scripted Loops, messages.

mod loops;
mod raw;
mod service;

pub use loops::{Reply, ScriptedLoops, Seen, serve_on_loopback};
pub use raw::{End, RawLoops, RawReply};
pub use service::{Answer, Ran, Service, Setup, signal};

use std::time::Duration;

/// The time after which a test that waits for something fails. It is not a measurement, and only keeps a broken program
/// from hanging the tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The write key of the default source in tests.
pub const WRITE_KEY: &str = "wk-canary-7f3a";
/// The API key of the default destination in tests.
pub const API_KEY: &str = "api-canary-91bc";
/// The webhook secret of the default source in tests.
pub const WEBHOOK_SECRET: &str = "secret-canary-55d0";
/// The admin token in tests.
pub const ADMIN_TOKEN: &str = "admin-canary-c2e8";
/// The domain of all email addresses in tests. No log line may contain it.
pub const EMAIL_DOMAIN: &str = "canary-mail.example";

/// An identify of a person.
pub fn identify(user: &str, message: &str) -> serde_json::Value {
    serde_json::json!({
        "type": "identify", "userId": user, "messageId": message,
        "traits": {"email": format!("{user}@{EMAIL_DOMAIN}"), "note": message}
    })
}

/// A track of a person.
pub fn track(user: &str, message: &str) -> serde_json::Value {
    serde_json::json!({
        "type": "track", "userId": user, "messageId": message, "event": "Tested",
        "properties": {"note": message}
    })
}
