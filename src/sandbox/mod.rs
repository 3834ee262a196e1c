//! The sandbox: a simulated Loops, entirely in memory, for development, demonstrations and tests.
//!
//! It keeps Loops' published contract (its OpenAPI document) under [`API_BASE`]: contacts, contact properties, mailing
//! lists, events, idempotency keys for 24 hours, and the rate with its headers. Under `/sandbox` it has a control API
//! of its own, without a key, that shows what arrived and can make the simulated Loops slow, fail requests or drop
//! connections ([`Faults`]). It is a test tool and must never be reachable from outside.
//!
//! Where the contract leaves something open, the sandbox decides:
//!
//! * One sandbox is one team: all keys share its contacts and its rate.
//! * `email` and `userId` that are `null` or empty count as missing. E-mail addresses are compared case-insensitively.
//! * If `email` and `userId` belong to two different contacts, update and events respond with 400 (their contract has
//!   no 409 for that), and create with 409.
//! * Mailing lists that the team does not have are accepted and kept with the contact.
//! * A property that is seen for the first time becomes known with the type of its value. A later value of another type
//!   is accepted. A `null` clears a property, and does not make one known.
//! * Where Loops' documentation says more than its OpenAPI document, the documentation applies: a `userId` that no
//!   contact has needs an `email` beside it, names of events contain no colon, event properties are strings, numbers
//!   and booleans (not `null`, and nothing nested), and strings have at most 500 characters.
//! * Each refusal has a line in the log that says which rule was broken, with no value of the request.
//! * A used idempotency key gets 409 before the body is read.
//! * With a URL ([`Sandbox::send_webhooks`]), it sends webhooks: each event triggers a mail, which is sent and
//!   delivered; a mail to an address with `+bounce`, `+softbounce`, `+spam`, `+open`, `+click`, `+unsubscribe` or
//!   `+resubscribe` meets that fate.
//! * Requests with a wrong key get 401 and do not count towards the rate.

mod answer;
mod api;
mod audience;
mod contact;
mod control;
mod faults;
mod fields;
mod gate;
mod keys;
mod properties;
mod rate;
mod ring;
mod routes;
mod state;
mod team;
#[cfg(test)]
mod tests;
mod webhooks;

pub use faults::{Faults, FaultsError};
pub use state::{Counts, InjectedFault, SeenEvent, SeenRequest};
pub use team::{API_BASE, Sandbox, SandboxOptions};
pub use webhooks::{SandboxWebhookError, WebhookTarget};
