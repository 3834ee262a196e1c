//! Loops' vocabulary and the client that speaks it. Knows nothing of messages, mappings or queues.
//!
//! One call of [`Client::send`] is one HTTP request and one attempt. Every call needs a [`Slot`] of the destination's
//! [`Pacer`], so no call can bypass the rate. Nothing is retried here: retries belong to the queue, because they must
//! survive a restart.

mod answer;
mod catalogue;
mod client;
mod contact;
mod options;
mod pacer;
mod request;
mod transport;
mod webhook;

pub use answer::{Answer, CallError, RateHeaders};
pub use catalogue::{ContactProperty, MailingList, PropertyType};
pub use client::{Client, Reply};
pub use contact::{FindBy, ReadError};
pub use options::{ClientError, ClientOptions};
pub use pacer::{Pacer, Slot};
pub use request::Request;
pub use transport::Call;
#[cfg(test)]
pub(crate) use transport::{RawAnswer, Transport};
pub use webhook::{SentWebhook, WebhookClient};
