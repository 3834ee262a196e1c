//! The sandbox: a simulated Loops, all in memory, for development, demonstration and tests.
//!
//! It keeps Loops' published contract (its OpenAPI document) under [`API_BASE`]: contacts, contact
//! properties, mailing lists, events, idempotency keys for 24 hours, and the rate with its headers.
//! Under `/sandbox` it has a control API of its own, without a key, that shows what arrived and
//! makes the simulated Loops slow, failing or rude ([`Faults`]). It must never be reachable from
//! outside: it is a test tool.
//!
//! What the contract leaves open, the sandbox decides like this:
//!
//! * One sandbox is one team: all keys share its contacts and its rate.
//! * `email` and `userId` that are `null` or empty count as missing. E-mail addresses are compared
//!   without regard to case.
//! * `email` and `userId` of two different contacts: 400 from update and from events (their
//!   contract has no 409 for that), 409 from create.
//! * Mailing lists that the team does not have are accepted and kept with the contact.
//! * A property seen for the first time becomes known with the type of its value; a later value of
//!   another type is accepted. A `null` clears a property and makes none known.
//! * Where Loops' documentation says more than its OpenAPI document, the documentation holds: a
//!   `userId` that no contact has needs an `email` beside it, names of events hold no colon, event
//!   properties are strings, numbers and booleans (no `null`, nothing nested), and strings have at
//!   most 500 characters.
//! * Each refusal has a line in the log that says which rule was broken, with no value of the request.
//! * A used idempotency key is answered with 409 before the body is looked at.
//! * With a URL ([`Sandbox::send_webhooks`]), it sends webhooks: each event triggers a mail, which is sent
//!   and delivered; one to an address with `+bounce`, `+softbounce`, `+spam`, `+open`, `+click`, `+unsubscribe` or
//!   `+resubscribe` meets that fate.
//! * Requests with a wrong key are answered with 401 and use up nothing of the rate.

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
