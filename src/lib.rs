//! segment-loops: a self-hosted, Segment-compatible destination for Loops.
//!
//! Messages flow in one direction, and so do the modules: [`http`] takes a message in, [`segment`] decodes and stamps
//! it, [`queue`] says what must be kept ([`store`] keeps it), [`delivery`] picks it up, [`destination`] (with
//! [`trigger`] and [`mapping`]) plans its requests, and [`loops`] sends them. [`action`] has the words that these
//! share, [`js`] the values that messages are made of, with JavaScript's rules for them, and [`large`] the turns in
//! which large messages are decoded. What Loops reports comes back through [`http`] and [`feedback`]; [`alerts`]
//! decides when people must be told. Around them stand [`config`], [`console`], [`sandbox`], [`telemetry`] and the
//! composition root [`app`], called by [`cli`]. [`secret`] has values that are never printed, and [`crash`] the points
//! at which tests kill the program.
//!
//! What always holds: an acknowledged message is on stable storage; requests of one order key reach Loops in the order
//! of acceptance; a request that was tried never changes; only [`clock`] reads the time, and only [`config`] the
//! environment.

pub mod action;
pub mod alerts;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod crash;
pub mod delivery;
pub mod destination;
pub mod feedback;
pub mod http;
pub mod js;
pub mod large;
pub mod loops;
pub mod mapping;
pub mod queue;
pub mod sandbox;
pub mod secret;
pub mod segment;
#[cfg(test)]
mod simulation;
pub mod store;
pub mod telemetry;
pub mod trigger;
