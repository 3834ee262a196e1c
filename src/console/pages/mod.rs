//! The pages below `/console`: rendered by the server, and complete without a script.
//!
//! Anyone with a public write key can put text into messages, so a page may do no more than it needs to: the templates
//! escape, the policy in the headers allows no script but our own, and no page is cached.

mod assets;
mod editor;
mod erase;
mod erasures;
mod failures;
mod fields;
mod frame;
mod login;
mod message;
mod messages;
mod new_contacts;
mod now;
mod parts;
mod person;
mod render;
mod replay;
mod routes;
mod rows;
mod search;
mod sent;
mod settings;
mod subscriptions;
mod tail;
mod wish;

pub(super) use routes::router;
